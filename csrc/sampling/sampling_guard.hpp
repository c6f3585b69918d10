// The sdg_ functions for sampling. The patched stable-diffusion.cpp includes this file where sd_ctx_t is complete.
#ifndef SDCFFI_SAMPLING_GUARD_HPP
#define SDCFFI_SAMPLING_GUARD_HPP

#include "guard/guarded_call.hpp"
#include "guidance.hpp"

namespace sdcffi {

// The engine's denoiser returns a latent, or in newer revisions a struct whose `pred` it is.
using Denoised = decltype(std::declval<denoise_cb_t>()(std::declval<const Latent&>(), 0.0f, 0));

inline void set_prediction(Latent& output, Latent latent) {
    output = std::move(latent);
}
template <typename Output>
auto set_prediction(Output& output, Latent latent) -> decltype(void(output.pred)) {
    output.pred        = latent;
    output.pred_uncond = std::move(latent);
}

// In newer revisions the engine's samplers take a text of more settings, and the denoiser's schedule.
template <typename... Known, typename... Given>
Latent run_sampler(Latent (*sampler)(Known...), Given... given) {
    if constexpr (sizeof...(Known) == sizeof...(Given)) {
        return sampler(given...);
    } else {
        return sampler(given..., nullptr, nullptr);
    }
}

}  // namespace sdcffi

const char* sdg_prediction(const sd_ctx_t* context) {
    return sdcffi::prediction_name(*context->sd->denoiser);
}

sdg_status sdg_schedule(sd_ctx_t* context, const sd_sample_params_t* params, int width, int height, float* sigmas,
                        int* count, sdg_error* error) {
    return sdcffi::guard(error, [&] {
        auto& engine               = *context->sd;
        const auto method          = resolve_sample_method(context, params->sample_method);
        const scheduler_t spacing  = resolve_scheduler(context, params->scheduler, method);
        engine.set_flow_shift(params->flow_shift);
        const std::vector<float> found =
            engine.denoiser->get_sigmas(params->sample_steps, engine.get_image_seq_len(height, width), spacing, engine.version);
        if (static_cast<int>(found.size()) > *count) {
            throw sdcffi::Refused("the schedule has " + std::to_string(found.size()) + " noise levels");
        }
        std::copy(found.begin(), found.end(), sigmas);
        *count = static_cast<int>(found.size());
        return true;
    });
}

sdg_status sdg_run_sampler(sample_method_t method, const float* sigmas, int count, bool is_flow, float eta, uint64_t seed,
                           sdg_denoise_cb_t denoise, void* data, float* latent, int64_t size, sdg_error* error) {
    return sdcffi::guard(error, [&] {
        const std::vector<int64_t> shape = {size, 1, 1, 1};
        const std::vector<float> levels  = {sigmas, sigmas + count};
        denoise_cb_t model               = [&](const sdcffi::Latent& x, float sigma, int step) {
            sdcffi::Latent result(shape);
            denoise(x.data(), sigma, step, result.data(), data);
            sdcffi::Denoised output;
            sdcffi::set_prediction(output, std::move(result));
            return output;
        };
        std::shared_ptr<RNG> rng = std::make_shared<MT19937RNG>();
        rng->manual_seed(seed);
        const sdcffi::Latent start(shape, std::vector<float>(latent, latent + size));
        const sdcffi::Latent end = sdcffi::run_sampler(sample_k_diffusion, method, model, start, levels, rng, eta, is_flow);
        std::copy(end.data(), end.data() + end.numel(), latent);
        return end.numel() == size;
    });
}

#endif
