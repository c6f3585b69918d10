// Samplers that add noise: DPM-Solver++ for stochastic equations as k-diffusion and ComfyUI have it, and DDIM.
//
// k-diffusion takes the noise of a step from a Brownian motion over sigma, so that noises of the same span agree.
// Spans of two steps do not overlap: their noises are independent, and so they are drawn here. Where a step has two
// spans that do, the second noise is drawn with the right part of the first.
#ifndef SDCFFI_STOCHASTIC_HPP
#define SDCFFI_STOCHASTIC_HPP

#include "latents.hpp"

namespace sdcffi {

// What get_ancestral_step of k-diffusion returns: the noise that is left, and the noise to add.
inline std::pair<double, double> ancestral(double from, double to, double eta) {
    const double up = std::min(to, eta * std::sqrt(std::max(to * to * (from * from - to * to) / (from * from), 0.0)));
    return {std::sqrt(std::max(to * to - up * up, 0.0)), up};
}

// sample_dpmpp_sde with r = 1/2.
template <typename Model>
Latent dpmpp_sde(Run<Model>& run, Latent x, const std::vector<float>& sigmas) {
    const std::vector<Level> levels = levels_at(sigmas, run.is_flow, 1e-4);
    x = sum({{1.0 / levels[0].alpha, &x}});
    for (size_t i = 0; i + 1 < levels.size(); i++) {
        const Level& now = levels[i];
        const Level& next = levels[i + 1];
        const int step = static_cast<int>(i) + 1;
        if (next.rho == 0.0) {
            x = run.denoise(x, now, step);
            continue;
        }
        const Latent denoised = run.denoise(x, now, -step);
        const double rho      = std::sqrt(now.rho * next.rho);
        const Level middle    = {run.is_flow ? 1.0 / (1.0 + rho) : 1.0, rho};
        const auto [down, up] = ancestral(now.rho, rho, run.eta);
        Latent between        = sum({{down / now.rho, &x}, {1.0 - down / now.rho, &denoised}});
        Latent first;
        if (up > 0.0) {
            first   = run.noise(x);
            between = sum({{1.0, &between}, {up, &first}});
        }
        const Latent second         = run.denoise(between, middle, step);
        const auto [lower, renewed] = ancestral(now.rho, next.rho, run.eta);
        x = sum({{lower / now.rho, &x}, {1.0 - lower / now.rho, &second}});
        if (renewed > 0.0) {
            const double shared = (now.sigma() - middle.sigma()) / (now.sigma() - next.sigma());
            const Latent fresh  = run.noise(x);
            x = sum({{1.0, &x}, {renewed * std::sqrt(shared), &first}, {renewed * std::sqrt(1.0 - shared), &fresh}});
        }
    }
    return sum({{levels.back().alpha, &x}});
}

// sample_dpmpp_2m_sde (midpoint) and sample_dpmpp_3m_sde, by `order`.
template <typename Model>
Latent dpmpp_multistep_sde(Run<Model>& run, Latent x, const std::vector<float>& sigmas, int order) {
    const std::vector<Level> levels = levels_at(sigmas, run.is_flow, 1e-4);
    Latent newest, older;
    double h_newest = 0.0, h_older = 0.0;
    x = sum({{1.0 / levels[0].alpha, &x}});
    for (size_t i = 0; i + 1 < levels.size(); i++) {
        const double rho = levels[i].rho, next = levels[i + 1].rho;
        const Latent denoised = run.denoise(x, levels[i], static_cast<int>(i) + 1);
        if (next == 0.0) {
            x = denoised;
            continue;
        }
        const double h = std::log(rho / next), h_eta = h * (run.eta + 1.0), b = -std::expm1(-h_eta);
        x = sum({{next / rho * std::exp(-h * run.eta), &x}, {b, &denoised}});
        const double phi_2 = 1.0 - b / h_eta, phi_3 = phi_2 / h_eta - 0.5;
        if (i > 0) {
            const double r = h_newest / h;
            const Latent slope = sum({{1.0 / r, &denoised}, {-1.0 / r, &newest}});
            if (order == 2) {
                x = sum({{1.0, &x}, {0.5 * b, &slope}});
            } else if (i == 1) {
                x = sum({{1.0, &x}, {phi_2, &slope}});
            } else {
                const double r_older = h_older / h, both = r + r_older;
                const Latent earlier = sum({{1.0 / r_older, &newest}, {-1.0 / r_older, &older}});
                x = sum({{1.0, &x},
                         {phi_2 * (1.0 + r / both) - phi_3 / both, &slope},
                         {-phi_2 * r / both + phi_3 / both, &earlier}});
            }
        }
        if (run.eta > 0.0) {
            const Latent noise = run.noise(x);
            x = sum({{1.0, &x}, {next * std::sqrt(-std::expm1(-2.0 * h * run.eta)), &noise}});
        }
        older    = newest;
        newest   = denoised;
        h_older  = h_newest;
        h_newest = h;
    }
    return sum({{levels.back().alpha, &x}});
}

// DDIM (2010.02502, equation 12), whose noise is that of an ancestral step.
template <typename Model>
Latent ddim(Run<Model>& run, Latent x, const std::vector<float>& sigmas) {
    const std::vector<Level> levels = levels_at(sigmas, run.is_flow, 1e-6);
    x = sum({{1.0 / levels[0].alpha, &x}});
    for (size_t i = 0; i + 1 < levels.size(); i++) {
        const Latent denoised = run.denoise(x, levels[i], static_cast<int>(i) + 1);
        const auto [down, up] = ancestral(levels[i].rho, levels[i + 1].rho, run.eta);
        x = sum({{down / levels[i].rho, &x}, {1.0 - down / levels[i].rho, &denoised}});
        if (up > 0.0) {
            const Latent noise = run.noise(x);
            x = sum({{1.0, &x}, {up, &noise}});
        }
    }
    return sum({{levels.back().alpha, &x}});
}

}  // namespace sdcffi

#endif
