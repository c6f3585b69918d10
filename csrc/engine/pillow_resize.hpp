// Pillow's resizing of images, in which models' authors resize what vision encoders see. Engine-free.
#ifndef SDCFFI_PILLOW_RESIZE_HPP
#define SDCFFI_PILLOW_RESIZE_HPP

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace sdcffi {

struct Filter {
    double support;
    double (*weight)(double x);
};

inline double cubic_weight(double x) {
    x = std::abs(x);
    return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

inline double lanczos_weight(double x) {
    const double pi = 3.14159265358979323846;
    auto sinc       = [&](double y) { return y == 0 ? 1 : std::sin(pi * y) / (pi * y); };
    return std::abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0;
}

constexpr Filter bicubic{2, cubic_weight}, lanczos{3, lanczos_weight};

// Resizes lines of `length` values, which lie `step` apart; line i begins at i / inner * length * step + i % inner. The
// values, from 0 to 1, are rounded to bytes as in Pillow.
inline std::vector<float> resize_lines(const std::vector<float>& values, int64_t length, int64_t wanted, int64_t step,
                                       const Filter& filter) {
    if (length == wanted) {
        return values;
    }
    const int64_t outer = int64_t(values.size()) / (length * step);
    std::vector<float> out(outer * wanted * step);
    const double scale = double(length) / wanted, stretch = std::max(scale, 1.);
    for (int64_t i = 0; i < wanted; i++) {
        const double centre = (i + 0.5) * scale, reach = filter.support * stretch;
        const int64_t first = std::max<int64_t>(int64_t(centre - reach + 0.5), 0);
        const int64_t end   = std::min<int64_t>(int64_t(centre + reach + 0.5), length);
        std::vector<double> weights;
        double sum = 0;
        for (int64_t k = first; k < end; k++) {
            weights.push_back(filter.weight((k - centre + 0.5) / stretch));
            sum += weights.back();
        }
        for (int64_t o = 0; o < outer; o++) {
            for (int64_t s = 0; s < step; s++) {
                double value = 0;
                for (int64_t k = first; k < end; k++) {
                    value += values[(o * length + k) * step + s] * weights[k - first];
                }
                const double byte = std::floor(std::clamp(value / sum, 0., 1.) * 255 + 0.5);
                out[(o * wanted + i) * step + s] = float(byte / 255);
            }
        }
    }
    return out;
}

// Resizes planes of rows: first along the axis that becomes shorter, if it is one.
inline std::vector<float> resize_as_pillow(const std::vector<float>& image, int64_t width, int64_t height,
                                           int64_t wanted_width, int64_t wanted_height, const Filter& filter) {
    if (wanted_width > width && wanted_height < height) {
        return resize_lines(resize_lines(image, height, wanted_height, width, filter), width, wanted_width, 1, filter);
    }
    return resize_lines(resize_lines(image, width, wanted_width, 1, filter), height, wanted_height, wanted_width, filter);
}

}  // namespace sdcffi

#endif
