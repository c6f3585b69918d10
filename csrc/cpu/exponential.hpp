// 2^x of vectors.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd.hpp"

namespace sdcffi {

// Adding it rounds to an integer, which is then in the lowest bits.
constexpr float kRounds = 12582912.0f;  // 1.5 * 2^23
constexpr float kSmallestPower = -126.0f;  // of 2, among the numbers that are not denormal

// scaled(p, t, x) is p * 2^n, for t = n + kRounds; and 0 where x is below kSmallestPower.
#if defined(__AVX512F__)

inline Vector scaled(Vector p, Vector t, Vector x) {
    const __m512i power = _mm512_slli_epi32(_mm512_add_epi32(_mm512_castps_si512(t), _mm512_set1_epi32(127)), 23);
    const __mmask16 counts = _mm512_cmp_ps_mask(x, _mm512_set1_ps(kSmallestPower), _CMP_NLT_UQ);
    return _mm512_maskz_mul_ps(counts, p, _mm512_castsi512_ps(power));
}

#elif defined(__AVX__)

inline Vector scaled(Vector p, Vector t, Vector x) {
    const Vector counts = _mm256_cmp_ps(x, _mm256_set1_ps(kSmallestPower), _CMP_NLT_UQ);
#if defined(__AVX2__)
    const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_castps_si256(t), _mm256_set1_epi32(127)), 23);
    const Vector by = _mm256_castsi256_ps(power);
#else
    const __m128i bias = _mm_set1_epi32(127);
    const __m128i low = _mm_castps_si128(_mm256_castps256_ps128(t)), high = _mm_castps_si128(_mm256_extractf128_ps(t, 1));
    const __m128 low_power  = _mm_castsi128_ps(_mm_slli_epi32(_mm_add_epi32(low, bias), 23));
    const __m128 high_power = _mm_castsi128_ps(_mm_slli_epi32(_mm_add_epi32(high, bias), 23));
    const Vector by = _mm256_insertf128_ps(_mm256_castps128_ps256(low_power), high_power, 1);
#endif
    return _mm256_and_ps(counts, _mm256_mul_ps(p, by));
}

#elif defined(SDCFFI_SSE2)

inline Vector scaled(Vector p, Vector t, Vector x) {
    const __m128i power = _mm_slli_epi32(_mm_add_epi32(_mm_castps_si128(t), _mm_set1_epi32(127)), 23);
    return _mm_and_ps(_mm_cmpnlt_ps(x, _mm_set1_ps(kSmallestPower)), _mm_mul_ps(p, _mm_castsi128_ps(power)));
}

#elif defined(SDCFFI_NEON)

inline Vector scaled(Vector p, Vector t, Vector x) {
    const int32x4_t power = vshlq_n_s32(vaddq_s32(vreinterpretq_s32_f32(t), vdupq_n_s32(127)), 23);
    const uint32x4_t result = vreinterpretq_u32_f32(vmulq_f32(p, vreinterpretq_f32_s32(power)));
    return vreinterpretq_f32_u32(vbicq_u32(result, vcltq_f32(x, vdupq_n_f32(kSmallestPower))));
}

#else

inline Vector scaled(Vector p, Vector t, Vector x) {
    for (int i = 0; i < kWidth; i++) {
        uint32_t bits;
        std::memcpy(&bits, &t.lanes[i], sizeof(bits));
        bits = (bits + 127) << 23;
        float power;
        std::memcpy(&power, &bits, sizeof(power));
        p.lanes[i] = x.lanes[i] < kSmallestPower ? 0.0f : p.lanes[i] * power;
    }
    return p;
}

#endif

// 2^x for x up to 127, within 1.2e-7 of its value; 0 below 2^-126; no number of no number. The polynomial fits 2^r
// between -0.5 and 0.5 within 2e-9.
inline Vector power_of_two(Vector x) {
    const Vector t = add(x, all(kRounds));
    const Vector r = subtract(x, subtract(t, all(kRounds)));
    Vector p = multiply_add(all(1.5353362e-4f), r, all(1.3398875e-3f));
    p = multiply_add(p, r, all(9.618437e-3f));
    p = multiply_add(p, r, all(5.5503324e-2f));
    p = multiply_add(p, r, all(0.24022648f));
    p = multiply_add(p, r, all(0.6931472f));
    return scaled(multiply_add(p, r, all(1.0f)), t, x);
}

}  // namespace sdcffi
