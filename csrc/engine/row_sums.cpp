#include "engine/row_sums.hpp"

#include <algorithm>
#include <cstring>

#include "ggml.h"

// This library is built for the oldest processor of its kind, so that the loops come in several versions, of which the
// dynamic loader takes the best.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && __GNUC__ >= 12
#define SDCFFI_VERSIONS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#define SDCFFI_HALF _Float16
#else
#define SDCFFI_VERSIONS
#endif

namespace sdcffi {

SDCFFI_VERSIONS void add_rows(float* __restrict row, const float* __restrict factors, const float* __restrict rows, int64_t count, int64_t columns) {
    constexpr int64_t kPiece = 1024;  // of the row, to stay in the first cache
    for (int64_t first = 0; first < columns; first += kPiece) {
        const int64_t n      = std::min(kPiece, columns - first);
        float* __restrict to = row + first;
        int64_t r            = 0;
        for (; r + 4 <= count; r += 4) {
            const float a = factors[r], b = factors[r + 1], c = factors[r + 2], d = factors[r + 3];
            const float* __restrict from = rows + r * columns + first;
            for (int64_t i = 0; i < n; i++) {
                to[i] += a * from[i] + b * from[columns + i] + c * from[2 * columns + i] + d * from[3 * columns + i];
            }
        }
        for (; r < count; r++) {
            const float a                = factors[r];
            const float* __restrict from = rows + r * columns + first;
            for (int64_t i = 0; i < n; i++) {
                to[i] += a * from[i];
            }
        }
    }
}

#ifdef SDCFFI_HALF

SDCFFI_VERSIONS void from_half(const uint16_t* __restrict half, float* __restrict values, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        SDCFFI_HALF value;
        std::memcpy(&value, half + i, sizeof value);
        values[i] = float(value);
    }
}

SDCFFI_VERSIONS void to_half(const float* __restrict values, uint16_t* __restrict half, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        const SDCFFI_HALF value = SDCFFI_HALF(values[i]);
        std::memcpy(half + i, &value, sizeof value);
    }
}

#else

void from_half(const uint16_t* half, float* values, int64_t count) {
    ggml_fp16_to_fp32_row(half, values, count);
}

void to_half(const float* values, uint16_t* half, int64_t count) {
    ggml_fp32_to_fp16_row(values, half, count);
}

#endif

}  // namespace sdcffi
