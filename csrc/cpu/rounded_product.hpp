// Arithmetic for tiled_product.hpp in integers. Each row of a and each column of b is rounded to kMost steps from 0, of a
// size that suits its largest value among kScaled of k. Their sums are exact, and are added to c as floats.
//
// What rounding changes is at most 1/2 of 1/kMost of the largest value, so the norm of kScaled values changes by at most
// sqrt(kScaled) / (2 kMost) of itself (where one value is far larger than all others). A value that is no number, or
// infinite, makes its sums so.
//
//             worst    normally distributed values
//     Pairs   -57 dB   -75 dB   (bfloat16: -56 dB, at no higher rate but in tiles: bfloat16_product.hpp)
//     Octets  -33 dB   -46 dB   of activations; weights of Q8_0, whose blocks have the same size, stay as they are
#pragma once

#include "squares.hpp"
#include "tiled_product.hpp"

#if defined(SDCFFI_MULTIPLIES_INTEGERS)

namespace sdcffi {

// Adds the products of a group of k to a tile of sums.
template <int vectors, class Add>
inline void add_products(Integers (&total)[kTileRows][vectors], const float* a, const float* b, Add add) {
    Integers right[vectors];
    SDCFFI_UNROLLED
    for (int j = 0; j < vectors; j++) right[j] = bits(load(b + j * kWidth));
    SDCFFI_UNROLLED
    for (int i = 0; i < kTileRows; i++) {
        const Integers left = bits(broadcast(a + i));
        SDCFFI_UNROLLED
        for (int j = 0; j < vectors; j++) total[i][j] = add(total[i][j], left, right[j]);
    }
}

// Two values of k in 32 bits.
struct Pairs {
    static constexpr int kScaled = 128, kMost = 4095, kGroup = 2, kFloats = 1, kOffset = 0;

    static void put(const Integers* values, float* to) { store(to, from_bits(joined(low<16>(values[0]), shifted<16>(values[1])))); }

    template <int vectors>
    static void multiply(Integers (&total)[kTileRows][vectors], const float* a, const float* b) {
        add_products(total, a, b, [](Integers sum, Integers left, Integers right) { return add_pairs(sum, left, right); });
    }

    template <int vectors>
    static void sort(Vector (&)[kTileRows][vectors]) {}
};

// Four values of k in 32 bits.
inline Vector join_octets(const Integers* values) {
    const Integers first = joined(low<8>(values[0]), shifted<8>(low<8>(values[1])));
    return from_bits(joined(first, joined(shifted<16>(low<8>(values[2])), shifted<24>(values[3]))));
}

struct Octets {
    static constexpr int kScaled = 32, kMost = 127, kGroup = 4, kFloats = 1, kOffset = kOctetOffset;

    static void put(const Integers* values, float* to) { store(to, join_octets(values)); }

    template <int vectors>
    static void multiply(Integers (&total)[kTileRows][vectors], const float* a, const float* b) {
        add_products(total, a, b, [](Integers sum, Integers left, Integers right) { return add_octets(sum, left, right); });
    }

    template <int vectors>
    static void sort(Vector (&)[kTileRows][vectors]) {}
};

#if defined(SDCFFI_SQUARES_OF_OCTETS)

// Eight values of k in 64 bits: twice as many products a second as of Octets.
struct SquaresOfOctets {
    static constexpr int kScaled = 32, kMost = 127, kGroup = 8, kFloats = 2, kOffset = 0;

    static void put(const Integers* values, float* to) { store_zipped(to, join_octets(values), join_octets(values + 4)); }

    template <int vectors>
    static void multiply(Integers (&total)[kTileRows][vectors], const float* a, const float* b) {
        add_squares(total, a, b, [](Integers sum, Vector left, Vector right) { return add_square_of_octets(sum, left, right); });
    }

    template <int vectors>
    static void sort(Vector (&sums)[kTileRows][vectors]) { sort_squares(sums); }
};

#endif

// A packed strip is [block][strip] scales and as many corrections, a vector that is free, and [group][strip] groups, of kFloats
// times 32 bits each. A strip
// that is no whole vector is computed as one: what it writes too much is written again, or is free.
//
// Rows are packed with kOffset added; what that adds to a sum is taken off by the columns' corrections.
template <class Format>
struct Rounded {
    static constexpr int kRows = kTileRows, kScaled = Format::kScaled, kGroup = Format::kGroup, kFloats = Format::kFloats;
    struct Session {};

    static_assert(int64_t(kScaled) * Format::kMost * (Format::kMost + Format::kOffset) < (int64_t(1) << 31), "a sum could overflow");
    static_assert(kDepth % kScaled == 0 && kScaled % kGroup == 0, "a packed strip has whole scales");

    static constexpr int blocks(int depth) { return (depth + kScaled - 1) / kScaled; }
    static constexpr size_t scales(int strip, int depth) { return size_t(blocks(depth)) * strip; }
    static constexpr size_t heads(int strip, int depth) { return 2 * scales(strip, depth) + kWidth; }
    static constexpr size_t packed(int strip, int depth) {
        return heads(strip, depth) + size_t(depth + kGroup - 1) / kGroup * strip * kFloats;
    }

    template <class Fill>
    static void pack(bool rows, float* to, int strip, int depth, float* unpacked, Fill fill) {
        const int offset = rows ? Format::kOffset : 0;
        fill(unpacked, strip);
        float* groups = to + heads(strip, depth);
        for (int first = 0; first < depth; first += kScaled, to += strip) {
            for (int i = 0; i < strip; i += kWidth) {
                const int end = std::min(depth, first + kScaled);
                store(to + scales(strip, depth) + i, round(unpacked + i, strip, first, end, offset, to + i, groups + i * kFloats));
            }
        }
    }

    // Rounds one vector of columns, for each k from `first` to `end`. Returns the corrections.
    static Vector round(const float* from, int strip, int first, int end, int offset, float* to_scale, float* to) {
        Integers largest = bits(all(1e-30f)), correction = zeros();
        for (int k = first; k < end; k++) largest = larger(largest, absolute(load(from + k * strip)));
        store(to_scale, times(from_bits(largest), all(1.0f / Format::kMost)));
        const Vector steps = divide(all(Format::kMost), from_bits(largest));
        for (int k = first; k < end; k += kGroup) {
            Integers values[kGroup];
            for (int i = 0; i < kGroup; i++) {
                values[i] = k + i < end ? rounded(times(load(from + (k + i) * strip), steps)) : zeros();
                if (Format::kOffset != 0) {
                    correction = add(correction, values[i]);
                    values[i]  = add(values[i], all_integers(offset));
                }
            }
            Format::put(values, to + k / kGroup * strip * kFloats);
        }
        return times(as_floats(correction), all(-Format::kOffset));
    }

    template <int vectors>
    static void tile(const float* a, const float* b, int depth, float* c, size_t stride, int rows, int columns, bool sum) {
        constexpr int strip = vectors * kWidth;
        const float *a_scales = a, *b_scales = b, *corrections = b + scales(strip, depth);
        a += heads(kTileRows, depth);
        b += heads(strip, depth);
        for (int first = 0; first < depth; first += kScaled, a_scales += kTileRows, b_scales += strip, corrections += strip) {
            Integers total[kTileRows][vectors];
            fill_tile(total, zeros());
            for (int k = first; k < std::min(depth, first + kScaled); k += kGroup) {
                Format::multiply(total, a, b);
                a += kTileRows * kFloats;
                b += strip * kFloats;
            }
            Vector sums[kTileRows][vectors];
            SDCFFI_UNROLLED
            for (int i = 0; i < kTileRows; i++) {
                SDCFFI_UNROLLED
                for (int j = 0; j < vectors; j++) sums[i][j] = as_floats(total[i][j]);
            }
            Format::sort(sums);
            SDCFFI_UNROLLED
            for (int i = 0; i < kTileRows; i++) {
                SDCFFI_UNROLLED
                for (int j = 0; j < vectors; j++) {
                    if (Format::kOffset != 0) {
                        sums[i][j] = add(sums[i][j], load(corrections + j * kWidth));
                    }
                    sums[i][j] = times(sums[i][j], times(broadcast(a_scales + i), load(b_scales + j * kWidth)));
                }
            }
            put_tile<vectors>(sums, c, stride, rows, columns, sum || first > 0);
        }
    }
};

}  // namespace sdcffi

#endif
