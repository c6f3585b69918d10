// A sampler's view of the engine: latents, its denoiser and its noise.
#ifndef SDCFFI_LATENTS_HPP
#define SDCFFI_LATENTS_HPP

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

namespace sdcffi {

using Latent = sd::Tensor<float>;

// The engine could not compute; the sampler ends without a latent.
struct NotComputed {};

// The denoised latent in what the engine's denoiser returns: since guidance.h came, it returns its parts too.
inline Latent prediction_in(Latent output) {
    return output;
}
template <typename Output>
auto prediction_in(Output output) -> decltype(Latent(output.pred)) {
    return std::move(output.pred);
}

// A sum of latents, each times a factor.
inline Latent sum(std::initializer_list<std::pair<double, const Latent*>> terms) {
    Latent result = *terms.begin()->second;
    float* to     = result.data();
    for (int64_t i = 0; i < result.numel(); i++) {
        double value = 0.0;
        for (const auto& [factor, latent] : terms) {
            value += factor * latent->data()[i];
        }
        to[i] = static_cast<float>(value);
    }
    return result;
}

// x = alpha * (image + rho * noise). Samplers compute with x / alpha, which has noise of `rho`: so one formula holds for
// models that scale the image (flow) and those that do not.
struct Level {
    double alpha = 1.0;
    double rho   = 0.0;

    double sigma() const { return alpha * rho; }
};

// `least` is the part of the image at the first level of a flow model, where its formulas would divide by 0: 1e-4 in
// ComfyUI's stochastic samplers, 1e-6 in diffusers.
inline std::vector<Level> levels_at(const std::vector<float>& sigmas, bool is_flow, double least) {
    std::vector<Level> levels;
    for (double sigma : sigmas) {
        const double alpha = is_flow ? std::max(1.0 - sigma, least) : 1.0;
        levels.push_back({alpha, is_flow ? (1.0 - alpha) / alpha : sigma});
    }
    return levels;
}

// One run of a sampler. `Model` is the engine's denoiser.
template <typename Model>
class Run {
public:
    Run(Model& model, std::shared_ptr<RNG> rng, bool is_flow, double eta)
        : is_flow(is_flow), eta(eta), model_(model), rng_(std::move(rng)) {}

    // `step` counts from 1; it is negative in a call after which the same step has another.
    Latent denoise(const Latent& x, const Level& level, int step) {
        Latent result = prediction_in(model_(level.alpha == 1.0 ? x : sum({{level.alpha, &x}}), static_cast<float>(level.sigma()), step));
        if (result.empty()) {
            throw NotComputed{};
        }
        return result;
    }

    Latent noise(const Latent& like) { return Latent::randn_like(like, rng_); }

    const bool is_flow;
    const double eta;

private:
    Model& model_;
    std::shared_ptr<RNG> rng_;
};

}  // namespace sdcffi

#endif
