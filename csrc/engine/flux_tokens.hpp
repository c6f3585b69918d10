// How many tokens of T5 a FLUX.1 has: those that were distilled with guidance have it as an input.
#ifndef SDCFFI_FLUX_TOKENS_HPP
#define SDCFFI_FLUX_TOKENS_HPP

#include <string>

#include "text/limits.hpp"

namespace sdcffi {

template <typename Tensors>
size_t flux_tokens(const Tensors& tensors) {
    const bool guided = tensors.find("model.diffusion_model.guidance_in.in_layer.weight") != tensors.end();
    return (guided ? limits::flux_dev_t5 : limits::flux_schnell_t5).padded;
}

}  // namespace sdcffi

#endif
