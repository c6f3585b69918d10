// What language models as text encoders need beside upstream's: padding, masks, rotary positions. llm.hpp includes this
// file after ggml.
#ifndef SDCFFI_LLM_TEXT_HPP
#define SDCFFI_LLM_TEXT_HPP

#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "ggml.h"
#include "qwen_positions.hpp"

namespace sdcffi {

constexpr float MASKED = -60000.f;  // finite in half precision too

// One padding token, which sees nothing and is seen by none, stands for all those before the text: they are all the same.
inline void pad_before(std::vector<int>& tokens, std::vector<float>& weights, std::vector<float>& mask, size_t length,
                       int padding) {
    size_t text = tokens.size();
    while (text > 0 && text <= mask.size() && mask[text - 1] == 0.f) {
        text--;
    }
    tokens.resize(text);
    weights.resize(text, 1.f);
    mask.assign(text, 1.f);
    if (text < length) {
        tokens.insert(tokens.begin(), padding);
        weights.insert(weights.begin(), 1.f);
        mask.insert(mask.begin(), 0.f);
    }
}

// Rows of the mask of those that see nothing must be finite.
template <typename Tensor>
void close_rows(Tensor& attention_mask, const std::vector<float>& mask) {
    const int64_t tokens = int64_t(mask.size());
    for (int64_t row = 0; row < tokens && mask[row] == 0.f; row++) {
        for (int64_t i = 0; i < tokens; i++) {
            attention_mask[row * tokens + i] = MASKED;
        }
    }
}

// Attention of those that see nothing is 0. The mask's diagonal tells them: 0 for all others.
inline ggml_tensor* without_blind(ggml_context* context, ggml_tensor* attention, ggml_tensor* mask) {
    if (mask == nullptr) {
        return attention;
    }
    ggml_tensor* diagonal = ggml_view_2d(context, mask, 1, mask->ne[1], mask->nb[0] + mask->nb[1], 0);
    return ggml_mul(context, attention, ggml_exp(context, ggml_cont(context, diagonal)));
}

// The first state, of the padding token, `length` - tokens times more.
template <typename Tensor>
void repeat_padding(Tensor& states, const std::vector<float>& mask, size_t length) {
    if (mask.empty() || mask[0] != 0.f || mask.size() >= length) {
        return;
    }
    const int64_t width = states.shape()[0], more = int64_t(length - mask.size());
    auto shape = states.shape();
    shape[1]   = int64_t(length);
    Tensor all(shape);
    for (int64_t token = 0; token < shape[1]; token++) {
        const int64_t from = token < more ? 0 : token - more;
        for (int64_t i = 0; i < width; i++) {
            all[token * width + i] = states[from * width + i];
        }
    }
    states = std::move(all);
}

// States of padding after the text become 0.
template <typename Tensor>
void clear_padding(Tensor& states, const std::vector<float>& mask) {
    const int64_t width = states.shape()[0];
    for (size_t token = 0; token < mask.size(); token++) {
        for (int64_t i = 0; mask[token] == 0.f && i < width; i++) {
            states[int64_t(token) * width + i] = 0.f;
        }
    }
}

// Rotary positions of Mistral Small 3, and of Ministral 3, which has YaRN: 16 times its 16,384 positions, and no factor of
// attention, for which ggml would have one of its own.
inline ggml_tensor* rotate_mistral(ggml_context* context, ggml_tensor* x, ggml_tensor* positions, bool is_ministral,
                                   bool interleaved) {
    const int type = interleaved ? GGML_ROPE_TYPE_NORMAL : GGML_ROPE_TYPE_NEOX;
    if (is_ministral) {
        return ggml_rope_ext(context, x, positions, nullptr, 128, type, 16384, 1e6f, 1.f / 16, 1.f,
                             1.f / (1.f + 0.1f * std::log(16.f)), 32.f, 1.f);
    }
    return ggml_rope_ext(context, x, positions, nullptr, 128, type, 8192, 1e9f, 1.f, 0.f, 1.f, 32.f, 1.f);
}

}  // namespace sdcffi

#endif
