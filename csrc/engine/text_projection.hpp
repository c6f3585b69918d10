// The projection of CLIP's pooled text. OpenCLIP multiplies by its matrix from the right (pooled = h @ text_projection),
// transformers keeps the transpose as the weight of a linear layer (text_projection.weight), and so does the engine,
// which gives both the same name. Here a file's name tells which it is, and OpenCLIP's is transposed when it is read.
#ifndef SDCFFI_TEXT_PROJECTION_HPP
#define SDCFFI_TEXT_PROJECTION_HPP

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "ggml.h"
#include "model_io/tensor_storage.h"

namespace sdcffi {

inline const std::string projection_of_engine = "transformer.text_model.text_projection";
inline const std::string projection_of_files  = "transformer.text_projection.weight";

inline bool name_ends(const std::string& name, const std::string& end) {
    return name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
}

// Notes whether a tensor of a file is the transpose of what the engine wants. `own_name` is the engine's name for it, and
// `file` has all tensors by their names in the file. Files that older versions converted have the engine's name with
// either matrix: then the matrix is OpenCLIP's if the encoder's other weights are, which have q, k and v in one.
template <typename Tensors>
void note_transpose(TensorStorage& tensor, const std::string& own_name, const Tensors& file) {
    if (tensor.transposed >= 0 || !name_ends(own_name, projection_of_engine) || tensor.ne[0] != tensor.ne[1]) {
        return;
    }
    if (tensor.name == own_name) {
        const std::string encoder = own_name.substr(0, own_name.size() - std::strlen("text_projection"));
        tensor.transposed         = file.find(encoder + "encoder.layers.0.self_attn.in_proj.weight") != file.end() ? 1 : 0;
    } else {
        tensor.transposed = name_ends(tensor.name, ".weight") ? 0 : 1;
    }
}

// Names the matrices in a converted file so that every reader takes them for what they then are: a linear layer's.
template <typename Tensors>
void name_for_files(Tensors& tensors) {
    for (auto& [key, tensor] : tensors) {
        if (name_ends(tensor.name, projection_of_engine)) {
            tensor.name.replace(tensor.name.size() - projection_of_engine.size(), std::string::npos, projection_of_files);
        }
    }
}

inline bool has_numbers(ggml_type type) {
    return type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
}

// Transposes a square matrix in place.
inline void transpose(void* data, ggml_type type, int64_t size) {
    const auto swap_all = [&](auto* values) {
        for (int64_t row = 0; row < size; row++) {
            for (int64_t column = 0; column < row; column++) {
                std::swap(values[row * size + column], values[column * size + row]);
            }
        }
    };
    if (type == GGML_TYPE_F32) {
        swap_all(static_cast<float*>(data));
    } else if (has_numbers(type)) {
        swap_all(static_cast<uint16_t*>(data));
    } else {
        std::vector<float> values(size * size), importance(size, 1.0f);
        ggml_get_type_traits(type)->to_float(data, values.data(), size * size);
        transpose(values.data(), GGML_TYPE_F32, size);
        ggml_quantize_chunk(type, values.data(), data, 0, size, size, importance.data());
    }
}

// Transposes what was read from the file, in the file's type; quantised data only after their conversion.
inline void transpose_read(const TensorStorage& tensor, void* data) {
    if (tensor.transposed == 1 && has_numbers(tensor.type)) {
        transpose(data, tensor.type, tensor.ne[0]);
    }
}

inline void transpose_converted(const TensorStorage& tensor, ggml_type type, void* data) {
    if (tensor.transposed == 1 && !has_numbers(tensor.type)) {
        transpose(data, type, tensor.ne[0]);
    }
}

}  // namespace sdcffi

#endif
