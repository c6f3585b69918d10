// What the patched denoiser.hpp calls before its classes are complete.
#ifndef SDCFFI_SAMPLING_DECLARATIONS_HPP
#define SDCFFI_SAMPLING_DECLARATIONS_HPP

#include <cstdint>
#include <optional>
#include <vector>

#include "levels.hpp"
#include "stable-diffusion.h"

struct Denoiser;

namespace sdcffi {

// The noise levels of a call; none for a spacing that only upstream has. Throws Refused for one that the model's
// prediction has no levels for.
inline std::optional<std::vector<float>> own_schedule(Denoiser& denoiser, uint32_t steps, int latent_pixels, scheduler_t scheduler, SDVersion version);

}  // namespace sdcffi

#endif
