// Samplers without noise that remember earlier steps: LMS, iPNDM, DEIS, UniPC.
#ifndef SDCFFI_MULTISTEP_HPP
#define SDCFFI_MULTISTEP_HPP

#include "latents.hpp"

namespace sdcffi {

// The integral from `from` to `to` of the polynomial that is 1 at nodes[index] and 0 at the others. Two points of Gauss
// are exact up to the third degree, so for four nodes.
inline double lagrange_integral(const std::vector<double>& nodes, size_t index, double from, double to) {
    double total = 0.0;
    for (const double place : {0.5 - std::sqrt(3.0) / 6.0, 0.5 + std::sqrt(3.0) / 6.0}) {
        const double sigma = from + (to - from) * place;
        double value       = 1.0;
        for (size_t other = 0; other < nodes.size(); other++) {
            value *= other == index ? 1.0 : (sigma - nodes[other]) / (nodes[index] - nodes[other]);
        }
        total += 0.5 * value;
    }
    return total * (to - from);
}

// k-diffusion's sample_lms of order 4: the method of Adams and Bashforth for steps of any length.
inline std::vector<double> lms_weights(const std::vector<double>& nodes, double to) {
    std::vector<double> weights;
    for (size_t k = 0; k < nodes.size(); k++) {
        weights.push_back(lagrange_integral(nodes, k, nodes[0], to));
    }
    return weights;
}

// ipndm_v as the program of its authors (zju-pi's diff-sampler) and ComfyUI have it. From the third step on these are
// not quite the weights of Adams and Bashforth, but those that the name stands for.
inline std::vector<double> ipndm_v_weights(const std::vector<double>& nodes, double to) {
    std::vector<double> h = {to - nodes[0]};  // the lengths of steps, the newest first
    for (size_t k = 0; k + 1 < nodes.size(); k++) {
        h.push_back(nodes[k] - nodes[k + 1]);
    }
    std::vector<double> weights = {1.0};
    if (h.size() > 1) {
        weights = {1.0 + h[0] / (2.0 * h[1]), -h[0] / (2.0 * h[1])};
    }
    if (h.size() > 2) {
        const double third = (1.0 - h[0] * h[0] / (3.0 * h[1] * (h[1] + h[2]))) / 2.0, back = h[1] / h[2];
        weights = {weights[0] + third, weights[1] - (1.0 + back) * third, back * third};
    }
    if (h.size() > 3) {
        const double two = h[0] + h[1], three = two + h[2], back = h[1] / h[2];
        const double far    = h[1] * (h[1] + h[2]) / (h[2] * (h[2] + h[3]));
        const double fourth = ((1.0 - h[0] / (3.0 * two)) / 2.0 + (1.0 - h[0] / (2.0 * two)) * h[0] / (6.0 * three)) *
                              h[0] * two * three / (h[1] * (h[1] + h[2]) * (h[1] + h[2] + h[3]));
        weights = {weights[0] + fourth, weights[1] - (1.0 + back + far) * fourth,
                   weights[2] + (back + far * (1.0 + h[2] / h[3])) * fourth, -far * back * fourth};
    }
    for (double& weight : weights) {
        weight *= h[0];
    }
    return weights;
}

// A step along a weighted sum of the last four slopes, in the noise level.
template <typename Model>
Latent along_slopes(Run<Model>& run, Latent x, const std::vector<float>& sigmas,
                    std::vector<double> (*weigh)(const std::vector<double>& nodes, double to)) {
    std::vector<Latent> slopes;  // the newest first
    for (size_t i = 0; i + 1 < sigmas.size(); i++) {
        const Latent denoised = run.denoise(x, {1.0, sigmas[i]}, static_cast<int>(i) + 1);
        slopes.insert(slopes.begin(), sum({{1.0 / sigmas[i], &x}, {-1.0 / sigmas[i], &denoised}}));
        slopes.resize(std::min<size_t>(slopes.size(), 4));
        std::vector<double> nodes;
        for (size_t k = 0; k < slopes.size(); k++) {
            nodes.push_back(sigmas[i - k]);
        }
        const std::vector<double> weights = weigh(nodes, sigmas[i + 1]);
        for (size_t k = 0; k < slopes.size(); k++) {
            x = sum({{1.0, &x}, {weights[k], &slopes[k]}});
        }
    }
    return x;
}

// The integral of (log rho - log other) / (log own - log other) from `from` to `to`.
inline double log_integral(double own, double other, double from, double to) {
    auto primitive = [&](double rho) { return rho * (std::log(rho) - std::log(other) - 1.0) / (std::log(own) - std::log(other)); };
    return primitive(to) - primitive(from);
}

// DEIS (2204.13902) in log rho, of order 2: diffusers' DEISMultistepScheduler. The step to 0 is of the first order.
template <typename Model>
Latent deis(Run<Model>& run, Latent x, const std::vector<float>& sigmas) {
    const std::vector<Level> levels = levels_at(sigmas, run.is_flow, 1e-6);
    const size_t steps              = levels.size() - 1;
    Latent before;
    x = sum({{1.0 / levels[0].alpha, &x}});
    for (size_t i = 0; i < steps; i++) {
        const double rho = levels[i].rho, next = levels[i + 1].rho;
        const Latent denoised = run.denoise(x, levels[i], static_cast<int>(i) + 1);
        const Latent noise    = sum({{1.0 / rho, &x}, {-1.0 / rho, &denoised}});
        const bool is_first   = i == 0 || next == 0.0 || (i + 1 == steps && steps < 15);
        const double part     = is_first ? 0.0 : log_integral(levels[i - 1].rho, rho, rho, next);
        x      = sum({{1.0, &denoised}, {next - part, &noise}, {part, is_first ? &noise : &before}});
        before = noise;
    }
    return sum({{levels[steps].alpha, &x}});
}

// UniPC (2302.04867) of order 2 with B(h) = exp(h) - 1: diffusers' UniPCMultistepScheduler as it is by default.
template <typename Model>
Latent unipc(Run<Model>& run, Latent x, const std::vector<float>& sigmas) {
    const std::vector<Level> levels = levels_at(sigmas, run.is_flow, 1e-6);
    const size_t steps              = levels.size() - 1;
    auto lambda                     = [&](size_t i) { return -std::log(levels[i].rho); };
    Latent start, newest, older;  // the last step's start; what was denoised there and a step before
    x = sum({{1.0 / levels[0].alpha, &x}});
    for (size_t i = 0; i < steps; i++) {
        const Latent denoised = run.denoise(x, levels[i], static_cast<int>(i) + 1);
        if (i > 0) {  // correct the last step by what was denoised at its end
            const double h = lambda(i - 1) - lambda(i), ratio = std::exp(h), b = std::expm1(h);
            const double phi = b / h - 1.0, first = phi / b, second = 2.0 * (phi / h - 0.5) / b;
            if (i == 1) {
                x = sum({{ratio, &start}, {-0.5 * b, &newest}, {-0.5 * b, &denoised}});
            } else {
                const double r     = (lambda(i - 2) - lambda(i - 1)) / -h;
                const double early = (first - second) / (1.0 - r), late = first - early;
                x = sum({{ratio, &start}, {-b * (1.0 - early / r - late), &newest}, {-b * early / r, &older}, {-b * late, &denoised}});
            }
        }
        start = x;
        if (levels[i + 1].rho == 0.0) {
            x = denoised;
        } else {
            const double h = lambda(i) - lambda(i + 1), ratio = std::exp(h), b = std::expm1(h);
            const bool is_first = i == 0 || i + 1 == steps;
            const double half   = is_first ? 0.0 : 0.5 * h / (lambda(i) - lambda(i - 1));
            x = sum({{ratio, &start}, {-b * (1.0 - half), &denoised}, {-b * half, is_first ? &denoised : &newest}});
        }
        older  = newest;
        newest = denoised;
    }
    return sum({{levels[steps].alpha, &x}});
}

}  // namespace sdcffi

#endif
