// Arithmetic for tiled_product.hpp in bfloat16, with sums in single precision, for processors that multiply whole matrices of
// it. Each value changes by 2^-8 of itself at most, normally distributed ones by -56 dB.
//
//     InTiles    Intel's AMX, since Sapphire Rapids: 16 times as many products a second as of floats
//     InSquares  Arm's bf16: two to four times as many
//
// AMX's tiles of 8 bits have no use here: quantised weights have a scale for each 32 values or fewer, and to take sums out of
// a tile that often costs more than their products. Where there is but a product of pairs (AVX512-BF16), it is no faster than
// that of pairs of integers of 13 bits, which are 18 dB nearer (rounded_product.hpp).
#pragma once

#include <atomic>

#include "squares.hpp"
#include "tiled_product.hpp"

#if defined(__AMX_TILE__) && defined(__AVX512BF16__) && defined(__AVX512VNNI__) && defined(__linux__)
#define SDCFFI_MULTIPLIES_TILES
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(SDCFFI_MULTIPLIES_TILES)

// Not all builds for AMX name its bfloat16 part, which all processors with AMX have.
#if defined(__AMX_TILE__)
#define SDCFFI_FOR_TILES __attribute__((target("amx-tile,amx-bf16")))
#else
#define SDCFFI_FOR_TILES
#endif

namespace sdcffi {

// What a thread says of its tiles, as the processor reads it.
struct alignas(64) TileShapes {
    static constexpr uint8_t kRows  = kWidth;
    static constexpr uint16_t kLine = kWidth * sizeof(float);
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t line[16] = {kLine, kLine, kLine, kLine, kLine, kLine, kLine, kLine};
    uint8_t rows[16]  = {kRows, kRows, kRows, kRows, kRows, kRows, kRows, kRows};
};

// A tile of a has kSide rows of kSide pairs of k; one of b has kSide pairs of kSide columns; one of sums has kSide rows and as
// many columns. Two by two of them are in registers: 0 to 3 the sums, 4 and 5 of a, 6 and 7 of b.
//
// A packed strip of columns is [pair][strip], one of rows is [tile][row][pair of the tile], both with zeros behind the last k.
struct InTiles {
    static constexpr int kSide = kWidth, kRows = 2 * kSide, kTileDepth = 2 * kSide;
    static constexpr size_t kLine = kSide * sizeof(float);
    static_assert(kDepth % kTileDepth == 0 && kMostRows % kRows == 0 && kRows == kTileColumns, "packed rows have room");

    // Tiles are this thread's while there is one.
    class Session {
    public:
        SDCFFI_FOR_TILES Session() { _tile_loadconfig(&kShapes); }
        SDCFFI_FOR_TILES ~Session() { _tile_release(); }
        Session(const Session&) = delete;
        Session& operator=(const Session&) = delete;

    private:
        static constexpr TileShapes kShapes{};
    };

    static constexpr int padded(int depth) { return int(round_up(depth, kTileDepth)); }
    static constexpr size_t packed(int strip, int depth) { return size_t(strip) * padded(depth) / 2; }

    template <class Fill>
    static void pack(bool rows, float* to, int strip, int depth, float* unpacked, Fill fill) {
        fill(unpacked, strip);
        const int pairs = padded(depth) / 2;
        float* joined = rows ? unpacked : to;  // no pair is written before it was read
        for (int pair = 0; pair < pairs; pair++) {
            const float* from = unpacked + 2 * pair * strip;
            for (int i = 0; i < strip; i += kWidth) {
                const Vector first  = 2 * pair < depth ? load(from + i) : all(0.0f);
                const Vector second = 2 * pair + 1 < depth ? load(from + strip + i) : all(0.0f);
                store(joined + pair * strip + i, join_bfloat16(first, second));
            }
        }
        if (!rows) {
            return;
        }
        for (int tile = 0; tile < pairs; tile += kSide) {
            for (int pair = 0; pair < kSide; pair += kBlock) {
                const float* from[kBlock];
                for (int i = 0; i < kBlock; i++) from[i] = joined + (tile + pair + i) * strip;
                for (int row = 0; row < strip; row += kBlock) {
                    transpose_block(from, row, to + tile * strip + row * kSide + pair, kSide);
                }
            }
        }
    }

    template <int vectors>
    static void tile(const float* a, const float* b, int depth, float* c, size_t stride, int rows, int columns, bool sum) {
        if (rows > kSide) {
            multiply<2, vectors>(a, b, depth, c, stride, rows, columns, sum);
        } else {
            multiply<1, vectors>(a, b, depth, c, stride, rows, columns, sum);
        }
    }

private:
    template <int high, int wide>
    SDCFFI_FOR_TILES static void multiply(const float* a, const float* b, int depth, float* c, size_t stride, int rows, int columns,
                                          bool sum) {
        constexpr int strip = wide * kSide;
        float sums[high * kSide * strip];
        const bool whole = rows == high * kSide && columns == strip;
        float* to = whole ? c : sums;
        const size_t line = (whole ? stride : strip) * sizeof(float), below = line / sizeof(float) * kSide;
        std::atomic_signal_fence(std::memory_order_seq_cst);  // GCC does not know that tiles are read from memory
        if (whole && sum) {
            _tile_loadd(0, to, line);
            if (high > 1) _tile_loadd(1, to + below, line);
            if (wide > 1) _tile_loadd(2, to + kSide, line);
            if (high > 1 && wide > 1) _tile_loadd(3, to + below + kSide, line);
        } else {
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
        }
        for (int k = 0; k < depth; k += kTileDepth, a += kRows * kSide, b += strip * kSide) {
            _tile_loadd(4, a, kLine);
            _tile_loadd(6, b, strip * sizeof(float));
            _tile_dpbf16ps(0, 4, 6);
            if (high > 1) {
                _tile_loadd(5, a + kSide * kSide, kLine);
                _tile_dpbf16ps(1, 5, 6);
            }
            if (wide > 1) {
                _tile_loadd(7, b + kSide, strip * sizeof(float));
                _tile_dpbf16ps(2, 4, 7);
            }
            if (high > 1 && wide > 1) _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, to, line);
        if (high > 1) _tile_stored(1, to + below, line);
        if (wide > 1) _tile_stored(2, to + kSide, line);
        if (high > 1 && wide > 1) _tile_stored(3, to + below + kSide, line);
        std::atomic_signal_fence(std::memory_order_seq_cst);
        if (whole) {
            return;
        }
        for (int i = 0; i < rows; i++) {
            for (int j = 0; j < columns; j++) c[i * stride + j] = sum ? c[i * stride + j] + sums[i * strip + j] : sums[i * strip + j];
        }
    }
};

#if defined(__AMX_TILE__)

// Whether the processor has tiles of bfloat16, and the system lets this process use them.
inline bool has_tiles() {
    static const bool has = [] {
        unsigned a = 0, b = 0, c = 0, d = 0;
        constexpr unsigned kBFloat16 = 1u << 22, kTiles = 1u << 24;
        constexpr int kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM and XFEATURE_XTILEDATA of Linux
        return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kTiles) != 0 && (d & kBFloat16) != 0 &&
               syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
    }();
    return has;
}

#endif

}  // namespace sdcffi

#endif

#if defined(SDCFFI_SQUARES_OF_BFLOAT16)

namespace sdcffi {

// A packed strip is [four of k][strip], 64 bits each, with zeros behind the last k.
struct InSquares {
    static constexpr int kRows = kTileRows, kFour = 4;
    static_assert(kRows % kWidth == 0, "a strip has whole vectors");
    struct Session {};

    static constexpr size_t packed(int strip, int depth) { return size_t(strip) * round_up(depth, kFour) / 2; }

    template <class Fill>
    static void pack(bool, float* to, int strip, int depth, float* unpacked, Fill fill) {
        fill(unpacked, strip);
        for (int k = 0; k < depth; k += kFour, to += 2 * strip) {
            for (int i = 0; i < strip; i += kWidth) {
                Vector values[kFour];
                for (int j = 0; j < kFour; j++) values[j] = k + j < depth ? load(unpacked + (k + j) * strip + i) : all(0.0f);
                store_zipped(to + 2 * i, join_bfloat16(values[0], values[1]), join_bfloat16(values[2], values[3]));
            }
        }
    }

    template <int vectors>
    static void tile(const float* a, const float* b, int depth, float* c, size_t stride, int rows, int columns, bool sum) {
        Vector total[kTileRows][vectors];
        fill_tile(total, all(0.0f));
        for (int k = 0; k < depth; k += kFour, a += 2 * kTileRows, b += 2 * vectors * kWidth) {
            add_squares(total, a, b, [](Vector one, Vector left, Vector right) { return add_square_of_bfloat16(one, left, right); });
        }
        sort_squares(total);
        put_tile<vectors>(total, c, stride, rows, columns, sum);
    }
};

}  // namespace sdcffi

#endif
