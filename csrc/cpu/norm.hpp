// Norms of rows and of groups of planes, with the scale, the shift and the SiLU that often follow them.
//
// Mean and variance are gathered from spans that stay in the first-level cache: a float that is near the span's mean, then
// the sums of the distances from it and of their squares, which correct it, and in double precision what the spans have in
// common. So a norm of any size reads memory twice and writes it once, and its error does not grow with the mean. The
// order of each sum does not depend on the threads.
#pragma once

#include <array>
#include <cmath>
#include <cstring>

#include "activation.hpp"
#include "ggml.h"
#include "rows.hpp"
#include "sharing.hpp"

namespace sdcffi {

constexpr int64_t kSpan = 2048;

inline double sum_of_lanes(Vector value) {
    float lanes[kWidth];
    double sums[kWidth];
    store(lanes, value);
    for (int i = 0; i < kWidth; i++) sums[i] = lanes[i];
    for (int half = kWidth / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) sums[i] += sums[i + half];
    }
    return sums[0];
}

// function(Vector* sums, Vector x) adds to the sums what x counts; of `fill` that is nothing.
template <int sums, class Function>
std::array<double, sums> sums_of(const float* x, int64_t count, float fill, Function function) {
    constexpr int kChains = 4;  // none waits for the other
    Vector total[kChains][sums];
    for (auto& chain : total) {
        for (Vector& sum : chain) sum = all(0.0f);
    }
    int64_t i = 0;
    for (; i + kChains * kWidth <= count; i += kChains * kWidth) {
        SDCFFI_UNROLLED
        for (int c = 0; c < kChains; c++) function(total[c], load(x + i + c * kWidth));
    }
    for (; i + kWidth <= count; i += kWidth) function(total[0], load(x + i));
    if (i < count) function(total[1], load_some(x + i, count - i, fill));
    std::array<double, sums> result;
    for (int n = 0; n < sums; n++) {
        result[n] = sum_of_lanes(add(add(total[0][n], total[1][n]), add(total[2][n], total[3][n])));
    }
    return result;
}

struct Moments {
    double count = 0, mean = 0, squares = 0;  // squares of the distances from the mean

    void add(const Moments& other) {
        const double apart = other.mean - mean, all = count + other.count;
        squares += other.squares + apart * apart * count * other.count / all;
        mean += apart * other.count / all;
        count = all;
    }
};

inline Moments moments_of(const float* x, int64_t count) {
    Moments moments;
    for (; count > 0; x += kSpan, count -= kSpan) {
        const int64_t some = std::min(count, kSpan);
        const auto sum = sums_of<1>(x, some, 0.0f, [](Vector* sums, Vector x) { sums[0] = add(sums[0], x); });
        const float near = float(sum[0] / some);
        const auto [apart, squares] = sums_of<2>(x, some, near, [near](Vector* sums, Vector x) {
            const Vector distance = subtract(x, all(near));
            sums[0] = add(sums[0], distance);
            sums[1] = multiply_add(distance, distance, sums[1]);
        });
        moments.add({double(some), near + apart / some, squares - apart * apart / some});
    }
    return moments;
}

inline double mean_square_of(const float* x, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i += kSpan) {
        sum += sums_of<1>(x + i, std::min(count - i, kSpan), 0.0f, [](Vector* sums, Vector x) {
            sums[0] = multiply_add(x, x, sums[0]);
        })[0];
    }
    return sum / count;
}

// What is done to a norm's result: one number for each plane of group norms, or for each element of the other norms' rows.
// Null is nothing.
struct AfterNorm {
    const float *scale = nullptr, *shift = nullptr;
    bool silu = false;
};

inline bool is_our_norm(const ggml_tensor* node) {
    return node->type == GGML_TYPE_F32 && node->src[0]->type == GGML_TYPE_F32 && ggml_is_contiguous(node) &&
           (node->op == GGML_OP_GROUP_NORM ? ggml_is_contiguous(node->src[0]) : node->src[0]->nb[0] == sizeof(float));
}

class Norm {
public:
    // The result goes to `to`, which is contiguous and may be the input.
    Norm(const ggml_tensor* node, const ggml_tensor* to, const AfterNorm& after)
        : node_(node), from_(node->src[0]), to_(static_cast<float*>(to->data)), after_(after) {
        std::memcpy(&epsilon_, node->op_params + (node->op == GGML_OP_GROUP_NORM ? 1 : 0), sizeof(epsilon_));
    }

    void compute(const ggml_compute_params* params) const {
        if (node_->op == GGML_OP_GROUP_NORM) {
            const int64_t groups = node_->op_params[0], planes = (node_->ne[2] + groups - 1) / groups;
            share_rows(params, groups * node_->ne[3], planes * plane(), [&](int64_t first, int64_t end) {
                for (int64_t i = first; i < end; i++) normalise_group(i / groups, i % groups * planes, planes);
            });
        } else {
            share_rows(params, ggml_nrows(node_), node_->ne[0], [&](int64_t first, int64_t end) {
                for (int64_t row = first; row < end; row++) normalise_row(row);
            });
        }
    }

private:
    const ggml_tensor *node_, *from_;
    float* to_;
    AfterNorm after_;
    float epsilon_;

    int64_t plane() const { return node_->ne[0] * node_->ne[1]; }

    void normalise_group(int64_t item, int64_t first, int64_t planes) const {
        planes = std::min(planes, node_->ne[2] - first);
        if (planes <= 0) return;  // more groups than planes
        const int64_t at = (item * node_->ne[2] + first) * plane();
        const float* x   = static_cast<const float*>(from_->data) + at;
        const Moments moments = moments_of(x, planes * plane());
        const float mean = float(moments.mean), rest = float(moments.mean - mean), by = deviates_by(moments.squares / moments.count);
        for (int64_t i = 0; i < planes; i++) {
            const Vector scale = all(after_.scale != nullptr ? by * after_.scale[first + i] : by);
            const Vector shift = subtract(all(after_.shift != nullptr ? after_.shift[first + i] : 0.0f), times(all(rest), scale));
            const auto normal  = [&](Vector x) { return multiply_add(subtract(x, all(mean)), scale, shift); };
            if (after_.silu) {
                map_row(x + i * plane(), to_ + at + i * plane(), plane(), [&](Vector x, int64_t) { return silu(normal(x)); });
            } else {
                map_row(x + i * plane(), to_ + at + i * plane(), plane(), [&](Vector x, int64_t) { return normal(x); });
            }
        }
    }

    void normalise_row(int64_t row) const {
        const int64_t wide = node_->ne[0];
        const float* x = reinterpret_cast<const float*>(row_at(from_, node_, row));
        float mean = 0, rest = 0, by = 0;
        if (node_->op == GGML_OP_NORM) {
            const Moments moments = moments_of(x, wide);
            mean = float(moments.mean);
            rest = float(moments.mean - mean);
            by   = deviates_by(moments.squares / moments.count);
        } else {
            by = deviates_by(mean_square_of(x, wide));
        }
        const Vector from = all(mean), scale = all(by), shift = all(-rest * by);
        const auto normal  = [&](Vector x) { return multiply_add(subtract(x, from), scale, shift); };
        const auto element = [&](const float* values, int64_t i) {
            return i + kWidth <= wide ? load(values + i) : load_some(values + i, wide - i, 0.0f);
        };
        float* to = to_ + row * wide;
        if (after_.shift != nullptr) {
            map_row(x, to, wide, [&](Vector x, int64_t i) { return multiply_add(normal(x), element(after_.scale, i), element(after_.shift, i)); });
        } else if (after_.scale != nullptr) {
            map_row(x, to, wide, [&](Vector x, int64_t i) { return times(normal(x), element(after_.scale, i)); });
        } else {
            map_row(x, to, wide, [&](Vector x, int64_t) { return normal(x); });
        }
    }

    float deviates_by(double variance) const { return float(1.0 / std::sqrt(variance + epsilon_)); }
};

}  // namespace sdcffi
