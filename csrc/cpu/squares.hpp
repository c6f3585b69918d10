// Arm's products of matrices: two rows by two columns in one instruction, in the order of the rows. A vector has 64 bits of each
// of two rows, or of two columns. In a tile of sums, those of rows 2p and 2p + 1 by columns 2q and 2q + 1 are the vector
// [2p + q % 2][q / 2] until they are sorted.
//
//     SDCFFI_SQUARES_OF_OCTETS    8 integers of 8 bits for each row and column (i8mm)
//     SDCFFI_SQUARES_OF_BFLOAT16  4 numbers (bf16)
#pragma once

#include "simd.hpp"

namespace sdcffi {

#if defined(SDCFFI_NEON)

inline Vector low_halves(Vector a, Vector b) { return vcombine_f32(vget_low_f32(a), vget_low_f32(b)); }
inline Vector high_halves(Vector a, Vector b) { return vcombine_f32(vget_high_f32(a), vget_high_f32(b)); }
inline Vector low_zipped(Vector a, Vector b) { return vzip1q_f32(a, b); }
inline Vector high_zipped(Vector a, Vector b) { return vzip2q_f32(a, b); }

#if defined(__ARM_FEATURE_DOTPROD) && defined(__ARM_FEATURE_MATMUL_INT8)
#define SDCFFI_SQUARES_OF_OCTETS
inline Integers add_square_of_octets(Integers sum, Vector a, Vector b) {
    return vmmlaq_s32(sum, vreinterpretq_s8_f32(a), vreinterpretq_s8_f32(b));
}
#endif
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define SDCFFI_SQUARES_OF_BFLOAT16
inline Vector add_square_of_bfloat16(Vector sum, Vector a, Vector b) {
    return vbfmmlaq_f32(sum, vreinterpretq_bf16_f32(a), vreinterpretq_bf16_f32(b));
}
#endif

#elif defined(SDCFFI_PLAIN)

// For tests on any processor.
#define SDCFFI_SQUARES_OF_OCTETS
#define SDCFFI_SQUARES_OF_BFLOAT16
inline Vector low_halves(Vector a, Vector b) { return {{a.lanes[0], a.lanes[1], b.lanes[0], b.lanes[1]}}; }
inline Vector high_halves(Vector a, Vector b) { return {{a.lanes[2], a.lanes[3], b.lanes[2], b.lanes[3]}}; }
inline Vector low_zipped(Vector a, Vector b) { return {{a.lanes[0], b.lanes[0], a.lanes[1], b.lanes[1]}}; }
inline Vector high_zipped(Vector a, Vector b) { return {{a.lanes[2], b.lanes[2], a.lanes[3], b.lanes[3]}}; }

inline Integers add_square_of_octets(Integers sum, Vector a, Vector b) {
    int8_t left[16], right[16];
    std::memcpy(left, &a, sizeof(left));
    std::memcpy(right, &b, sizeof(right));
    for (int i = 0; i < 32; i++) sum.lanes[i / 8] += left[i / 16 * 8 + i % 8] * right[i % 16];
    return sum;
}
inline Vector add_square_of_bfloat16(Vector sum, Vector a, Vector b) {
    const auto value = [](const Vector& from, int i) {
        const uint32_t pair = uint32_t(bits(from).lanes[i / 2]), high = i % 2 == 0 ? pair << 16 : pair & 0xffff0000;
        float number;
        std::memcpy(&number, &high, sizeof(number));
        return number;
    };
    for (int i = 0; i < 16; i++) sum.lanes[i / 4] += value(a, i / 8 * 4 + i % 4) * value(b, i % 8);
    return sum;
}

#endif

#if defined(SDCFFI_SQUARES_OF_OCTETS) || defined(SDCFFI_SQUARES_OF_BFLOAT16)

static_assert(kWidth == 4 && kTileRows % 2 == 0, "a vector has two rows or columns");

// Joins 32 bits of `first` and of `second` for each row or column, and stores two vectors of two.
inline void store_zipped(float* to, Vector first, Vector second) {
    store(to, low_zipped(first, second));
    store(to + kWidth, high_zipped(first, second));
}

template <int vectors, class Sums, class Add>
inline void add_squares(Sums (&total)[kTileRows][vectors], const float* a, const float* b, Add add) {
    Vector right[2 * vectors];
    SDCFFI_UNROLLED
    for (int q = 0; q < 2 * vectors; q++) right[q] = load(b + q * kWidth);
    SDCFFI_UNROLLED
    for (int p = 0; p < kTileRows / 2; p++) {
        const Vector left = load(a + p * kWidth);
        SDCFFI_UNROLLED
        for (int q = 0; q < 2 * vectors; q++) {
            Sums& sum = total[2 * p + q % 2][q / 2];
            sum = add(sum, left, right[q]);
        }
    }
}

// Makes vectors of rows of them.
template <int vectors>
inline void sort_squares(Vector (&total)[kTileRows][vectors]) {
    SDCFFI_UNROLLED
    for (int row = 0; row < kTileRows; row += 2) {
        SDCFFI_UNROLLED
        for (int j = 0; j < vectors; j++) {
            const Vector even = total[row][j], odd = total[row + 1][j];
            total[row][j]     = low_halves(even, odd);
            total[row + 1][j] = high_halves(even, odd);
        }
    }
}

#endif

}  // namespace sdcffi
