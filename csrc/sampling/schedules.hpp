// Spacings of noise levels, each as its author defines it, over the table of levels that a model was trained on.
#ifndef SDCFFI_SCHEDULES_HPP
#define SDCFFI_SCHEDULES_HPP

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "stable-diffusion.h"

namespace sdcffi {

// The levels of a model, indexed from 0, the least noise, to `size` - 1. Indices may lie between two of them.
struct Levels {
    int size     = 1000;
    bool is_flow = false;
    std::function<double(double)> at;
    double terminal = 0.0;  // flow models only: what their own schedule ends at before 0

    double least() const { return at(0); }
    double most() const { return at(size - 1); }
    // The level at t, which is from 0 to 1 for flow models.
    double at_time(double t) const { return at(t * size - 1); }
};

inline double between(double first, double last, double part) {
    return first + (last - first) * part;
}

// Beta distribution, by the continued fraction of its function (Numerical Recipes, 6.4; DLMF 8.17.22).
inline double beta_fraction(double x, double a, double b) {
    const double tiny = 1e-300;
    double c = 1.0, d = 1.0 - (a + b) * x / (a + 1.0);
    d             = 1.0 / (std::fabs(d) < tiny ? tiny : d);
    double result = d;
    for (int m = 1; m <= 500; m++) {
        for (const double term : {m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
                                  -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))}) {
            d = 1.0 + term * d;
            d = 1.0 / (std::fabs(d) < tiny ? tiny : d);
            c = 1.0 + term / c;
            c = std::fabs(c) < tiny ? tiny : c;
            result *= d * c;
        }
        if (std::fabs(d * c - 1.0) < 1e-15) {
            break;
        }
    }
    return result;
}

inline double beta_cdf(double x, double a, double b) {
    if (x <= 0.0 || x >= 1.0) {
        return x <= 0.0 ? 0.0 : 1.0;
    }
    const double front = std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) + a * std::log(x) + b * std::log1p(-x));
    return x < (a + 1.0) / (a + b + 2.0) ? front * beta_fraction(x, a, b) / a : 1.0 - front * beta_fraction(1.0 - x, b, a) / b;
}

inline double beta_quantile(double p, double a, double b) {
    if (p <= 0.0 || p >= 1.0) {
        return p <= 0.0 ? 0.0 : 1.0;
    }
    if (a == b && p >= 0.5) {  // so that a half is exactly a half, which is rounded up
        return p == 0.5 ? 0.5 : 1.0 - beta_quantile(1.0 - p, a, b);
    }
    double low = 0.0, high = 1.0;
    for (int i = 0; i < 100 && high - low > 1e-16; i++) {
        const double middle = 0.5 * (low + high);
        (beta_cdf(middle, a, b) < p ? low : high) = middle;
    }
    return 0.5 * (low + high);
}

// "Beta Sampling is All You Need" (2407.12173) as ComfyUI has it: quantiles of Beta(0.6, 0.6) as indices, rounded. Where
// rounding would merge two steps (at 60 and more), ComfyUI makes fewer; here they stay apart.
inline std::vector<double> beta_indices(int steps, int size) {
    std::vector<double> exact, rounded;
    for (int i = 0; i < steps; i++) {
        exact.push_back(beta_quantile(1.0 - double(i) / steps, 0.6, 0.6) * (size - 1));
        rounded.push_back(std::nearbyint(exact.back()));
    }
    const bool merges = std::adjacent_find(rounded.begin(), rounded.end()) != rounded.end();
    return merges ? exact : rounded;
}

// Part of RES4LYF's bong_tangent: a stretch of the arc tangent.
inline std::vector<double> tangent(int steps, double slope, double pivot, double start, double end) {
    auto value = [&](int x) { return -std::atan(slope * (x - pivot)); };
    const double first = value(0), last = value(steps - 1);
    std::vector<double> levels;
    for (int x = 0; x < steps; x++) {
        levels.push_back(steps == 1 ? start : between(end, start, (value(x) - last) / (first - last)));
    }
    return levels;
}

// RES4LYF's bong_tangent. Flow models: from 1 by 0.5 to 0; others: between the ends of their levels.
inline std::vector<double> bong_tangent(int steps, double start, double end) {
    const int count    = steps + 2;
    const int pivot    = static_cast<int>(count * 0.6);
    const double slope = 0.2 / (count / 40.0), middle = 0.5 * (start + end);
    std::vector<double> levels = tangent(pivot, slope, pivot, start, middle);
    levels.pop_back();
    for (double level : tangent(count - pivot, slope, 0, middle, end)) {
        levels.push_back(level);
    }
    levels.pop_back();  // the last is 0 in any case
    return levels;
}

// A family's own schedule: evenly spaced, shifted, and stretched to end where the family does.
inline std::vector<double> own_levels(int steps, const Levels& levels) {
    std::vector<double> result;
    for (int i = 0; i < steps; i++) {
        result.push_back(levels.at_time(1.0 - double(i) / steps));
    }
    if (levels.terminal > 0.0 && steps > 1) {
        const double scale = (1.0 - levels.terminal) / (1.0 - result.back());
        for (double& sigma : result) {
            sigma = 1.0 - (1.0 - sigma) * scale;
        }
    }
    return result;
}

// The levels of each step, without the final 0; nothing for a spacing that only upstream has.
inline std::vector<double> spaced(int steps, scheduler_t scheduler, const Levels& levels) {
    const int last     = levels.size - 1;
    const double least = levels.least(), most = levels.most();
    auto part = [&](int i) { return steps > 1 ? double(i) / (steps - 1) : 0.0; };
    std::function<double(int)> level;
    switch (scheduler) {
        case DISCRETE_SCHEDULER:
            if (levels.is_flow) {
                return own_levels(steps, levels);
            }
            level = [&](int i) { return levels.at(last * (1.0 - part(i))); };
            break;
        case SIMPLE_SCHEDULER:
            level = [&](int i) { return levels.at(last - static_cast<int>(i * (double(levels.size) / steps))); };
            break;
        case SGM_UNIFORM_SCHEDULER:  // ComfyUI's normal_scheduler(sgm=True), which takes a flow model's level for a time
            level = [&](int i) {
                return levels.is_flow ? levels.at_time(between(1.0, least, double(i) / steps)) : levels.at(last * (1.0 - double(i) / steps));
            };
            break;
        case LCM_SCHEDULER:
            level = [&](int i) { return levels.at_time((50 - i * 50 / steps) * 20 / 1000.0); };
            break;
        case SMOOTHSTEP_SCHEDULER:
            level = [&](int i) {
                const double u = 1.0 - double(i) / steps;
                return levels.at(std::round(u * u * (3.0 - 2.0 * u) * last));
            };
            break;
        case KARRAS_SCHEDULER:
            level = [&](int i) { return std::pow(between(std::pow(most, 1 / 7.0), std::pow(least, 1 / 7.0), part(i)), 7.0); };
            break;
        case EXPONENTIAL_SCHEDULER:
            level = [&](int i) { return std::exp(between(std::log(most), std::log(least), part(i))); };
            break;
        case KL_OPTIMAL_SCHEDULER:
            level = [&](int i) { return std::tan(between(std::atan(most), std::atan(least), part(i))); };
            break;
        case BONG_TANGENT_SCHEDULER:
            return steps == 1 ? std::vector<double>{most} : bong_tangent(steps, levels.is_flow ? 1.0 : most, levels.is_flow ? 0.0 : least);
        case BETA_SCHEDULER: {
            std::vector<double> result = beta_indices(steps, levels.size);
            std::transform(result.begin(), result.end(), result.begin(), levels.at);
            return result;
        }
        default:
            return {};
    }
    std::vector<double> result;
    for (int i = 0; i < steps; i++) {
        result.push_back(level(i));
    }
    return result;
}

}  // namespace sdcffi

#endif
