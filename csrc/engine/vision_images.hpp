// What vision encoders see of an image.
#ifndef SDCFFI_VISION_IMAGES_HPP
#define SDCFFI_VISION_IMAGES_HPP

#if __has_include("core/util.h")
#include "core/util.h"
#else
#include "util.h"
#endif

namespace sdcffi {

// An image that Qwen-Image-Edit refers to, as Qwen2.5-VL sees it: resized by Lanczos' filter in steps of 32 as the authors'
// pipeline does, then by a bicubic one to the size that the encoder takes.
sd::Tensor<float> condition_pixels(const sd::Tensor<float>& image, int width, int height);

}  // namespace sdcffi

#endif
