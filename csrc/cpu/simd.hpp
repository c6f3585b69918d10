// Vectors of floats in the instruction set that this file is compiled for, and the shape of the tile that fits its
// registers. Each CPU variant of the backend compiles this file for itself.
#pragma once

#if defined(__AVX__)
#include <immintrin.h>
#elif defined(__SSE2__) || defined(_M_X64)
#include <emmintrin.h>
#define SDCFFI_SSE2
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#define SDCFFI_NEON
#endif

// Before a loop over a tile's registers: where it stays a loop, GCC keeps the tile in memory.
#if defined(__clang__)
#define SDCFFI_UNROLLED _Pragma("unroll")
#elif defined(__GNUC__)
#define SDCFFI_UNROLLED _Pragma("GCC unroll 16")
#else
#define SDCFFI_UNROLLED
#endif

namespace sdcffi {

#if defined(__AVX512F__)

using Vector = __m512;
constexpr int kWidth = 16, kTileRows = 8, kTileVectors = 2;
inline Vector load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Vector value) { _mm512_storeu_ps(to, value); }
inline Vector broadcast(const float* from) { return _mm512_set1_ps(*from); }
inline Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }

#elif defined(__AVX__)

using Vector = __m256;
constexpr int kWidth = 8, kTileRows = 6, kTileVectors = 2;
inline Vector load(const float* from) { return _mm256_loadu_ps(from); }
inline void store(float* to, Vector value) { _mm256_storeu_ps(to, value); }
inline Vector broadcast(const float* from) { return _mm256_broadcast_ss(from); }
inline Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
#if defined(__FMA__) || (defined(_MSC_VER) && defined(__AVX2__))
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
#else
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_add_ps(_mm256_mul_ps(a, b), c); }
#endif

#elif defined(SDCFFI_SSE2)

using Vector = __m128;
constexpr int kWidth = 4, kTileRows = 4, kTileVectors = 2;
inline Vector load(const float* from) { return _mm_loadu_ps(from); }
inline void store(float* to, Vector value) { _mm_storeu_ps(to, value); }
inline Vector broadcast(const float* from) { return _mm_set1_ps(*from); }
inline Vector add(Vector a, Vector b) { return _mm_add_ps(a, b); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm_add_ps(_mm_mul_ps(a, b), c); }

#elif defined(SDCFFI_NEON)

using Vector = float32x4_t;
constexpr int kWidth = 4, kTileRows = 8, kTileVectors = 3;
inline Vector load(const float* from) { return vld1q_f32(from); }
inline void store(float* to, Vector value) { vst1q_f32(to, value); }
inline Vector broadcast(const float* from) { return vld1q_dup_f32(from); }
inline Vector add(Vector a, Vector b) { return vaddq_f32(a, b); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return vfmaq_f32(c, a, b); }

#else

constexpr int kWidth = 4, kTileRows = 4, kTileVectors = 2;
struct Vector {
    float lanes[kWidth];
};
inline Vector load(const float* from) {
    Vector value;
    for (int i = 0; i < kWidth; i++) value.lanes[i] = from[i];
    return value;
}
inline void store(float* to, Vector value) {
    for (int i = 0; i < kWidth; i++) to[i] = value.lanes[i];
}
inline Vector broadcast(const float* from) {
    Vector value;
    for (int i = 0; i < kWidth; i++) value.lanes[i] = *from;
    return value;
}
inline Vector add(Vector a, Vector b) {
    for (int i = 0; i < kWidth; i++) a.lanes[i] += b.lanes[i];
    return a;
}
inline Vector multiply_add(Vector a, Vector b, Vector c) {
    for (int i = 0; i < kWidth; i++) c.lanes[i] += a.lanes[i] * b.lanes[i];
    return c;
}

#endif

constexpr int kTileColumns = kTileVectors * kWidth;

// Copies a few vectors at most.
inline void copy(const float* from, float* to, int count) {
#if defined(__AVX512F__)
    for (; count >= kWidth; count -= kWidth, from += kWidth, to += kWidth) store(to, load(from));
    const __mmask16 some = __mmask16((1u << count) - 1);
    _mm512_mask_storeu_ps(to, some, _mm512_maskz_loadu_ps(some, from));
#else
    if (count >= kWidth) {
        for (int i = 0; i + kWidth < count; i += kWidth) store(to + i, load(from + i));
        store(to + count - kWidth, load(from + count - kWidth));
        return;
    }
#if defined(__AVX__)
    if (count >= 4) {
        const __m128 first = _mm_loadu_ps(from), last = _mm_loadu_ps(from + count - 4);
        _mm_storeu_ps(to, first);
        _mm_storeu_ps(to + count - 4, last);
        return;
    }
#endif
    for (int i = 0; i < count; i++) to[i] = from[i];
#endif
}

// to[column * stride + row] = rows[row][column], for kBlock rows and as many columns, the first column first.
#if defined(__AVX__)

constexpr int kBlock = 8;
inline void transpose_block(const float* const* rows, int column, float* to, int stride) {
    __m256 in[8], pairs[8], fours[8];
    for (int i = 0; i < 8; i++) in[i] = _mm256_loadu_ps(rows[i] + column);
    for (int i = 0; i < 8; i += 2) {
        pairs[i]     = _mm256_unpacklo_ps(in[i], in[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_ps(in[i], in[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        fours[i]     = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
        fours[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
        fours[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
        fours[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) _mm256_storeu_ps(to + i * stride, _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20));
    for (int i = 0; i < 4; i++) _mm256_storeu_ps(to + (i + 4) * stride, _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31));
}

#else

constexpr int kBlock = 4;
inline void transpose_block(const float* const* rows, int column, float* to, int stride) {
#if defined(SDCFFI_SSE2)
    __m128 a = _mm_loadu_ps(rows[0] + column), b = _mm_loadu_ps(rows[1] + column);
    __m128 c = _mm_loadu_ps(rows[2] + column), d = _mm_loadu_ps(rows[3] + column);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(to, a);
    _mm_storeu_ps(to + stride, b);
    _mm_storeu_ps(to + 2 * stride, c);
    _mm_storeu_ps(to + 3 * stride, d);
#else
    for (int k = 0; k < 4; k++) {
        for (int i = 0; i < 4; i++) to[k * stride + i] = rows[i][column + k];
    }
#endif
}

#endif

}  // namespace sdcffi
