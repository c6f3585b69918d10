// The schedule of a loaded model. The patched denoiser.hpp includes this file where its classes are complete.
#ifndef SDCFFI_SCHEDULE_OF_HPP
#define SDCFFI_SCHEDULE_OF_HPP

#include <string>

#include "engine/finite.hpp"
#include "engine/interrupts.hpp"
#include "schedules.hpp"

namespace sdcffi {

// How a model's output is meant, as far as schedules and samplers differ by it.
enum class Prediction { EPS_OR_V, EDM_V, FLOW };

inline Prediction prediction_of(Denoiser& denoiser) {
    if (dynamic_cast<DiscreteFlowDenoiser*>(&denoiser) != nullptr) {
        return Prediction::FLOW;
    }
    return dynamic_cast<EDMVDenoiser*>(&denoiser) != nullptr ? Prediction::EDM_V : Prediction::EPS_OR_V;
}

// As sdg_prediction returns it.
inline const char* prediction_name(Denoiser& denoiser) {
    switch (prediction_of(denoiser)) {
        case Prediction::FLOW:
            return "flow";
        case Prediction::EDM_V:
            return "edm_v";
        default:
            return dynamic_cast<CompVisVDenoiser*>(&denoiser) != nullptr ? "v" : "eps";
    }
}

inline bool has_levels(Prediction prediction, const std::string& scheduler) {
    for (const char* tables : {"ays", "gits"}) {  // of the noise levels of Stable Diffusion
        if (scheduler == tables) {
            return prediction == Prediction::EPS_OR_V;
        }
    }
    for (const char* times : {"flux", "flux2", "ltx2", "logit_normal"}) {
        if (scheduler == times) {
            return prediction == Prediction::FLOW;
        }
    }
    return true;
}

inline Levels levels_of(Denoiser& denoiser, OwnShift shift) {
    Levels levels;
    if (dynamic_cast<DiscreteFlowDenoiser*>(&denoiser) != nullptr) {
        // BFL's and ComfyUI's FLUX has ten thousand levels, SD3 and its relatives a thousand.
        levels.size     = dynamic_cast<FluxFlowDenoiser*>(&denoiser) != nullptr ? 10000 : 1000;
        levels.is_flow  = true;
        levels.terminal = shift.terminal;
        levels.at       = [=](double index) { return shift((index + 1.0) / levels.size); };
    } else if (prediction_of(denoiser) == Prediction::EDM_V) {
        const double least = std::log(denoiser.sigma_min()), most = std::log(denoiser.sigma_max());
        levels.at = [=](double index) { return std::exp(between(least, most, index / (TIMESTEPS - 1.0))); };
    } else {
        levels.at = [&](double index) {
            return double(denoiser.t_to_sigma(static_cast<float>(std::clamp(index, 0.0, TIMESTEPS - 1.0))));
        };
    }
    return levels;
}

inline std::optional<std::vector<float>> own_schedule(Denoiser& denoiser, uint32_t steps, int latent_pixels, scheduler_t scheduler, SDVersion version) {
    const std::string name = sd_scheduler_name(scheduler);
    if (!has_levels(prediction_of(denoiser), name)) {
        throw Refused("the scheduler " + name + " has no noise levels for a model of " + prediction_name(denoiser) + " prediction");
    }
    if (steps == 0 || steps > INT32_MAX) {
        return {};
    }
    auto flow      = dynamic_cast<DiscreteFlowDenoiser*>(&denoiser);
    OwnShift shift = {};
    if (flow != nullptr) {
        const bool is_mu  = dynamic_cast<FluxFlowDenoiser*>(&denoiser) != nullptr;
        FlowShift wanted  = denoiser.sdcffi_shift;
        shift             = own_shift(wanted, version, is_mu, steps, latent_pixels);
        flow->set_shift(static_cast<float>(is_mu ? std::log(shift.factor) : shift.factor));
        const double tokens = image_tokens(version, latent_pixels);
        if (name == "flux" || name == "flux2") {  // these follow no other shift
            shift     = {std::exp(name == "flux" ? flux_mu(tokens) : flux2_mu(tokens, steps))};
            scheduler = DISCRETE_SCHEDULER;
        }
    }
    const std::vector<double> levels = spaced(static_cast<int>(steps), scheduler, levels_of(denoiser, shift));
    if (levels.empty()) {
        return {};
    }
    std::vector<float> sigmas(levels.begin(), levels.end());
    sigmas.push_back(0.0f);
    LOG_INFO("get_sigmas with %s scheduler", name.c_str());
    return finite_sigmas(std::move(sigmas), "the scheduler " + name);
}

// Rescale a schedule so that it ends with noise alone ("Common Diffusion Noise Schedules and Sample Steps are Flawed",
// 2305.08891, algorithm 1). The last level would be infinite; AUTOMATIC1111's and ComfyUI's is 4519.
inline void end_in_noise(float* sigmas, float* log_sigmas, int count) {
    auto root        = [&](int i) { return 1.0 / std::sqrt(1.0 + double(sigmas[i]) * sigmas[i]); };
    const double first = root(0), last = root(count - 1);
    for (int i = 0; i < count; i++) {
        const double scaled = (root(i) - last) * first / (first - last);
        const double alphas = i + 1 < count ? scaled * scaled : 4.8973451890853435e-08;
        sigmas[i]           = static_cast<float>(std::sqrt((1.0 - alphas) / alphas));
        log_sigmas[i]       = std::log(sigmas[i]);
    }
}

// As AUTOMATIC1111 and ComfyUI do for a v model whose checkpoint has the key "ztsnr".
template <typename Tensors>
void end_in_noise_if_asked(Denoiser& denoiser, const Tensors& tensors) {
    auto v_model       = dynamic_cast<CompVisVDenoiser*>(&denoiser);
    const bool is_asked = tensors.find("ztsnr") != tensors.end() || tensors.find("model.diffusion_model.ztsnr") != tensors.end();
    if (is_asked && v_model != nullptr && prediction_of(denoiser) != Prediction::EDM_V) {
        LOG_INFO("noise schedule rescaled to end in noise alone (ztsnr)");
        end_in_noise(v_model->sigmas, v_model->log_sigmas, TIMESTEPS);
    }
}

}  // namespace sdcffi

#endif
