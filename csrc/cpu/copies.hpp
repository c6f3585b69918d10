// Operations that only move floats: transpositions, concatenations, enlarging by whole factors.
#pragma once

#include <cstring>

#include "ggml.h"
#include "rows.hpp"
#include "sharing.hpp"

namespace sdcffi {

inline bool has_floats_in_rows(const ggml_tensor* tensor) {
    return tensor->type == GGML_TYPE_F32 && tensor->nb[0] == sizeof(float);
}

// The dimension of a permuted tensor whose elements follow each other; 0 if it is the first or none.
inline int dense_dimension(const ggml_tensor* tensor) {
    for (int i = 0; i < GGML_MAX_DIMS; i++) {
        if (tensor->nb[i] == sizeof(float) && tensor->ne[i] > 1) return i;
    }
    return 0;
}

// A copy whose rows are columns of the source.
inline bool is_our_transposition(const ggml_tensor* node) {
    const ggml_tensor* from = node->src[0];
    return node->type == GGML_TYPE_F32 && from->type == GGML_TYPE_F32 && ggml_is_contiguous(node) &&
           ggml_are_same_shape(node, from) && dense_dimension(from) != 0 && node->ne[0] >= kBlock &&
           node->ne[dense_dimension(from)] >= kBlock;
}

inline void transpose(const ggml_compute_params* params, const ggml_tensor* node) {
    constexpr int64_t kColumns = 16;  // of the source, a line of the cache
    const ggml_tensor* from = node->src[0];
    const int dense = dense_dimension(from), a = dense == 1 ? 2 : 1, b = dense == 3 ? 2 : 3;
    const int64_t rows = node->ne[0], strips = (node->ne[dense] + kColumns - 1) / kColumns;
    const size_t stride = node->nb[dense] / sizeof(float);
    share_rows(params, strips * node->ne[a] * node->ne[b], rows * kColumns, [&](int64_t first, int64_t end) {
        for (int64_t i = first; i < end; i++) {
            const int64_t column = i % strips * kColumns, ia = i / strips % node->ne[a], ib = i / strips / node->ne[a];
            const int64_t some = std::min(kColumns, node->ne[dense] - column);
            const char* x = static_cast<const char*>(from->data) + ia * from->nb[a] + ib * from->nb[b] + column * sizeof(float);
            float* to = reinterpret_cast<float*>(static_cast<char*>(node->data) + ia * node->nb[a] + ib * node->nb[b]) + column * stride;
            for (int64_t row = 0; row < rows; row += kBlock) {
                const float* block[kBlock];
                const int64_t here = std::min<int64_t>(kBlock, rows - row);
                for (int64_t n = 0; n < here; n++) block[n] = reinterpret_cast<const float*>(x + (row + n) * from->nb[0]);
                int64_t k = 0;
                if (here == kBlock) {
                    for (; k + kBlock <= some; k += kBlock) transpose_block(block, int(k), to + k * stride + row, int(stride));
                }
                for (; k < some; k++) {
                    for (int64_t n = 0; n < here; n++) to[k * stride + row + n] = block[n][k];
                }
            }
        }
    });
}

inline bool is_our_concatenation(const ggml_tensor* node) {
    return has_floats_in_rows(node) && has_floats_in_rows(node->src[0]) && has_floats_in_rows(node->src[1]);
}

inline void concatenate(const ggml_compute_params* params, const ggml_tensor* node) {
    const ggml_tensor *left = node->src[0], *right = node->src[1];
    const int along = node->op_params[0];
    share_rows(params, ggml_nrows(node), node->ne[0], [&](int64_t first, int64_t end) {
        for (int64_t i = first; i < end; i++) {
            char* to = row_at(node, node, i);
            if (along == 0) {
                const size_t size = left->ne[0] * sizeof(float);
                std::memcpy(to, row_at(left, node, i), size);
                std::memcpy(to + size, row_at(right, node, i), right->ne[0] * sizeof(float));
                continue;
            }
            const int64_t at[] = {0, i % node->ne[1], i / node->ne[1] % node->ne[2], i / (node->ne[1] * node->ne[2])};
            const bool beyond = at[along] >= left->ne[along];
            const char* from = row_at(beyond ? right : left, node, i);
            std::memcpy(to, beyond ? from - left->ne[along] * right->nb[along] : from, node->ne[0] * sizeof(float));
        }
    });
}

// Repeats each pixel.
inline bool is_our_enlargement(const ggml_tensor* node) {
    const ggml_tensor* from = node->src[0];
    return node->op_params[0] == GGML_SCALE_MODE_NEAREST && has_floats_in_rows(node) && has_floats_in_rows(from) &&
           node->ne[0] % from->ne[0] == 0 && node->ne[1] % from->ne[1] == 0 && node->ne[2] == from->ne[2] && node->ne[3] == from->ne[3];
}

inline void enlarge(const ggml_compute_params* params, const ggml_tensor* node) {
    const ggml_tensor* from = node->src[0];
    const int64_t across = node->ne[0] / from->ne[0], down = node->ne[1] / from->ne[1];
    share_rows(params, ggml_nrows(from), node->ne[0] * down, [&](int64_t first, int64_t end) {
        for (int64_t i = first; i < end; i++) {
            const float* x = reinterpret_cast<const float*>(row_at(from, from, i));
            const int64_t plane = i / from->ne[1];
            char* line = row_at(node, node, plane * node->ne[1] + i % from->ne[1] * down);
            float* to  = reinterpret_cast<float*>(line);
            if (across == 2) {
                for (int64_t j = 0; j < from->ne[0]; j++) to[2 * j] = to[2 * j + 1] = x[j];
            } else {
                for (int64_t j = 0; j < from->ne[0]; j++, to += across) std::fill(to, to + across, x[j]);
            }
            for (int64_t n = 1; n < down; n++) std::memcpy(line + n * node->nb[1], line, node->ne[0] * sizeof(float));
        }
    });
}

}  // namespace sdcffi
