// Takes the place of upstream's clip_preprocess, which CMake renames in the file that defines it: that takes the nearest
// pixel, where CLIP's and Qwen's authors resize by filters.
#include "engine/vision_images.hpp"

#include "engine/pillow_resize.hpp"
#include "engine/qwen_positions.hpp"

namespace {

// The part of planes of `width` x `height` from `left`, `top`, normalised as OpenAI's CLIP has it.
sd::Tensor<float> normalised(const std::vector<float>& planes, int64_t width, int64_t height, int64_t left, int64_t top,
                             int64_t wanted_width, int64_t wanted_height) {
    const float means[] = {0.48145466f, 0.4578275f, 0.40821073f}, deviations[] = {0.26862954f, 0.26130258f, 0.27577711f};
    sd::Tensor<float> pixels({wanted_width, wanted_height, 3, 1});
    for (int64_t c = 0; c < 3; c++) {
        for (int64_t y = 0; y < wanted_height; y++) {
            for (int64_t x = 0; x < wanted_width; x++) {
                pixels[(c * wanted_height + y) * wanted_width + x] =
                    (planes[(c * height + y + top) * width + x + left] - means[c]) / deviations[c];
            }
        }
    }
    return pixels;
}

}  // namespace

sd::Tensor<float> sdcffi::condition_pixels(const sd::Tensor<float>& image, int width, int height) {
    const int64_t old_width = image.shape()[0], old_height = image.shape()[1];
    const auto [first_height, first_width] = condition_area(int(old_height), int(old_width));
    const auto first = resize_as_pillow(image.values(), old_width, old_height, first_width, first_height, lanczos);
    const auto last  = resize_as_pillow(first, first_width, first_height, width, height, bicubic);
    return normalised(last, width, height, 0, 0, width, height);
}

// Of the resized image, whose shorter side is the wanted one, the middle.
sd::Tensor<float> clip_preprocess(const sd::Tensor<float>& image, int target_width, int target_height) {
    const int64_t old_width = image.shape()[0], old_height = image.shape()[1];
    const double scale  = std::max(double(target_width) / old_width, double(target_height) / old_height);
    const auto length   = [&](int64_t old, int wanted) { return std::max<int64_t>(int64_t(old * scale + 1e-9), wanted); };
    const int64_t width = length(old_width, target_width), height = length(old_height, target_height);
    const auto resized  = sdcffi::resize_as_pillow(image.values(), old_width, old_height, width, height, sdcffi::bicubic);
    return normalised(resized, width, height, (width - target_width) / 2, (height - target_height) / 2, target_width,
                      target_height);
}
