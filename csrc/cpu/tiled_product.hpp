// A product of matrices in tiles, for the CPU backend: c[row][column] = sum over k of a[row][k] * b[k][column].
//
//     for each task (rows x columns of c; a thread that is free takes the next)
//         for each kDepth of k
//             pack a into strips of the arithmetic's kRows rows, [k][kRows]
//             for each kTileColumns columns
//                 pack b into a strip, [k][kTileColumns]
//                 for each strip of a: one tile in registers
//
// The problem says what a and b are: weights of any type, the pixels under a kernel. The arithmetic says what a packed
// strip is and how a tile is computed: in floats, or rounded (rounded_product.hpp, bfloat16_product.hpp). The order of
// each sum does not depend on the tasks, so the result is the same, bit for bit, for any number of threads.
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
constexpr int kAhead          = 8;     // of k, what is asked for from the second-level cache
constexpr int kTasksPerThread = 4;     // a thread that loses its core then delays the others little

constexpr int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

constexpr int kWidestStrip     = std::max(kTileRows, kTileColumns);
constexpr size_t kPackedRows  = size_t(kDepth) * round_up(kMostRows, kTileRows);
constexpr size_t kPackedStrip = size_t(kDepth) * kWidestStrip + kWidth;  // a vector may reach beyond the last row

// Floats that each thread needs: packed rows, a packed strip, one that is not packed yet, and its converted rows.
constexpr size_t kThreadFloats = kPackedRows + 2 * kPackedStrip + size_t(kDepth) * kWidestStrip;

// The work memory of threads that need `floats` floats each, and where this thread's begins: with a cache line, since a
// vector that lies in two is read and written at half the rate.
constexpr int64_t kLineFloats = kLine / sizeof(float);
constexpr size_t scratch_bytes(size_t floats, int threads) {
    return floats == 0 ? 0 : round_up(floats, kLineFloats) * sizeof(float) * threads + kLine;
}
inline float* scratch_of(const ggml_compute_params* params, size_t floats) {
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(params->wdata) + kLine - 1) / kLine * kLine;
    return reinterpret_cast<float*>(begin) + round_up(floats, kLineFloats) * params->ith;
}

// How many tasks a node should have, if it can be cut into so many.
inline int64_t wanted_tasks(const ggml_compute_params* params) { return params->nth > 1 ? int64_t(kTasksPerThread) * params->nth : 1; }

// Calls function(task) for this thread's share of the tasks from 0 to `count`: a thread that is free takes the next.
template <class Function>
void share_tasks(const ggml_compute_params* params, int64_t count, Function function) {
    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);
    for (int64_t task = params->ith; task < count; task = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        function(task);
    }
}

// to[k * strip + i] = rows[i][k]; what is beyond `count` may be anything: its sums are discarded. A block that is wider than
// the strip writes beyond its rows, over what is written next, and over a few values behind the strip.
template <class Number>
inline void interleave(const Number* const* rows, int count, int strip, int depth, float* to) {
    for (int first = 0; first < count; first += kBlock) {
        const Number* block[kBlock];
        for (int i = 0; i < kBlock; i++) block[i] = rows[std::min(first + i, count - 1)];
        int k = 0;
        for (; k + kBlock <= depth; k += kBlock) transpose_block(block, k, to + k * strip + first, strip);
        for (; k < depth; k++) {
            for (int i = 0; i < std::min(kBlock, strip - first); i++) to[k * strip + first + i] = as_float(block[i][k]);
        }
    }
    for (int i = int(round_up(count, kBlock)); i < strip; i++) {
        for (int k = 0; k < depth; k++) to[k * strip + i] = 0.0f;
    }
}

template <int vectors, class Sums>
inline void fill_tile(Sums (&total)[kTileRows][vectors], Sums value) {
    SDCFFI_UNROLLED
    for (int i = 0; i < kTileRows; i++) {
        SDCFFI_UNROLLED
        for (int j = 0; j < vectors; j++) total[i][j] = value;
    }
}

// Writes a tile of sums into c, or adds it. Values outside of c were computed too, and are discarded.
template <int vectors>
inline void put_tile(const Vector (&total)[kTileRows][vectors], float* c, size_t stride, int rows, int columns, bool sum) {
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
    alignas(kLine) float tile[kTileRows][vectors * kWidth];
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

// Arithmetic in single precision. A packed strip is [k][strip].
struct InFloats {
    static constexpr int kRows = kTileRows;
    struct Session {};  // what a thread needs while it multiplies: nothing

    static constexpr size_t packed(int strip, int depth) { return size_t(strip) * depth; }

    template <class Fill>
    static void pack(bool, float* to, int strip, int, float*, Fill fill) { fill(to, strip); }

    // Element k of row i is a[i + k * step].
    template <int vectors, int step = kTileRows>
    static void tile(const float* a, const float* b, int depth, float* c, size_t stride, int rows, int columns, bool sum) {
        Vector total[kTileRows][vectors];
        fill_tile(total, all(0.0f));
        for (int i = 0; sum && i < kTileRows; i++) prefetch(c + i * stride);  // rows of c lie too far apart to stay in the cache
        for (int k = 0; k < depth; k++) {
            Vector right[vectors];
            SDCFFI_UNROLLED
            for (int j = 0; j < vectors; j++) right[j] = load(b + j * kWidth);
            prefetch(b + kAhead * vectors * kWidth);
            SDCFFI_UNROLLED
            for (int i = 0; i < kTileRows; i++) {
                const Vector left = broadcast(a + i);
                SDCFFI_UNROLLED
                for (int j = 0; j < vectors; j++) total[i][j] = multiply_add(left, right[j], total[i][j]);
            }
            a += step;
            b += vectors * kWidth;
        }
        put_tile<vectors>(total, c, stride, rows, columns, sum);
    }
};

// Adds to c, or writes into it, the product of packed strips of a with one of b.
template <class Arithmetic>
void multiply_strip(const float* a, const float* b, int rows, int columns, int depth, float* c, size_t stride, bool sum) {
    constexpr int kRows = Arithmetic::kRows;
    const auto tile = strip_width(columns) == kTileColumns ? Arithmetic::template tile<kTileVectors> : Arithmetic::template tile<1>;
    for (int row = 0; row < rows; row += kRows, a += Arithmetic::packed(kRows, depth), c += kRows * stride) {
        tile(a, b, depth, c, stride, std::min(rows - row, kRows), columns, sum);
    }
}

// The tasks of a product.
struct Tasks {
    int64_t rows, columns, row_blocks, column_blocks;

    Tasks(int64_t all_rows, int64_t all_columns, int64_t batch, int64_t tile_rows, int64_t wanted) {
        row_blocks    = (all_rows + kMostRows - 1) / kMostRows;
        column_blocks = (all_columns + kMostColumns - 1) / kMostColumns;
        while (batch * row_blocks * column_blocks < wanted) {
            const int64_t tall = all_rows / row_blocks, wide = all_columns / column_blocks;
            if (wide >= tall && wide >= 2 * kTileColumns) {
                column_blocks *= 2;
            } else if (tall >= 4 * tile_rows) {
                row_blocks *= 2;
            } else if (wide >= 2 * kTileColumns) {
                column_blocks *= 2;
            } else {
                break;
            }
        }
        rows    = round_up((all_rows + row_blocks - 1) / row_blocks, tile_rows);
        columns = round_up((all_columns + column_blocks - 1) / column_blocks, kTileColumns);
        row_blocks    = (all_rows + rows - 1) / rows;
        column_blocks = (all_columns + columns - 1) / columns;
    }
};

// Computes this thread's share of a problem, which has
//     rows, columns, depth, batch, and stride: floats from one row of c to the next
//     void fill_rows(float* to, int strip, int64_t item, int64_t row, int count, int64_t k, int depth, float* spare) const
//     void fill_columns(float* to, int strip, int64_t item, int64_t column, int count, int64_t k, int depth, float* spare) const
//         write `count` rows of a, or columns of b, as [k][strip]; what is beyond `count` may be anything
//     float* result(int64_t item, int64_t row, int64_t column) const
template <class Arithmetic, class Problem>
void multiply(const ggml_compute_params* params, const Problem& problem) {
    constexpr int kRows = Arithmetic::kRows;
    [[maybe_unused]] const typename Arithmetic::Session session;
    const Tasks tasks(problem.rows, problem.columns, problem.batch, kRows, wanted_tasks(params));
    const int64_t count = problem.batch * tasks.row_blocks * tasks.column_blocks;
    float* a        = scratch_of(params, kThreadFloats);
    float* b        = a + kPackedRows;
    float* unpacked = b + kPackedStrip;
    float* spare    = unpacked + kPackedStrip;
    share_tasks(params, count, [&](int64_t task) {
        const int64_t item = task / (tasks.row_blocks * tasks.column_blocks);
        const int64_t first_row = task / tasks.column_blocks % tasks.row_blocks * tasks.rows;
        const int64_t first = task % tasks.column_blocks * tasks.columns, end = std::min(first + tasks.columns, problem.columns);
        const int height = int(std::min(tasks.rows, problem.rows - first_row));
        for (int64_t k = 0; k < problem.depth; k += kDepth) {
            const int depth = int(std::min<int64_t>(kDepth, problem.depth - k));
            const size_t size = Arithmetic::packed(kRows, depth);
            for (int row = 0; row < height; row += kRows) {
                const int some = std::min(height - row, kRows);
                Arithmetic::pack(true, a + row / kRows * size, kRows, depth, unpacked, [&](float* to, int strip) {
                    problem.fill_rows(to, strip, item, first_row + row, some, k, depth, spare);
                });
            }
            for (int64_t column = first; column < end; column += kTileColumns) {
                const int width = int(std::min<int64_t>(kTileColumns, end - column));
                Arithmetic::pack(false, b, strip_width(width), depth, unpacked, [&](float* to, int strip) {
                    problem.fill_columns(to, strip, item, column, width, k, depth, spare);
                });
                multiply_strip<Arithmetic>(a, b, height, width, depth, problem.result(item, first_row, column), problem.stride, k > 0);
            }
        }
    });
}

}  // namespace sdcffi
