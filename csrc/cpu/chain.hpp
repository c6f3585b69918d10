// Nodes of a graph that are computed as one, because each is the only one that reads the result before it: a norm with its
// scale, shift and SiLU, a convolution with its bias and ReLU. Only the last one's result is written.
#pragma once

#include <algorithm>
#include <iterator>

#include "ggml-impl.h"
#include "ggml.h"

namespace sdcffi {

// Of no tensor, null.
inline const float* data_of(const ggml_tensor* tensor) {
    return tensor != nullptr ? static_cast<const float*>(tensor->data) : nullptr;
}

struct Chain {
    const ggml_tensor *first = nullptr, *last = nullptr;
    const ggml_tensor *scale = nullptr, *shift = nullptr;  // a number for each plane, or for each element of a row
    bool silu = false;
    float slope = 1.0f;  // what negative results are multiplied by
    int more = 0;        // nodes after the first, also those that compute nothing

    // Makes a node the last one, if what it computes goes with the first.
    bool take(const ggml_tensor* node) {
        const bool image = first->op == GGML_OP_CONV_2D, rows = first->op == GGML_OP_NORM || first->op == GGML_OP_RMS_NORM;
        if (silu || slope != 1.0f) return false;
        if (node->op == GGML_OP_MUL && !image && scale == nullptr && shift == nullptr && fits(node->src[1], rows)) {
            scale = node->src[1];
        } else if (node->op == GGML_OP_ADD && shift == nullptr && (!rows || scale != nullptr) && fits(node->src[1], rows)) {
            shift = node->src[1];
        } else if (is_unary(node, GGML_UNARY_OP_SILU) && first->op == GGML_OP_GROUP_NORM) {
            silu = true;
        } else if (is_unary(node, GGML_UNARY_OP_RELU) && image) {
            slope = 0.0f;
        } else if (node->op == GGML_OP_LEAKY_RELU && image) {
            const float given = ggml_get_op_params_f32(node, 0);
            if (!(given > 0.0f && given < 1.0f)) return false;
            slope = given;
        } else {
            return false;
        }
        last = node;
        return true;
    }

private:
    static bool is_unary(const ggml_tensor* node, ggml_unary_op which) {
        return node->op == GGML_OP_UNARY && ggml_get_unary_op(node) == which;
    }

    // Whether a tensor has a number for each element of a row, or for each plane.
    bool fits(const ggml_tensor* tensor, bool rows) const {
        const int dimension = rows ? 0 : 2;
        return tensor->type == GGML_TYPE_F32 && tensor->nb[dimension] == sizeof(float) &&
               tensor->ne[dimension] == first->ne[dimension] && ggml_nelements(tensor) == tensor->ne[dimension];
    }
};

inline bool overlap(const ggml_tensor* a, const ggml_tensor* b) {
    const char *from = static_cast<const char*>(a->data), *other = static_cast<const char*>(b->data);
    return from < other + ggml_nbytes(b) && other < from + ggml_nbytes(a);
}

// Whether the chain would write over what it reads, if it ended with this node. That is needed no more when the node itself
// is computed, so its memory may be the node's.
inline bool would_overwrite(const Chain& chain, const ggml_tensor* node) {
    if (node->data == chain.first->data) return false;  // which was found while all of it was needed
    const ggml_tensor* read[] = {chain.first->src[0], chain.first->src[1], chain.scale, chain.shift};
    return std::any_of(std::begin(read), std::end(read), [&](const ggml_tensor* tensor) { return tensor != nullptr && overlap(node, tensor); });
}

// Whether nobody but the next node of a chain sees this one's result.
inline bool is_read_once(const ggml_cgraph* graph, const Chain& chain, int i) {
    const ggml_tensor* node = graph->nodes[i];
    return ggml_node_get_use_count(graph, i) == 1 && !(node->flags & GGML_TENSOR_FLAG_OUTPUT) &&
           (node->view_src == nullptr || node->view_src == chain.first);
}

// The chain that begins with node i, as long as it can be.
inline Chain chain_from(const ggml_cgraph* graph, int i) {
    Chain chain{graph->nodes[i], graph->nodes[i]};
    for (int at = i, next = i + 1; next < graph->n_nodes && is_read_once(graph, chain, at); at = next++) {
        while (next < graph->n_nodes && ggml_op_is_empty(graph->nodes[next]->op)) next++;
        if (next == graph->n_nodes) break;
        const ggml_tensor* node = graph->nodes[next];
        if (node->src[0] != chain.last || !(node->flags & GGML_TENSOR_FLAG_COMPUTE) || node->type != GGML_TYPE_F32 ||
            !ggml_are_same_shape(node, chain.first) || !ggml_is_contiguous(node) || would_overwrite(chain, node) || !chain.take(node)) {
            break;
        }
        chain.more = next - i;
    }
    return chain;
}

}  // namespace sdcffi
