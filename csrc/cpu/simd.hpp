// Vectors of floats in the instruction set that this file is compiled for, and the shape of the tile that fits its
// registers. Each CPU variant of the backend compiles this file for itself.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

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

constexpr int kLine = 64;  // bytes of a cache line

// Has the processor begin to read what will be needed.
inline void prefetch(const void* from) {
#if defined(__GNUC__) || defined(__clang__)
    __builtin_prefetch(from);
#elif defined(__AVX__) || defined(SDCFFI_SSE2)
    _mm_prefetch(static_cast<const char*>(from), _MM_HINT_T0);
#else
    (void)from;
#endif
}

#if defined(__AVX512F__)

using Vector = __m512;
constexpr int kWidth = 16, kTileRows = 8, kTileVectors = 2;
inline Vector load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Vector value) { _mm512_storeu_ps(to, value); }
inline Vector broadcast(const float* from) { return _mm512_set1_ps(*from); }
inline Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
inline Vector subtract(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
inline Vector times(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
inline Vector divide(Vector a, Vector b) { return _mm512_div_ps(a, b); }
inline Vector larger(Vector a, Vector b) { return _mm512_max_ps(a, b); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }

#elif defined(__AVX__)

using Vector = __m256;
constexpr int kWidth = 8, kTileRows = 6, kTileVectors = 2;
inline Vector load(const float* from) { return _mm256_loadu_ps(from); }
inline void store(float* to, Vector value) { _mm256_storeu_ps(to, value); }
inline Vector broadcast(const float* from) { return _mm256_broadcast_ss(from); }
inline Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
inline Vector subtract(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
inline Vector times(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
inline Vector divide(Vector a, Vector b) { return _mm256_div_ps(a, b); }
inline Vector larger(Vector a, Vector b) { return _mm256_max_ps(a, b); }
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
inline Vector subtract(Vector a, Vector b) { return _mm_sub_ps(a, b); }
inline Vector times(Vector a, Vector b) { return _mm_mul_ps(a, b); }
inline Vector divide(Vector a, Vector b) { return _mm_div_ps(a, b); }
inline Vector larger(Vector a, Vector b) { return _mm_max_ps(a, b); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm_add_ps(_mm_mul_ps(a, b), c); }

#elif defined(SDCFFI_NEON)

using Vector = float32x4_t;
constexpr int kWidth = 4, kTileRows = 8, kTileVectors = 3;
inline Vector load(const float* from) { return vld1q_f32(from); }
inline void store(float* to, Vector value) { vst1q_f32(to, value); }
inline Vector broadcast(const float* from) { return vld1q_dup_f32(from); }
inline Vector add(Vector a, Vector b) { return vaddq_f32(a, b); }
inline Vector subtract(Vector a, Vector b) { return vsubq_f32(a, b); }
inline Vector times(Vector a, Vector b) { return vmulq_f32(a, b); }
inline Vector divide(Vector a, Vector b) { return vdivq_f32(a, b); }
inline Vector larger(Vector a, Vector b) { return vmaxq_f32(a, b); }
inline Vector multiply_add(Vector a, Vector b, Vector c) { return vfmaq_f32(c, a, b); }

#else

#define SDCFFI_PLAIN
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
inline Vector subtract(Vector a, Vector b) {
    for (int i = 0; i < kWidth; i++) a.lanes[i] -= b.lanes[i];
    return a;
}
inline Vector times(Vector a, Vector b) {
    for (int i = 0; i < kWidth; i++) a.lanes[i] *= b.lanes[i];
    return a;
}
inline Vector divide(Vector a, Vector b) {
    for (int i = 0; i < kWidth; i++) a.lanes[i] /= b.lanes[i];
    return a;
}
inline Vector larger(Vector a, Vector b) {
    for (int i = 0; i < kWidth; i++) a.lanes[i] = a.lanes[i] > b.lanes[i] ? a.lanes[i] : b.lanes[i];
    return a;
}
inline Vector multiply_add(Vector a, Vector b, Vector c) {
    for (int i = 0; i < kWidth; i++) c.lanes[i] += a.lanes[i] * b.lanes[i];
    return c;
}

#endif

inline Vector all(float value) { return broadcast(&value); }

constexpr int kTileColumns = kTileVectors * kWidth;

// Vectors of integers of 32 bits, as many as there are floats in a Vector, for processors that multiply integers of 16 or
// 8 bits and add neighbours' products up. Else SDCFFI_MULTIPLIES_INTEGERS is missing.
//     absolute, larger       of floats by their bits: a NaN is larger than any number
//     add_pairs, add_octets  add 2 products of 16 bits, or 4 of 8 bits, for each 32 bits
// An instruction for VNNI's 8 bits takes the first factor without a sign, so it is packed with kOctetOffset added to it.
// With one instruction for products and sum, there are 2 and 4 times as many a second as products of floats. With more,
// nothing is gained (kPairsAreFaster, kOctetsAreFaster).
#if defined(__AVX512VNNI__)

#define SDCFFI_MULTIPLIES_INTEGERS
constexpr bool kPairsAreFaster = true, kOctetsAreFaster = true;
constexpr int kOctetOffset = 128;
using Integers = __m512i;
inline Integers zeros() { return _mm512_setzero_si512(); }
inline Integers all_integers(int value) { return _mm512_set1_epi32(value); }
inline Integers bits(Vector value) { return _mm512_castps_si512(value); }
inline Vector from_bits(Integers value) { return _mm512_castsi512_ps(value); }
inline Integers larger(Integers a, Integers b) { return _mm512_max_epi32(a, b); }
inline Integers add(Integers a, Integers b) { return _mm512_add_epi32(a, b); }
inline Integers absolute(Vector value) { return _mm512_and_si512(bits(value), _mm512_set1_epi32(0x7fffffff)); }
inline Integers rounded(Vector value) { return _mm512_cvtps_epi32(value); }
inline Vector as_floats(Integers value) { return _mm512_cvtepi32_ps(value); }
inline Integers add_pairs(Integers sum, Integers a, Integers b) { return _mm512_dpwssd_epi32(sum, a, b); }
inline Integers add_octets(Integers sum, Integers a, Integers b) { return _mm512_dpbusd_epi32(sum, a, b); }
template <int places>
inline Integers shifted(Integers value) { return _mm512_slli_epi32(value, places); }
template <int places>
inline Integers low(Integers value) { return _mm512_and_si512(value, _mm512_set1_epi32((1 << places) - 1)); }
inline Integers joined(Integers a, Integers b) { return _mm512_or_si512(a, b); }

#elif defined(__AVX2__) && !defined(__AVX512F__)

#define SDCFFI_MULTIPLIES_INTEGERS
using Integers = __m256i;
inline Integers zeros() { return _mm256_setzero_si256(); }
inline Integers all_integers(int value) { return _mm256_set1_epi32(value); }
inline Integers bits(Vector value) { return _mm256_castps_si256(value); }
inline Vector from_bits(Integers value) { return _mm256_castsi256_ps(value); }
inline Integers larger(Integers a, Integers b) { return _mm256_max_epi32(a, b); }
inline Integers add(Integers a, Integers b) { return _mm256_add_epi32(a, b); }
inline Integers absolute(Vector value) { return _mm256_and_si256(bits(value), _mm256_set1_epi32(0x7fffffff)); }
inline Integers rounded(Vector value) { return _mm256_cvtps_epi32(value); }
inline Vector as_floats(Integers value) { return _mm256_cvtepi32_ps(value); }
#if defined(__AVXVNNI__)
constexpr bool kPairsAreFaster = true, kOctetsAreFaster = true;
constexpr int kOctetOffset = 128;
inline Integers add_pairs(Integers sum, Integers a, Integers b) { return _mm256_dpwssd_avx_epi32(sum, a, b); }
inline Integers add_octets(Integers sum, Integers a, Integers b) { return _mm256_dpbusd_avx_epi32(sum, a, b); }
#else
constexpr bool kPairsAreFaster = false, kOctetsAreFaster = false;
constexpr int kOctetOffset = 0;
inline Integers add_pairs(Integers sum, Integers a, Integers b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}
// The first factor of the instruction has no sign, so the second gets it. Two products of 127 are less than 16 bits hold.
inline Integers add_octets(Integers sum, Integers a, Integers b) {
    const Integers twos = _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(b, a));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(twos, _mm256_set1_epi16(1)));
}
#endif
template <int places>
inline Integers shifted(Integers value) { return _mm256_slli_epi32(value, places); }
template <int places>
inline Integers low(Integers value) { return _mm256_and_si256(value, _mm256_set1_epi32((1 << places) - 1)); }
inline Integers joined(Integers a, Integers b) { return _mm256_or_si256(a, b); }

#elif defined(SDCFFI_NEON) && defined(__ARM_FEATURE_DOTPROD)

#define SDCFFI_MULTIPLIES_INTEGERS
constexpr bool kPairsAreFaster = false, kOctetsAreFaster = true;
constexpr int kOctetOffset = 0;
using Integers = int32x4_t;
inline Integers zeros() { return vdupq_n_s32(0); }
inline Integers all_integers(int value) { return vdupq_n_s32(value); }
inline Integers bits(Vector value) { return vreinterpretq_s32_f32(value); }
inline Vector from_bits(Integers value) { return vreinterpretq_f32_s32(value); }
inline Integers larger(Integers a, Integers b) { return vmaxq_s32(a, b); }
inline Integers add(Integers a, Integers b) { return vaddq_s32(a, b); }
inline Integers absolute(Vector value) { return vandq_s32(bits(value), vdupq_n_s32(0x7fffffff)); }
inline Integers rounded(Vector value) { return vcvtnq_s32_f32(value); }
inline Vector as_floats(Integers value) { return vcvtq_f32_s32(value); }
inline Integers add_pairs(Integers sum, Integers a, Integers b) {
    const int16x8_t left = vreinterpretq_s16_s32(a), right = vreinterpretq_s16_s32(b);
    const int32x4_t first = vmull_s16(vget_low_s16(left), vget_low_s16(right));
    return vaddq_s32(sum, vpaddq_s32(first, vmull_s16(vget_high_s16(left), vget_high_s16(right))));
}
inline Integers add_octets(Integers sum, Integers a, Integers b) {
    return vdotq_s32(sum, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b));
}
template <int places>
inline Integers shifted(Integers value) { return vshlq_n_s32(value, places); }
template <int places>
inline Integers low(Integers value) { return vandq_s32(value, vdupq_n_s32((1 << places) - 1)); }
inline Integers joined(Integers a, Integers b) { return vorrq_s32(a, b); }

#elif defined(SDCFFI_PLAIN)

// What VNNI computes, for tests on any processor.
#define SDCFFI_MULTIPLIES_INTEGERS
constexpr bool kPairsAreFaster = false, kOctetsAreFaster = false;
constexpr int kOctetOffset = 128;
struct Integers {
    int32_t lanes[kWidth];
};
template <class Function>
inline Integers each(Function function) {
    Integers result;
    for (int i = 0; i < kWidth; i++) result.lanes[i] = int32_t(function(i));
    return result;
}
inline Integers zeros() { return {}; }
inline Integers all_integers(int value) { return each([&](int) { return value; }); }
inline Integers bits(Vector value) {
    Integers result;
    std::memcpy(&result, &value, sizeof(result));
    return result;
}
inline Vector from_bits(Integers value) {
    Vector result;
    std::memcpy(&result, &value, sizeof(result));
    return result;
}
inline Integers larger(Integers a, Integers b) { return each([&](int i) { return std::max(a.lanes[i], b.lanes[i]); }); }
inline Integers add(Integers a, Integers b) { return each([&](int i) { return a.lanes[i] + b.lanes[i]; }); }
inline Integers absolute(Vector value) { return each([&](int i) { return bits(value).lanes[i] & 0x7fffffff; }); }
inline Integers rounded(Vector value) { return each([&](int i) { return std::nearbyint(value.lanes[i]); }); }
inline Vector as_floats(Integers value) {
    Vector result;
    for (int i = 0; i < kWidth; i++) result.lanes[i] = float(value.lanes[i]);
    return result;
}
inline Integers add_pairs(Integers sum, Integers a, Integers b) {
    return each([&](int i) {
        return sum.lanes[i] + int16_t(a.lanes[i]) * int16_t(b.lanes[i]) + (a.lanes[i] >> 16) * (b.lanes[i] >> 16);
    });
}
inline Integers add_octets(Integers sum, Integers a, Integers b) {
    return each([&](int i) {
        int32_t total = sum.lanes[i];
        for (int place = 0; place < 32; place += 8) total += uint8_t(a.lanes[i] >> place) * int8_t(b.lanes[i] >> place);
        return total;
    });
}
template <int places>
inline Integers shifted(Integers value) { return each([&](int i) { return uint32_t(value.lanes[i]) << places; }); }
template <int places>
inline Integers low(Integers value) { return each([&](int i) { return value.lanes[i] & ((1 << places) - 1); }); }
inline Integers joined(Integers a, Integers b) { return each([&](int i) { return a.lanes[i] | b.lanes[i]; }); }

#endif

// Rounds to bfloat16 what stands at the same place of two vectors, and joins it in 32 bits, the first in the lower half. For
// processors that multiply whole matrices of such pairs.
#if defined(__AVX512BF16__) && defined(__AVX512VNNI__)

inline Integers bfloat16_bits(Vector value) { return _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value))); }
inline Vector join_bfloat16(Vector a, Vector b) { return from_bits(joined(bfloat16_bits(a), shifted<16>(bfloat16_bits(b)))); }

#elif defined(SDCFFI_NEON) && defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)

inline Vector join_bfloat16(Vector a, Vector b) {
    const uint16x4_t low = vreinterpret_u16_bf16(vcvt_bf16_f32(a)), high = vreinterpret_u16_bf16(vcvt_bf16_f32(b));
    return vreinterpretq_f32_u32(vorrq_u32(vmovl_u16(low), vshll_n_u16(high, 16)));
}

#elif defined(SDCFFI_PLAIN)

inline Integers bfloat16_bits(Vector value) {
    return each([&](int i) {
        const uint32_t all = uint32_t(bits(value).lanes[i]);
        return value.lanes[i] != value.lanes[i] ? all >> 16 | 0x40 : (all + 0x7fff + (all >> 16 & 1)) >> 16;
    });
}
inline Vector join_bfloat16(Vector a, Vector b) { return from_bits(joined(bfloat16_bits(a), shifted<16>(bfloat16_bits(b)))); }

#endif

// Writes zeros into whole vectors. A compiler makes a slower loop out of std::fill().
inline void clear(float* to, int count) {
    for (int i = 0; i < count; i += kWidth) store(to + i, all(0.0f));
}

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

inline float as_float(float value) { return value; }

// to[column * stride + row] = rows[row][column], for kBlock rows and as many columns, the first column first. With
// SDCFFI_READS_HALVES the rows may be numbers of 16 bits (IEEE 754's half precision).
#if defined(__AVX__)

constexpr int kBlock = 8;
inline __m256 load_block(const float* from) { return _mm256_loadu_ps(from); }
#if defined(__F16C__)
#define SDCFFI_READS_HALVES
inline __m256 load_block(const uint16_t* from) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))); }
inline float as_float(uint16_t value) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(value))); }
#endif
template <class Number>
inline void transpose_block(const Number* const* rows, int column, float* to, int stride) {
    __m256 in[8], pairs[8], fours[8];
    for (int i = 0; i < 8; i++) in[i] = load_block(rows[i] + column);
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
template <class Number>
inline void transpose_block(const Number* const* rows, int column, float* to, int stride) {
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
