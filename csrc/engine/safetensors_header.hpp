// Checks the header of a safetensors file before the engine reads it. The file includes json.hpp before this one.
#ifndef SDCFFI_SAFETENSORS_HEADER_HPP
#define SDCFFI_SAFETENSORS_HEADER_HPP

#include <algorithm>
#include <cstdint>
#include <string>

namespace sdcffi {

inline bool are_naturals(const nlohmann::json& values) {
    return values.is_array() &&
           std::all_of(values.begin(), values.end(), [](const nlohmann::json& value) { return value.is_number_unsigned(); });
}

inline std::string fault_in_tensor(const nlohmann::json& tensor, uint64_t data_size) {
    const bool whole = tensor.is_object() && tensor.contains("dtype") && tensor["dtype"].is_string() &&
                       tensor.contains("shape") && are_naturals(tensor["shape"]) &&
                       tensor.contains("data_offsets") && are_naturals(tensor["data_offsets"]) &&
                       tensor["data_offsets"].size() == 2;
    if (!whole) {
        return "malformed entry";
    }
    const uint64_t begin = tensor["data_offsets"][0], end = tensor["data_offsets"][1];
    if (begin > end || end > data_size) {
        return "data outside of the file";
    }
    double elements = 1;
    for (const auto& size : tensor["shape"]) {
        elements *= size.get<double>();
    }
    return elements > 1e12 ? "impossible shape" : "";  // sizes in bytes would overflow
}

// Returns what is wrong with the header of `file`, or an empty text. A tensor without elements is a mark, such as
// v_pred: it gets the shape that GGUF can hold too.
inline std::string check_header(nlohmann::json& header, uint64_t data_size, const std::string& file) {
    if (!header.is_object()) {
        return "the safetensors header is not a JSON object: '" + file + "'";
    }
    for (auto& item : header.items()) {
        if (item.key() == "__metadata__") {
            continue;
        }
        const std::string fault = fault_in_tensor(item.value(), data_size);
        if (!fault.empty()) {
            return fault + ": tensor '" + item.key() + "' in '" + file + "'";
        }
        auto& shape = item.value()["shape"];
        if (std::find(shape.begin(), shape.end(), 0) != shape.end()) {
            shape = nlohmann::json::array({0});
        }
    }
    return "";
}

}  // namespace sdcffi

#endif
