// Rows of tensors: where they begin, those of any type as floats, and functions of their vectors.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "ggml-cpu.h"
#include "ggml.h"
#include "simd.hpp"

namespace sdcffi {

inline char* row_of(const ggml_tensor* tensor, int64_t i1, int64_t i2, int64_t i3) {
    return static_cast<char*>(tensor->data) + i1 * tensor->nb[1] + i2 * tensor->nb[2] + i3 * tensor->nb[3];
}

// Where row i of a tensor begins, counted over its second to fourth dimension as `shape` has them.
inline char* row_at(const ggml_tensor* tensor, const ggml_tensor* shape, int64_t i) {
    return row_of(tensor, i % shape->ne[1], i / shape->ne[1] % shape->ne[2], i / (shape->ne[1] * shape->ne[2]));
}

// Bytes that `count` values of a row take. What is computed most is not asked of another library.
inline size_t bytes_of(const ggml_tensor* tensor, int64_t count) {
    switch (tensor->type) {
        case GGML_TYPE_F32:
            return count * sizeof(float);
        case GGML_TYPE_F16:
            return count * sizeof(ggml_fp16_t);
        default:
            return ggml_row_size(tensor->type, count);
    }
}

// Returns `count` floats of a row from `first` on, which `spare` holds if they have another type.
inline const float* floats(const ggml_tensor* tensor, const char* row, int64_t first, int64_t count, float* spare) {
    row += bytes_of(tensor, first);
    if (tensor->type == GGML_TYPE_F32) {
        return reinterpret_cast<const float*>(row);
    }
    if (tensor->type == GGML_TYPE_F16) {
        ggml_cpu_fp16_to_fp32(reinterpret_cast<const ggml_fp16_t*>(row), spare, count);
    } else {
        ggml_get_type_traits(tensor->type)->to_float(row, spare, count);
    }
    return spare;
}

// Has the processor begin to read a part of a row. Rows lie too far apart for it to do so by itself.
inline void prefetch_floats(const ggml_tensor* tensor, const char* row, int64_t first, int64_t count) {
    const char* end = row + bytes_of(tensor, first + count);
    for (row += bytes_of(tensor, first); row < end; row += kLine) prefetch(row);
}

// The last floats of a row, and `fill`.
inline Vector load_some(const float* from, int64_t count, float fill) {
    float lanes[kWidth];
    std::fill(lanes, lanes + kWidth, fill);
    std::memcpy(lanes, from, count * sizeof(float));
    return load(lanes);
}

// to[i] = function(from[i], i) in vectors.
template <class Function>
void map_row(const float* from, float* to, int64_t count, Function function) {
    int64_t i = 0;
    for (; i + kWidth <= count; i += kWidth) store(to + i, function(load(from + i), i));
    if (i < count) {
        float last[kWidth];
        store(last, function(load_some(from + i, count - i, 0.0f), i));
        std::memcpy(to + i, last, (count - i) * sizeof(float));
    }
}

}  // namespace sdcffi
