// Scales of 8-bit weights. ComfyUI keeps `layer.weight` as 8-bit floats of w / scale, with the scale beside it as
// `layer.scale_weight` or `layer.weight_scale`: one number, or one for each row. The engine reads tensors one by one and
// would take w / scale for w. Here the scale is noted with its weight, and multiplied when that is read. Which files have
// scales that can be applied is checked in sdcffi/_models/companions.py.
#ifndef SDCFFI_WEIGHT_SCALES_HPP
#define SDCFFI_WEIGHT_SCALES_HPP

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <string>
#include <unordered_map>
#include <vector>

#include "ggml.h"
#include "model_io/tensor_storage.h"

namespace sdcffi {

// Returns the part of `name` before `end`, or an empty text if it has another end.
inline std::string name_before(const std::string& name, const std::string& end) {
    const bool ends = name.size() > end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
    return ends ? name.substr(0, name.size() - end.size()) : "";
}

inline std::string layer_of_scale(const std::string& name) {
    const std::string layer = name_before(name, ".scale_weight");
    return layer.empty() ? name_before(name, ".weight_scale") : layer;
}

// Whether a tensor only serves products of 8-bit numbers, which are not computed here.
inline bool serves_nothing(const std::string& name) {
    return !name_before(name, ".scale_input").empty() || !name_before(name, ".input_scale").empty() ||
           name == "scaled_fp8" || !name_before(name, ".scaled_fp8").empty();
}

inline bool read_scales(std::ifstream& file, const TensorStorage& tensor, std::vector<float>& values) {
    std::vector<uint8_t> data(static_cast<size_t>(tensor.nbytes_to_read()));
    file.seekg(static_cast<std::streamoff>(tensor.offset));
    if (tensor.is_f64 || !file.read(reinterpret_cast<char*>(data.data()), static_cast<std::streamsize>(data.size()))) {
        return false;
    }
    const int64_t count = tensor.nelements();
    values.resize(static_cast<size_t>(count));
    if (tensor.type == GGML_TYPE_F32) {
        std::copy_n(reinterpret_cast<const float*>(data.data()), count, values.data());
    } else if (tensor.type == GGML_TYPE_F16) {
        ggml_fp16_to_fp32_row(reinterpret_cast<const ggml_fp16_t*>(data.data()), values.data(), count);
    } else if (tensor.type == GGML_TYPE_BF16) {
        ggml_bf16_to_fp32_row(reinterpret_cast<const ggml_bf16_t*>(data.data()), values.data(), count);
    } else {
        return false;
    }
    return true;
}

// Takes scales out of a file's tensors and notes them with their weights. Returns what is wrong, or an empty text.
inline std::string join_scales(std::vector<TensorStorage>& tensors, const std::string& path) {
    std::unordered_map<std::string, TensorStorage*> weights;
    for (TensorStorage& tensor : tensors) {
        const std::string layer = name_before(tensor.name, ".weight");
        if (!layer.empty() && (tensor.is_f8_e4m3 || tensor.is_f8_e5m2)) {
            weights[layer] = &tensor;
        }
    }
    std::ifstream file(path, std::ios::binary);
    std::vector<bool> taken(tensors.size(), false);
    for (size_t i = 0; i < tensors.size(); i++) {
        const auto found = weights.find(layer_of_scale(tensors[i].name));
        taken[i]         = found != weights.end() || serves_nothing(tensors[i].name);
        if (found == weights.end()) {
            continue;
        }
        TensorStorage& weight = *found->second;
        const int64_t count = tensors[i].nelements(), rows = weight.ne[std::max(weight.n_dims, 1) - 1];
        if ((count != 1 && (count != rows || weight.nelements() % rows != 0)) || !weight.scales.empty() ||
            !read_scales(file, tensors[i], weight.scales)) {
            return "the scale '" + tensors[i].name + "' in '" + path + "' cannot be applied";
        }
    }
    size_t index = 0;
    tensors.erase(std::remove_if(tensors.begin(), tensors.end(), [&](const TensorStorage&) { return taken[index++]; }),
                  tensors.end());
    return "";
}

// Multiplies what was read from the file, which is of half precision by then.
inline void scale_read(const TensorStorage& tensor, void* data) {
    if (tensor.scales.empty()) {
        return;
    }
    constexpr int64_t block = 4096;
    const int64_t length    = tensor.nelements() / static_cast<int64_t>(tensor.scales.size());
    ggml_fp16_t* values     = static_cast<ggml_fp16_t*>(data);
    std::vector<float> part(static_cast<size_t>(std::min(block, length)));
    for (const float scale : tensor.scales) {
        for (int64_t at = 0; at < length; at += block) {
            const int64_t count = std::min(block, length - at);
            ggml_fp16_to_fp32_row(values + at, part.data(), count);
            for (int64_t i = 0; i < count; i++) {
                part[i] *= scale;
            }
            ggml_fp32_to_fp16_row(part.data(), values + at, count);
        }
        values += length;
    }
}

}  // namespace sdcffi

#endif
