// Guidance rescale, "Common Diffusion Noise Schedules and Sample Steps are Flawed" (2305.08891, equations 15 and 16):
// rescale_noise_cfg of diffusers.
#ifndef SDCFFI_GUIDANCE_HPP
#define SDCFFI_GUIDANCE_HPP

#include <cmath>
#include <cstdint>

namespace sdcffi {

// Of this thread's next generation; 0: none.
inline thread_local float guidance_rescale = 0.0f;

template <typename Latent>
double deviation(const Latent& latent) {
    double total = 0.0, squares = 0.0;
    for (int64_t i = 0; i < latent.numel(); i++) {
        total += latent.data()[i];
    }
    const double mean = total / latent.numel();
    for (int64_t i = 0; i < latent.numel(); i++) {
        squares += (latent.data()[i] - mean) * (latent.data()[i] - mean);
    }
    return std::sqrt(squares / latent.numel());
}

// Bring the deviation of a guided output towards that of the output for the prompt.
template <typename Latent>
void rescale_guided(Latent& guided, const Latent& conditional) {
    const double most = guidance_rescale == 0.0f ? 0.0 : deviation(guided);
    if (most > 0.0) {
        guided *= static_cast<float>(1.0 + guidance_rescale * (deviation(conditional) / most - 1.0));
    }
}

}  // namespace sdcffi

#endif
