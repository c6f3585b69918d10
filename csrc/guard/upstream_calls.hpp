// Upstream's functions by one shape each, whichever this revision declares. A call that fits neither does not compile.
#ifndef SDCFFI_UPSTREAM_CALLS_HPP
#define SDCFFI_UPSTREAM_CALLS_HPP

#include <cstdlib>
#include <type_traits>

#include "stable-diffusion.h"

namespace sdcffi {

// Since 2bb03896 the images and their number are arguments.
template <typename Function>
bool call_generate_image(Function* function, sd_ctx_t* context, const sd_img_gen_params_t* params, sd_image_t** images, int* count) {
    if constexpr (std::is_invocable_v<Function, sd_ctx_t*, const sd_img_gen_params_t*, sd_image_t**, int*>) {
        return function(context, params, images, count) && *images != nullptr;
    } else {
        *images = function(context, params);
        *count  = *images != nullptr ? params->batch_count : 0;
        return *images != nullptr;
    }
}

// Since 67dda3f8 the frames are an argument, and a model may make sound too, which nobody takes here.
template <typename Function>
bool call_generate_video(Function* function, sd_ctx_t* context, const sd_vid_gen_params_t* params, sd_image_t** frames, int* count) {
    if constexpr (std::is_invocable_v<Function, sd_ctx_t*, const sd_vid_gen_params_t*, sd_image_t**, int*, std::nullptr_t>) {
        return function(context, params, frames, count, nullptr) && *frames != nullptr;
    } else {
        return (*frames = function(context, params, count)) != nullptr;
    }
}

// Since 36330724 the place of the weights is a text.
template <typename Function>
upscaler_ctx_t* call_new_upscaler(Function* function, const char* path, bool weights_on_cpu, bool direct, int threads, int tile_size) {
    if constexpr (std::is_invocable_v<Function, const char*, bool, int, int, const char*, const char*>) {
        return function(path, direct, threads, tile_size, nullptr, weights_on_cpu ? "cpu" : nullptr);
    } else {
        return function(path, weights_on_cpu, direct, threads, tile_size);
    }
}

// Since 2bb03896 the image comes in an array of one.
template <typename Function>
sd_image_t call_upscale(Function* function, upscaler_ctx_t* upscaler, const sd_image_t& image, uint32_t factor) {
    if constexpr (std::is_invocable_v<Function, upscaler_ctx_t*, sd_image_t, uint32_t, sd_image_t**, int*>) {
        sd_image_t* images = nullptr;
        int count          = 0;
        sd_image_t first{};
        if (function(upscaler, image, factor, &images, &count) && images != nullptr) {
            first = images[0];
            std::free(images);
        }
        return first;
    } else {
        return function(upscaler, image, factor);
    }
}

// Since 787d229d weights are read when a graph first needs them, unless a context is told to read them at once.
template <typename Params>
auto load_weights_now(Params& params, bool now) -> decltype(void(params.eager_load = now)) {
    params.eager_load = now;
}
inline void load_weights_now(...) {}

}  // namespace sdcffi

#endif
