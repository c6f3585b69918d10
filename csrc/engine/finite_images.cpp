// Takes the place of upstream's tensor_to_sd_image, which CMake renames in the file that defines it. Clamping would make
// NaN and infinity white: with broken weights, or a type too small for them, the image would be white.
#include "engine/finite.hpp"
#include "util.h"

sd_image_t upstream_tensor_to_sd_image(const sd::Tensor<float>& tensor, int frame_index);

sd_image_t tensor_to_sd_image(const sd::Tensor<float>& tensor, int frame_index) {
    sdcffi::require_finite(tensor.data(), tensor.numel(), "image");
    return upstream_tensor_to_sd_image(tensor, frame_index);
}
