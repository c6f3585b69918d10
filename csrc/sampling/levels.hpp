// Noise levels: the shift of flow models, and the families' own shifts, as their authors and diffusers have them.
#ifndef SDCFFI_LEVELS_HPP
#define SDCFFI_LEVELS_HPP

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "model.h"

namespace sdcffi {

// What the shift of a call depends on, besides size and steps.
struct FlowShift {
    float asked       = INFINITY;  // by the caller; not finite: nothing
    float usual       = INFINITY;  // the engine's own for the model
    bool second_model = false;     // Wan 2.2 with a model for high noise
    std::string network;           // as the engine describes it: "Wan2.1-I2V-14B"
};

// Noise levels of a flow model as its family makes them of evenly spaced ones.
struct OwnShift {
    double factor   = 1.0;  // sigma = factor / (factor + 1 / t - 1), which is a number however small the factor
    double terminal = 0.0;  // the last level above 0; 0: as it comes

    double operator()(double t) const { return factor / (factor + (1.0 / t - 1.0)); }
};


// FLUX.1 dev and its relatives shift by the image's size. Tensors that only they have: guidance (schnell has none), and
// Chroma's layer in its place.
inline bool shifts_by_size(const std::string& tensor) {
    return tensor == "model.diffusion_model.guidance_in.in_layer.weight" ||
           tensor == "model.diffusion_model.distilled_guidance_layer.in_proj.weight";
}

// The number of an image's tokens, of the number of its latent pixels (Chroma Radiance: pixels).
inline double image_tokens(SDVersion version, int latent_pixels) {
    if (version == VERSION_CHROMA_RADIANCE) {
        return latent_pixels / 256.0;
    }
    return sd_version_is_flux2(version) ? latent_pixels : latent_pixels / 4.0;
}

// `calculate_shift` of diffusers' pipelines, `get_lin_function` of BFL's sampling.py.
inline double linear_mu(double tokens, double base_shift, double max_shift, double max_tokens) {
    return base_shift + (max_shift - base_shift) * (tokens - 256.0) / (max_tokens - 256.0);
}

// FLUX.1 dev: scheduler_config.json, and get_schedule of BFL's sampling.py.
inline double flux_mu(double tokens) {
    return linear_mu(tokens, 0.5, 1.15, 4096.0);
}

// FLUX.2: compute_empirical_mu of BFL's sampling.py and diffusers' Flux2Pipeline.
inline double flux2_mu(double tokens, double steps) {
    const double many = 0.00016927 * tokens + 0.45666666;  // at 200 steps
    if (tokens > 4300.0) {
        return many;
    }
    const double few   = 8.73809524e-05 * tokens + 1.89833333;  // at 10 steps
    const double slope = (many - few) / 190.0;
    return slope * steps + many - 200.0 * slope;
}

// Wan's generate.py and wan/configs; without a special case the engine's 5.
inline double wan_shift(const FlowShift& shift, SDVersion version, int latent_pixels) {
    if (version == VERSION_WAN2 && shift.second_model) {
        return 12.0;  // 2.2 T2V A14B
    }
    if (shift.network.find("VACE") != std::string::npos || shift.network.find("FLF2V") != std::string::npos) {
        return 16.0;
    }
    const bool is_480p = latent_pixels <= 104 * 60;
    return shift.network.find("Wan2.1-I2V") != std::string::npos && is_480p ? 3.0 : shift.usual;
}

// The shift of a flow model. `is_mu`: the engine has the shift as an exponent for this model.
inline OwnShift own_shift(const FlowShift& shift, SDVersion version, bool is_mu, uint32_t steps, int latent_pixels) {
    const double tokens = image_tokens(version, latent_pixels);
    if (std::isfinite(shift.asked)) {
        return {is_mu ? std::exp(shift.asked) : shift.asked};
    }
    // Families are shifted as they were trained only if the prediction is their own.
    if (sd_version_is_flux2(version) && is_mu) {
        return {std::exp(flux2_mu(tokens, steps))};
    }
    if (sd_version_is_flux(version) && is_mu) {
        const bool by_size = version == VERSION_OVIS_IMAGE || shift.usual > 1.0f;
        return {by_size ? std::exp(flux_mu(tokens)) : 1.0};
    }
    if (sd_version_is_qwen_image(version) && !is_mu) {
        return {std::exp(linear_mu(tokens, 0.5, 0.9, 8192.0)), 0.02};  // scheduler_config.json
    }
    if (sd_version_is_wan(version) && !is_mu) {
        return {wan_shift(shift, version, latent_pixels)};
    }
    if (!std::isfinite(shift.usual)) {
        return {};
    }
    return {is_mu ? std::exp(shift.usual) : shift.usual};
}

}  // namespace sdcffi

#endif
