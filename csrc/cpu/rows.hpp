// Rows of tensors of any type, as floats.
#pragma once

#include <cstdint>

#include "ggml-cpu.h"
#include "ggml.h"
#include "simd.hpp"

namespace sdcffi {

// Returns `count` floats of a row from `first` on, which `spare` holds if they have another type.
inline const float* floats(const ggml_tensor* tensor, const char* row, int64_t first, int64_t count, float* spare) {
    row += ggml_row_size(tensor->type, first);
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
    constexpr size_t kLine = 64;
    const char* end = row + ggml_row_size(tensor->type, first + count);
    for (row += ggml_row_size(tensor->type, first); row < end; row += kLine) prefetch(row);
}

}  // namespace sdcffi
