// Convolutions with kernels of 3x3, step 1, by Winograd's minimal filtering F(4x4, 3x3): 4x4 pixels of the result take 36
// products for each channel in place of 144 (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015).
// The points are 0, +-sqrt(1/2), +-sqrt(2) and infinity: with them rounding is 7 dB below that of 0, +-1, +-2.
//
//     for each task (some maps of the result, some windows of 4x4 of its pixels; a thread that is free takes the next)
//         for each kChannels channels
//             transform the 6x6 pixels under each window: 36 matrices, [channel][window]
//             for each strip of maps
//                 transform the kernels: 36 matrices, [channel][map]
//                 36 products, a tile of windows x maps at a time
//         transform the sums of each window and map back: 4x4 pixels
//
// The order of each sum does not depend on the tasks, so the result is the same, bit for bit, for any number of threads.
#pragma once

#include "tiled_product.hpp"

namespace sdcffi {

// One dimension of each transform, of vectors whose elements have nothing to do with each other.
struct Filtering {
    static constexpr int kKernel = 3, kIn = 6, kOut = 4;
    static constexpr float kNear = 0.70710678f, kFar = 1.41421356f;  // the points, whose squares are 1/2 and 2

    static void kernel(const Vector (&g)[kKernel], Vector (&to)[kIn]) {
        const Vector near = times(multiply_add(g[2], all(0.5f), g[0]), all(-2.0f / 3)), near_odd = times(g[1], all(-2.0f / 3 * kNear));
        const Vector far = times(multiply_add(g[2], all(2.0f), g[0]), all(1.0f / 6)), far_odd = times(g[1], all(1.0f / 6 * kFar));
        to[0] = g[0];
        to[1] = add(near, near_odd);
        to[2] = subtract(near, near_odd);
        to[3] = add(far, far_odd);
        to[4] = subtract(far, far_odd);
        to[5] = g[2];
    }

    static void pixels(const Vector (&d)[kIn], Vector (&to)[kIn]) {
        const Vector near = multiply_add(d[2], all(-2.0f), d[4]), near_odd = times(multiply_add(d[1], all(-2.0f), d[3]), all(kNear));
        const Vector far = multiply_add(d[2], all(-0.5f), d[4]), far_odd = times(multiply_add(d[1], all(-0.5f), d[3]), all(kFar));
        to[0] = add(multiply_add(d[2], all(-2.5f), d[4]), d[0]);
        to[1] = add(near, near_odd);
        to[2] = subtract(near, near_odd);
        to[3] = add(far, far_odd);
        to[4] = subtract(far, far_odd);
        to[5] = add(multiply_add(d[3], all(-2.5f), d[5]), d[1]);
    }

    static void sums(const Vector (&m)[kIn], Vector (&to)[kOut]) {
        const Vector near = add(m[1], m[2]), near_odd = times(subtract(m[1], m[2]), all(kNear));
        const Vector far = add(m[3], m[4]), far_odd = times(subtract(m[3], m[4]), all(kFar));
        to[0] = add(m[0], add(near, far));
        to[1] = add(near_odd, far_odd);
        to[2] = multiply_add(far, all(2.0f), times(near, all(0.5f)));
        to[3] = add(multiply_add(far_odd, all(2.0f), times(near_odd, all(0.5f))), m[5]);
    }
};

// Applies `pass` to the columns and then to the rows of a matrix, whose elements are vectors at from[(y * line + x) * step].
template <int in, int out, int line = in, class Pass>
inline void transform(const float* from, size_t step, float* to, size_t to_step, Pass pass) {
    Vector half[out][in];
    for (int x = 0; x < in; x++) {
        Vector column[in], passed[out];
        SDCFFI_UNROLLED
        for (int y = 0; y < in; y++) column[y] = load(from + (y * line + x) * step);
        pass(column, passed);
        SDCFFI_UNROLLED
        for (int y = 0; y < out; y++) half[y][x] = passed[y];
    }
    for (int y = 0; y < out; y++) {
        Vector passed[out];
        pass(half[y], passed);
        SDCFFI_UNROLLED
        for (int x = 0; x < out; x++) store(to + (y * out + x) * to_step, passed[x]);
    }
}

// `Geometry` has image, out, rows (maps), batch, pad_x, pad_y, and
//     const float* biases, one for each map, or null; float slope, from 0 to 1, which negative results are multiplied by
//     const float* weights(int64_t map, int64_t k, int depth, float* spare) const
//     float* result(int64_t item, int64_t map, int64_t pixel) const
template <class Geometry>
class Winograd {
    static constexpr int kIn = Filtering::kIn, kOut = Filtering::kOut, kElements = kIn * kIn, kTaps = 9, kFew = 16;
    static constexpr int kWindows = 48, kChannels = 64, kMaps = 128 / kTileColumns * kTileColumns;
    static_assert(kWindows % kTileRows == 0 && kWindows % kWidth == 0, "a task has whole tiles and vectors");
    static constexpr int kWindowLine = 8, kWindowFloats = kIn * kWindowLine;  // whole blocks of transpose_block()

    // Floats from one element's matrix to the next. They are no multiple of 4 KiB apart, which would share a cache line.
    static constexpr size_t kApart   = 16;
    static constexpr size_t kPixels  = size_t(kChannels) * kWindows + kApart;
    static constexpr size_t kKernels = size_t(kChannels) * kTileColumns + kApart;
    static constexpr size_t kSums    = size_t(kWindows) * kTileColumns + kApart;
    static constexpr size_t kRows    = size_t(kTileColumns) * kFew * kTaps + kWidth;

public:
    static constexpr size_t kFloats = kElements * (kPixels + kKernels + kMaps / kTileColumns * kSums) + 2 * kRows;  // of each thread

    explicit Winograd(const Geometry& geometry)
        : at_(geometry), wide_(geometry.out->ne[0]), high_(geometry.out->ne[1]), across_((wide_ + kOut - 1) / kOut),
          windows_(across_ * ((high_ + kOut - 1) / kOut)), channels_(geometry.image->ne[2]) {}

    void compute(const ggml_compute_params* params) const {
        const int64_t blocks = (windows_ + kWindows - 1) / kWindows;
        int64_t maps = kMaps;
        while (maps >= 2 * kTileColumns && at_.batch * blocks * ((at_.rows + maps - 1) / maps) < wanted_tasks(params)) {
            maps = round_up(maps / 2, kTileColumns);
        }
        const int64_t map_blocks = (at_.rows + maps - 1) / maps, count = at_.batch * blocks * map_blocks;
        float* scratch = scratch_of(params, kFloats);
        share_tasks(params, count, [&](int64_t task) {
            const int64_t window = task / map_blocks % blocks * kWindows, map = task % map_blocks * maps;
            convolve(task / (map_blocks * blocks), window, int(std::min<int64_t>(kWindows, windows_ - window)), map,
                     int(std::min(maps, at_.rows - map)), scratch);
        });
    }

private:
    const Geometry& at_;
    int64_t wide_, high_, across_, windows_, channels_;

    void convolve(int64_t item, int64_t window, int windows, int64_t map, int maps, float* scratch) const {
        float* pixels  = scratch;
        float* kernels = pixels + kElements * kPixels;
        float* sums    = kernels + kElements * kKernels;
        float* rows    = sums + kElements * kSums * (kMaps / kTileColumns);
        constexpr size_t strip_sums = kElements * kSums;
        for (int64_t channel = 0; channel < channels_; channel += kChannels) {
            const int depth = int(std::min<int64_t>(kChannels, channels_ - channel));
            transform_pixels(item, window, windows, channel, depth, pixels);
            for (int first = 0; first < maps; first += kTileColumns) {
                transform_kernels(map + first, std::min(maps - first, kTileColumns), channel, depth, rows, kernels);
                float* strip = sums + first / kTileColumns * strip_sums;
                for (int e = 0; e < kElements; e++) {
                    for (int i = 0; i < windows; i += kTileRows) {
                        InFloats::tile<kTileVectors, kWindows>(
                            pixels + e * kPixels + i, kernels + e * kKernels, depth, strip + e * kSums + i * kTileColumns, kTileColumns,
                            kTileRows, kTileColumns, channel > 0);
                    }
                }
            }
        }
        for (int first = 0; first < maps; first += kTileColumns) {
            const float* strip = sums + first / kTileColumns * strip_sums;
            for (int i = 0; i < windows; i++) {
                for (int n = first; n < std::min(first + kTileColumns, maps); n += kWidth) {
                    write(strip + i * kTileColumns + n - first, item, window + i, map + n, std::min(kWidth, maps - n));
                }
            }
        }
    }

    // [element][channel][window], for windows that follow each other; what is beyond `count` is some window again.
    void transform_pixels(int64_t item, int64_t window, int count, int64_t channel, int depth, float* to) const {
        const ggml_tensor* image = at_.image;
        const char* plane = static_cast<const char*>(image->data) + item * image->nb[3] + channel * image->nb[2];
        alignas(kLine) float borders[kWidth * kWindowFloats], lanes[kIn * kWindowLine * kWidth];
        for (int first = 0; first < count; first += kWidth) {
            for (int c = 0; c < depth; c++) {
                const float* lines[kWidth];
                size_t steps[kWidth];
                for (int i = 0; i < kWidth; i++) {
                    const int64_t which = window + std::min(first + i, count - 1);
                    find_window(plane + c * image->nb[2], which, borders + i * kWindowFloats, lines[i], steps[i]);
                }
                for (int y = 0; y < kIn; y++) {
                    for (int i = 0; i < kWidth; i += kBlock) {
                        for (int x = 0; x < kIn; x += kBlock) transpose_block(lines + i, x, lanes + (y * kWindowLine + x) * kWidth + i, kWidth);
                    }
                    for (int i = 0; i < kWidth; i++) lines[i] += steps[i];
                }
                transform<kIn, kIn, kWindowLine>(lanes, kWidth, to + size_t(c) * kWindows + first, kPixels, Filtering::pixels);
            }
        }
    }

    // Finds the first line under a window, and the floats from one line to the next. What would be read beyond the image is
    // copied to `border`, with zeros.
    void find_window(const char* plane, int64_t window, float* border, const float*& line, size_t& step) const {
        const ggml_tensor* image = at_.image;
        const int64_t x = window % across_ * kOut - at_.pad_x, y = window / across_ * kOut - at_.pad_y;
        if (x >= 0 && y >= 0 && x + kWindowLine <= image->ne[0] && y + kIn <= image->ne[1]) {
            line = reinterpret_cast<const float*>(plane + y * image->nb[1]) + x;
            step = image->nb[1] / sizeof(float);
            return;
        }
        clear(border, kWindowFloats);
        const int64_t begin = std::max<int64_t>(0, -x), end = std::min<int64_t>(kIn, image->ne[0] - x);
        for (int64_t j = std::max<int64_t>(0, -y); j < std::min<int64_t>(kIn, image->ne[1] - y); j++) {
            const float* from = reinterpret_cast<const float*>(plane + (y + j) * image->nb[1]) + x;
            copy(from + begin, border + j * kWindowLine + begin, int(std::max<int64_t>(0, end - begin)));
        }
        line = border;
        step = kWindowLine;
    }

    // [element][channel][map], for a strip of maps; what is beyond `count` may be anything.
    void transform_kernels(int64_t map, int count, int64_t channel, int depth, float* rows, float* to) const {
        const float* each[kTileColumns];
        for (int first = 0; first < depth; first += kFew) {
            const int some = std::min(depth - first, kFew);
            for (int i = 0; i < count; i++) {
                each[i] = at_.weights(map + i, (channel + first) * kTaps, some * kTaps, rows + kRows + size_t(i) * kFew * kTaps);
            }
            interleave(each, count, kTileColumns, some * kTaps, rows);
            for (int c = 0; c < some; c++) {
                for (int j = 0; j < kTileColumns; j += kWidth) {
                    transform<3, kIn>(rows + size_t(c) * kTaps * kTileColumns + j, kTileColumns, to + (first + c) * kTileColumns + j,
                                      kKernels, Filtering::kernel);
                }
            }
        }
    }

    // Adds the biases of `count` maps to the pixels of a window, and multiplies what is negative.
    void finish(float* pixels, int64_t map, int count) const {
        float biases[kWidth] = {};
        if (at_.biases != nullptr) copy(at_.biases + map, biases, count);
        const Vector bias = load(biases), slope = all(at_.slope);
        for (int i = 0; i < kOut * kOut; i++) {
            Vector value = add(load(pixels + i * kWidth), bias);
            if (at_.slope != 1.0f) value = larger(at_.slope == 0.0f ? all(0.0f) : times(value, slope), value);
            store(pixels + i * kWidth, value);
        }
    }

    // Writes the pixels of one window, for `count` maps.
    void write(const float* sums, int64_t item, int64_t window, int64_t map, int count) const {
        constexpr int kPixelsOut = kOut * kOut;
        alignas(kLine) float pixels[kPixelsOut * kWidth], turned[kWidth * kPixelsOut];
        transform<kIn, kOut>(sums, kSums, pixels, kWidth, Filtering::sums);
        finish(pixels, map, count);
        for (int i = 0; i < kPixelsOut; i += kBlock) {
            const float* from[kBlock];
            for (int n = 0; n < kBlock; n++) from[n] = pixels + (i + n) * kWidth;
            for (int lane = 0; lane < kWidth; lane += kBlock) transpose_block(from, lane, turned + lane * kPixelsOut + i, kPixelsOut);
        }
        const int64_t x = window % across_ * kOut, y = window / across_ * kOut;
        const int here = int(std::min<int64_t>(kOut, wide_ - x)), down = int(std::min<int64_t>(kOut, high_ - y));
        for (int n = 0; n < count; n++) {
            float* to = at_.result(item, map + n, y * wide_ + x);
            for (int j = 0; j < down; j++, to += wide_) {
                if (here == kOut) {
                    for (int i = 0; i < kOut; i++) to[i] = turned[n * kPixelsOut + j * kOut + i];
                } else {
                    for (int i = 0; i < here; i++) to[i] = turned[n * kPixelsOut + j * kOut + i];
                }
            }
        }
    }
};

}  // namespace sdcffi
