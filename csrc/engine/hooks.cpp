// Functions of upstream's that we stand in front of. CMakeLists.txt compiles upstream's under the name with upstream_ in
// front, so every other file calls ours.
#include <algorithm>
#include <string>

#include "engine/interrupts.hpp"
#include "util.h"

sd_image_t upstream_tensor_to_sd_image(const sd::Tensor<float>& tensor, int frame_index);

// Clamping would make NaN white: with broken weights, or a type too small for them, the image would be white.
sd_image_t tensor_to_sd_image(const sd::Tensor<float>& tensor, int frame_index) {
    const int64_t broken = std::count_if(tensor.data(), tensor.data() + tensor.numel(), [](float value) { return value != value; });
    if (broken > 0) {
        throw sdcffi::Refused(std::to_string(broken) + " of " + std::to_string(tensor.numel()) +
                              " values of the image are not numbers: the weights are broken, or weights and parameters "
                              "overflow their type");
    }
    return upstream_tensor_to_sd_image(tensor, frame_index);
}
