// Our samplers: those that upstream lacks, and those that it computes otherwise than their authors.
#ifndef SDCFFI_SAMPLERS_HPP
#define SDCFFI_SAMPLERS_HPP

#include <optional>
#include <string>

#include "engine/interrupts.hpp"
#include "multistep.hpp"
#include "stochastic.hpp"

namespace sdcffi {

// Samplers whose formulas are for models that add noise to an image without scaling it down, and whose authors have
// none for flow models: TCD follows Stable Diffusion's timesteps; upstream's others are of 2026-08.
inline bool samples_flow(const std::string& sampler) {
    for (const char* other : {"tcd", "euler_cfg_pp", "euler_a_cfg_pp", "dpm++2m_sde_bt"}) {
        if (sampler == other) {
            return false;
        }
    }
    return true;
}

// The latent that a sampler of ours ends with, empty if the engine could not compute; none for a sampler of upstream's.
template <typename Model>
std::optional<Latent> sample(sample_method_t method, Model& model, const Latent& x, const std::vector<float>& sigmas,
                             std::shared_ptr<RNG> rng, bool is_flow, float eta) {
    const std::string name = sd_sample_method_name(method);
    if (is_flow && !samples_flow(name)) {
        throw Refused("the sampler " + name + " is not for flow models");
    }
    if (name == "ddim_trailing" && !(eta <= 1.0f)) {
        throw Refused("eta must be from 0 to 1 with the sampler ddim_trailing");
    }
    Run<Model> run(model, std::move(rng), is_flow, eta);
    try {
        if (name == "dpm++2m_sde_bt" && sigmas.size() == 2) {  // upstream's returns the noise: it has no span to draw
            return dpmpp_multistep_sde(run, x, sigmas, 2);
        }
        switch (method) {
            case LMS_SAMPLE_METHOD:
                return along_slopes(run, x, sigmas, lms_weights);
            case IPNDM_V_SAMPLE_METHOD:
                return along_slopes(run, x, sigmas, ipndm_v_weights);
            case DEIS_SAMPLE_METHOD:
                return deis(run, x, sigmas);
            case UNIPC_SAMPLE_METHOD:
                return unipc(run, x, sigmas);
            case DPMPP_SDE_SAMPLE_METHOD:
                return dpmpp_sde(run, x, sigmas);
            case DPMPP2M_SDE_SAMPLE_METHOD:
                return dpmpp_multistep_sde(run, x, sigmas, 2);
            case DPMPP3M_SDE_SAMPLE_METHOD:
                return dpmpp_multistep_sde(run, x, sigmas, 3);
            case DDIM_TRAILING_SAMPLE_METHOD:
                return ddim(run, x, sigmas);
            default:
                return {};
        }
    } catch (const NotComputed&) {
        return Latent{};
    }
}

}  // namespace sdcffi

#endif
