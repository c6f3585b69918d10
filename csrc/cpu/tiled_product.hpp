// A product of matrices in tiles, for the CPU backend: c[row][column] = sum over k of a[row][k] * b[k][column].
//
//     for each task (rows x columns of c; a thread that is free takes the next)
//         for each kDepth of k
//             pack a into strips of kTileRows rows, [k][kTileRows]
//             for each kTileColumns columns
//                 pack b into a strip, [k][kTileColumns]
//                 for each strip of a: one tile in registers
//
// The problem says what a and b are: weights of any type, the pixels under a kernel. The order of each sum does not
// depend on the tasks, so the result is the same, bit for bit, for any number of threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "ggml-cpu-impl.h"
#include "simd.hpp"

namespace sdcffi {

constexpr int kDepth          = 256;   // of k, a multiple of every quantised type's block
constexpr int kMostRows       = 512;   // of a task: once packed, they stay in the second-level cache
constexpr int kMostColumns    = 1024;  // of a task: they share the packed rows
constexpr int kTasksPerThread = 4;     // a thread that loses its core then delays the others little

constexpr int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

constexpr size_t kPackedRows = size_t(kDepth) * round_up(kMostRows, kTileRows), kPackedStrip = size_t(kDepth) * kTileColumns;

// Floats that each thread needs: packed rows, a packed strip, and a strip of converted rows.
constexpr size_t kThreadFloats = kPackedRows + kPackedStrip + size_t(kDepth) * std::max(kTileRows, kTileColumns);

// to[k * strip + i] = rows[i][k]; what is beyond `count` may be anything: its sums are discarded. A block that is wider than
// the strip writes beyond its rows, over what is written next, and over a few values behind the strip.
inline void interleave(const float* const* rows, int count, int strip, int depth, float* to) {
    for (int first = 0; first < count; first += kBlock) {
        const float* block[kBlock];
        for (int i = 0; i < kBlock; i++) block[i] = rows[std::min(first + i, count - 1)];
        int k = 0;
        for (; k + kBlock <= depth; k += kBlock) transpose_block(block, k, to + k * strip + first, strip);
        for (; k < depth; k++) {
            for (int i = 0; i < std::min(kBlock, strip - first); i++) to[k * strip + first + i] = block[i][k];
        }
    }
    for (int i = int(round_up(count, kBlock)); i < strip; i++) {
        for (int k = 0; k < depth; k++) to[k * strip + i] = 0.0f;
    }
}

// Computes one tile of c, `vectors` wide; a and b are strips. Values outside of c are computed and discarded.
template <int vectors>
inline void multiply_tile(const float* a, const float* b, int depth, float* c, size_t stride, int rows, int columns, bool sum) {
    Vector total[kTileRows][vectors];
    SDCFFI_UNROLLED
    for (int i = 0; i < kTileRows; i++) {
        const float zero = 0.0f;
        SDCFFI_UNROLLED
        for (int j = 0; j < vectors; j++) total[i][j] = broadcast(&zero);
    }
    for (int k = 0; k < depth; k++) {
        Vector right[vectors];
        SDCFFI_UNROLLED
        for (int j = 0; j < vectors; j++) right[j] = load(b + j * kWidth);
        SDCFFI_UNROLLED
        for (int i = 0; i < kTileRows; i++) {
            const Vector left = broadcast(a + i);
            SDCFFI_UNROLLED
            for (int j = 0; j < vectors; j++) total[i][j] = multiply_add(left, right[j], total[i][j]);
        }
        a += kTileRows;
        b += vectors * kWidth;
    }
    if (rows == kTileRows && columns == vectors * kWidth) {
        SDCFFI_UNROLLED
        for (int i = 0; i < kTileRows; i++, c += stride) {
            SDCFFI_UNROLLED
            for (int j = 0; j < vectors; j++) {
                store(c + j * kWidth, sum ? add(load(c + j * kWidth), total[i][j]) : total[i][j]);
            }
        }
        return;
    }
    float tile[kTileRows][vectors * kWidth];
    SDCFFI_UNROLLED
    for (int i = 0; i < kTileRows; i++) {
        SDCFFI_UNROLLED
        for (int j = 0; j < vectors; j++) store(tile[i] + j * kWidth, total[i][j]);
    }
    for (int i = 0; i < rows; i++, c += stride) {
        for (int j = 0; j < columns; j++) c[j] = sum ? c[j] + tile[i][j] : tile[i][j];
    }
}

// Strips of b are kTileColumns wide, or one vector if that is enough.
constexpr int strip_width(int columns) { return columns > kWidth ? kTileColumns : kWidth; }

inline void multiply_strip(const float* a, const float* b, int rows, int columns, int depth, float* c, size_t stride, bool sum) {
    const auto tile = strip_width(columns) == kTileColumns ? multiply_tile<kTileVectors> : multiply_tile<1>;
    for (int row = 0; row < rows; row += kTileRows) {
        tile(a + size_t(row) * depth, b, depth, c + row * stride, stride, std::min(rows - row, kTileRows), columns, sum);
    }
}

// The tasks of a product.
struct Tasks {
    int64_t rows, columns, row_blocks, column_blocks;

    Tasks(int64_t all_rows, int64_t all_columns, int64_t batch, int threads) {
        row_blocks    = (all_rows + kMostRows - 1) / kMostRows;
        column_blocks = (all_columns + kMostColumns - 1) / kMostColumns;
        const int64_t wanted = threads > 1 ? int64_t(kTasksPerThread) * threads : 1;
        while (batch * row_blocks * column_blocks < wanted) {
            const int64_t tall = all_rows / row_blocks, wide = all_columns / column_blocks;
            if (wide >= tall && wide >= 2 * kTileColumns) {
                column_blocks *= 2;
            } else if (tall >= 4 * kTileRows) {
                row_blocks *= 2;
            } else if (wide >= 2 * kTileColumns) {
                column_blocks *= 2;
            } else {
                break;
            }
        }
        rows    = round_up((all_rows + row_blocks - 1) / row_blocks, kTileRows);
        columns = round_up((all_columns + column_blocks - 1) / column_blocks, kTileColumns);
        row_blocks    = (all_rows + rows - 1) / rows;
        column_blocks = (all_columns + columns - 1) / columns;
    }
};

// Computes this thread's share of a problem, which has
//     rows, columns, depth, batch, and stride: floats from one row of c to the next
//     void pack_rows(float* to, int64_t item, int64_t row, int count, int64_t k, int depth, float* spare) const
//     void pack_strip(float* to, int64_t item, int64_t column, int count, int64_t k, int depth, float* spare) const
//     float* result(int64_t item, int64_t row, int64_t column) const
template <class Problem>
void multiply(const ggml_compute_params* params, const Problem& problem) {
    const Tasks tasks(problem.rows, problem.columns, problem.batch, params->nth);
    const int64_t count = problem.batch * tasks.row_blocks * tasks.column_blocks;
    float* a     = static_cast<float*>(params->wdata) + kThreadFloats * params->ith;
    float* b     = a + kPackedRows;
    float* spare = b + kPackedStrip;
    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);
    for (int64_t task = params->ith; task < count; task = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        const int64_t item = task / (tasks.row_blocks * tasks.column_blocks);
        const int64_t row = task / tasks.column_blocks % tasks.row_blocks * tasks.rows;
        const int64_t first = task % tasks.column_blocks * tasks.columns, end = std::min(first + tasks.columns, problem.columns);
        const int height = int(std::min(tasks.rows, problem.rows - row));
        for (int64_t k = 0; k < problem.depth; k += kDepth) {
            const int depth = int(std::min<int64_t>(kDepth, problem.depth - k));
            problem.pack_rows(a, item, row, height, k, depth, spare);
            for (int64_t column = first; column < end; column += kTileColumns) {
                const int width = int(std::min<int64_t>(kTileColumns, end - column));
                problem.pack_strip(b, item, column, width, k, depth, spare);
                multiply_strip(a, b, height, width, depth, problem.result(item, row, column), problem.stride, k > 0);
            }
        }
    }
}

}  // namespace sdcffi
