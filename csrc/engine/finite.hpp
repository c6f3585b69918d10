// Refuses noise levels, latents and images that are not finite numbers.
#ifndef SDCFFI_FINITE_HPP
#define SDCFFI_FINITE_HPP

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/interrupts.hpp"
#include "stable-diffusion.h"

namespace sdcffi {

// `what` says what the values are, as in "the latent".
inline void require_finite(const float* values, int64_t size, const std::string& what) {
    const int64_t count = std::count_if(values, values + size, [](float value) { return !std::isfinite(value); });
    if (count > 0) {
        throw Refused(std::to_string(count) + " of " + std::to_string(size) + " values of the " + what +
                      " are not finite numbers: the weights are broken, or weights and parameters overflow their type");
    }
}

inline std::vector<float> finite_sigmas(std::vector<float> sigmas, const std::string& source) {
    if (sigmas.empty() || sigmas.front() == 0.0f) {
        throw Refused(source + " gives no noise levels (sigmas)");
    }
    if (!std::all_of(sigmas.begin(), sigmas.end(), [](float sigma) { return std::isfinite(sigma); })) {
        throw Refused(source + " gives noise levels (sigmas) that are not finite");
    }
    return sigmas;
}

// The noise levels that `compute` returns. The tables of two schedulers are read before it can be told that they fail:
// gits has none for one step, ays has none for some models.
template <typename Compute>
std::vector<float> schedule(uint32_t steps, scheduler_t scheduler, bool has_ays_table, const Compute& compute) {
    if (steps > INT32_MAX) {
        throw Refused("the number of steps is negative: " + std::to_string(static_cast<int32_t>(steps)));
    }
    const bool no_table = (scheduler == GITS_SCHEDULER && steps < 2) || (scheduler == AYS_SCHEDULER && !has_ays_table);
    return finite_sigmas(steps == 0 || no_table ? std::vector<float>{} : compute(),
                         "the scheduler " + std::string(sd_scheduler_name(scheduler)) + " with " + std::to_string(steps) + " steps");
}

}  // namespace sdcffi

#endif
