// What the vector units of this processor can do at most: multiply-adds in registers, on all cores at once.
//
// Prints a line for each way of multiplying that the compiler finds on this processor: the type, the instructions, and
// operations per second; a multiply-add is two. It reads no memory, so nothing that computes can be faster.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#if defined(__AMX_TILE__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

// The compiler must take a vector for another one here, or it would compute what does not change only once.
template <typename Vector>
inline void renew(Vector& vector) {
#if defined(__aarch64__)
    asm volatile("" : "+w"(vector));
#else
    asm volatile("" : "+v"(vector));
#endif
}

// So many sums that none of them waits for its last addition, and that all are in registers with what lies between.
template <typename Unit>
void in_registers(long rounds) {
    typename Unit::Vector sums[Unit::kSums], left = Unit::value(), right = Unit::value();
    for (auto& sum : sums) sum = Unit::value();
    for (long i = 0; i < rounds; i++) {
#pragma GCC unroll 32
        for (int j = 0; j < Unit::kSums; j++) {
            renew(left);
            sums[j] = Unit::add(sums[j], left, right);
        }
    }
    for (auto& sum : sums) renew(sum);
}

using Loop = void (*)(long);

double seconds_of(Loop loop, long rounds, unsigned threads) {
    std::atomic<unsigned> ready{0};
    std::atomic<bool> go{false};
    std::vector<std::thread> others;
    const auto work = [&] {
        ready++;
        while (!go) std::this_thread::yield();
        loop(rounds);
    };
    for (unsigned i = 0; i < threads; i++) others.emplace_back(work);
    while (ready < threads) std::this_thread::yield();
    const auto start = std::chrono::steady_clock::now();
    go = true;
    for (auto& thread : others) thread.join();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The best of several runs, since anything else that runs only slows it down.
void measure(const char* type, const char* instructions, Loop loop, double operations_per_round) {
    const unsigned threads = std::max(1u, std::thread::hardware_concurrency());
    long rounds = 1 << 14;
    while (seconds_of(loop, rounds, threads) < 0.05) rounds *= 2;
    double best = 1e9;
    for (int i = 0; i < 8; i++) best = std::min(best, seconds_of(loop, rounds, threads));
    std::printf("%s\t%s\t%.6g\n", type, instructions, operations_per_round * rounds * threads / best);
    std::fflush(stdout);
}

template <typename Unit>
void measure() {
    measure(Unit::kType, Unit::kInstructions, in_registers<Unit>, 2.0 * Unit::kSums * Unit::kMultiplications);
}

#define UNIT(name, type, instructions, vector, sums, multiplications, initial, ...)                                   \
    struct name {                                                                                                     \
        using Vector = vector;                                                                                        \
        static constexpr const char *kType = type, *kInstructions = instructions;                                     \
        static constexpr int kSums = sums, kMultiplications = multiplications;                                        \
        static Vector value() { return initial; }                                                                     \
        static Vector add(Vector sum, Vector left, Vector right) { return __VA_ARGS__; }                              \
    };

#if defined(__AVX2__) && defined(__FMA__)
UNIT(Float32Avx2, "float32", "AVX2 vfmadd", __m256, 12, 8, _mm256_set1_ps(0.5f), _mm256_fmadd_ps(left, right, sum))
UNIT(Int16Avx2, "int16", "AVX2 vpmaddwd, vpaddd", __m256i, 6, 16, _mm256_set1_epi16(3),
     _mm256_add_epi32(sum, _mm256_madd_epi16(left, right)))
UNIT(Int8Avx2, "int8", "AVX2 vpmaddubsw, vpmaddwd, vpaddd", __m256i, 4, 32, _mm256_set1_epi8(1),
     _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(left, right), _mm256_set1_epi16(1))))
#endif
#if defined(__AVXVNNI__)
UNIT(Int16AvxVnni, "int16", "AVX-VNNI vpdpwssd", __m256i, 12, 16, _mm256_set1_epi16(3), _mm256_dpwssd_avx_epi32(sum, left, right))
UNIT(Int8AvxVnni, "int8", "AVX-VNNI vpdpbusd", __m256i, 12, 32, _mm256_set1_epi8(1), _mm256_dpbusd_avx_epi32(sum, left, right))
#endif
#if defined(__AVX512F__)
UNIT(Float32Avx512, "float32", "AVX-512 vfmadd", __m512, 24, 16, _mm512_set1_ps(0.5f), _mm512_fmadd_ps(left, right, sum))
#endif
#if defined(__AVX512BW__)
UNIT(Int16Avx512, "int16", "AVX-512 vpmaddwd, vpaddd", __m512i, 12, 32, _mm512_set1_epi16(3),
     _mm512_add_epi32(sum, _mm512_madd_epi16(left, right)))
UNIT(Int8Avx512, "int8", "AVX-512 vpmaddubsw, vpmaddwd, vpaddd", __m512i, 8, 64, _mm512_set1_epi8(1),
     _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(left, right), _mm512_set1_epi16(1))))
#endif
#if defined(__AVX512VNNI__)
UNIT(Int16Avx512Vnni, "int16", "AVX-512 vpdpwssd", __m512i, 24, 32, _mm512_set1_epi16(3), _mm512_dpwssd_epi32(sum, left, right))
UNIT(Int8Avx512Vnni, "int8", "AVX-512 vpdpbusd", __m512i, 24, 64, _mm512_set1_epi8(1), _mm512_dpbusd_epi32(sum, left, right))
#endif
#if defined(__AVX512BF16__)
UNIT(Bfloat16Avx512, "bfloat16", "AVX-512 vdpbf16ps", __m512, 24, 32, _mm512_set1_ps(0.5f),
     _mm512_dpbf16_ps(sum, (__m512bh)left, (__m512bh)right))
#endif
#if defined(__aarch64__)
UNIT(Float32Neon, "float32", "NEON fmla", float32x4_t, 24, 4, vdupq_n_f32(0.5f), vfmaq_f32(sum, left, right))
#endif
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
UNIT(Bfloat16Neon, "bfloat16", "NEON bfmmla", float32x4_t, 24, 16, vdupq_n_f32(0.5f),
     vbfmmlaq_f32(sum, vreinterpretq_bf16_f32(left), vreinterpretq_bf16_f32(right)))
#endif
#if defined(__ARM_FEATURE_DOTPROD)
UNIT(Int8NeonDot, "int8", "NEON sdot", int32x4_t, 24, 16, vdupq_n_s32(0x01010101),
     vdotq_s32(sum, vreinterpretq_s8_s32(left), vreinterpretq_s8_s32(right)))
#endif
#if defined(__ARM_FEATURE_MATMUL_INT8)
UNIT(Int8NeonMatrix, "int8", "NEON smmla", int32x4_t, 24, 32, vdupq_n_s32(0x01010101),
     vmmlaq_s32(sum, vreinterpretq_s8_s32(left), vreinterpretq_s8_s32(right)))
#endif

#if defined(__AMX_TILE__) && defined(__linux__)
// Tiles of 16 rows of 64 bytes: four sums of 16 x 16, which two left and two right tiles are multiplied into.
void configure_tiles() {
    struct alignas(64) {
        uint8_t palette = 1, start = 0, reserved[14] = {};
        uint16_t bytes[16] = {};
        uint8_t rows[16]   = {};
    } shape;
    std::fill_n(shape.bytes, 8, 64);
    std::fill_n(shape.rows, 8, 16);
    _tile_loadconfig(&shape);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
}

#define TILES(name, multiply)                                                                                         \
    void name(long rounds) {                                                                                          \
        configure_tiles();                                                                                            \
        for (long i = 0; i < rounds; i++) {                                                                           \
            multiply(0, 4, 6);                                                                                        \
            multiply(1, 4, 7);                                                                                        \
            multiply(2, 5, 6);                                                                                        \
            multiply(3, 5, 7);                                                                                        \
        }                                                                                                             \
        _tile_release();                                                                                              \
    }
#if defined(__AMX_BF16__)
TILES(bfloat16_tiles, _tile_dpbf16ps)
#endif
#if defined(__AMX_INT8__)
TILES(int8_tiles, _tile_dpbusd)
#endif

// Linux gives a process its tiles when it asks for them.
bool may_use_tiles() {
    constexpr long kRequest = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}
#endif

}  // namespace

int main() {
#if defined(__AVX2__) && defined(__FMA__)
    measure<Float32Avx2>();
    measure<Int16Avx2>();
    measure<Int8Avx2>();
#endif
#if defined(__AVXVNNI__)
    measure<Int16AvxVnni>();
    measure<Int8AvxVnni>();
#endif
#if defined(__AVX512F__)
    measure<Float32Avx512>();
#endif
#if defined(__AVX512BW__)
    measure<Int16Avx512>();
    measure<Int8Avx512>();
#endif
#if defined(__AVX512VNNI__)
    measure<Int16Avx512Vnni>();
    measure<Int8Avx512Vnni>();
#endif
#if defined(__AVX512BF16__)
    measure<Bfloat16Avx512>();
#endif
#if defined(__aarch64__)
    measure<Float32Neon>();
#endif
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
    measure<Bfloat16Neon>();
#endif
#if defined(__ARM_FEATURE_DOTPROD)
    measure<Int8NeonDot>();
#endif
#if defined(__ARM_FEATURE_MATMUL_INT8)
    measure<Int8NeonMatrix>();
#endif
#if defined(__AMX_TILE__) && defined(__linux__)
    if (may_use_tiles()) {
#if defined(__AMX_BF16__)
        measure("bfloat16", "AMX tdpbf16ps", bfloat16_tiles, 2.0 * 4 * 16 * 16 * 32);
#endif
#if defined(__AMX_INT8__)
        measure("int8", "AMX tdpbusd", int8_tiles, 2.0 * 4 * 16 * 16 * 64);
#endif
    }
#endif
    return 0;
}
