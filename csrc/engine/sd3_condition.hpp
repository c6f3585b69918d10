// SD3's condition of a prompt, as its authors and diffusers compute it. The texts of CLIP-L and CLIP-G are one chunk of 77
// tokens beside each other, then comes T5's text; an encoder that is missing gives zeros. Included by conditioner.hpp.
#ifndef SDCFFI_SD3_CONDITION_HPP
#define SDCFFI_SD3_CONDITION_HPP

#include <algorithm>
#include <utility>
#include <vector>

#include "text/limits.hpp"

namespace sdcffi {

using WeightedTokens = std::pair<std::vector<int>, std::vector<float>>;

// Cuts tokens that end with an end token to a length, or pads them to one.
inline void fit(WeightedTokens& text, const TextLimit& limit, int end, int pad) {
    auto& [tokens, weights] = text;
    if (limit.tokens > 0 && tokens.size() > limit.tokens) {
        tokens.resize(limit.tokens);
        weights.resize(limit.tokens);
        tokens.back()  = end;
        weights.back() = 1.0f;
    }
    tokens.resize(std::max(tokens.size(), limit.padded), pad);
    weights.resize(tokens.size(), 1.0f);
}

// Computes with an encoder, which newer revisions keep for the parts of the prompt that follow.
template <typename Runner, typename... Arguments>
sd::Tensor<float> encode(Runner& runner, Arguments&&... arguments) {
#if __has_include("model_manager.h")
    auto result = runner.compute(std::forward<Arguments>(arguments)..., false, true, true);
#else
    auto result = runner.compute(std::forward<Arguments>(arguments)...);
#endif
    GGML_ASSERT(!result.empty());
    return result;
}

struct ClipText {
    sd::Tensor<float> tokens;  // [77, width]
    sd::Tensor<float> pooled;  // [width]
};

template <typename Runner, typename Tokenizer>
ClipText clip_text(Runner* clip, const Tokenizer& tokenizer, WeightedTokens& text, int64_t width, int n_threads, int clip_skip) {
    if (clip == nullptr) {
        return {sd::Tensor<float>::zeros({width, static_cast<int64_t>(limits::clip.padded), 1}), sd::Tensor<float>::zeros({width})};
    }
    fit(text, limits::clip, tokenizer.EOS_TOKEN_ID, tokenizer.PAD_TOKEN_ID);
    const auto& [tokens, weights] = text;
    const size_t end              = std::find(tokens.begin(), tokens.end(), tokenizer.EOS_TOKEN_ID) - tokens.begin();
    const sd::Tensor<int32_t> ids({static_cast<int64_t>(tokens.size())}, tokens);
    auto hidden = encode(*clip, n_threads, ids, 0, nullptr, size_t{0}, false, clip_skip);
    auto pooled = encode(*clip, n_threads, ids, 0, nullptr, std::min(end, tokens.size() - 1), true, clip_skip);
    return {::apply_token_weights(std::move(hidden), weights), std::move(pooled)};
}

template <typename Embedder>
SDCondition sd3_condition(Embedder& embedder, int n_threads, const ConditionerParams& params) {
    constexpr int64_t width = 4096;
    auto texts              = embedder.tokenize(params.text, 0, 0, true);  // each with its end token, not padded
    const int clip_skip     = params.clip_skip <= 0 ? 2 : params.clip_skip;
    auto l                  = clip_text(embedder.clip_l.get(), embedder.clip_l_tokenizer, texts[0], 768, n_threads, clip_skip);
    auto g                  = clip_text(embedder.clip_g.get(), embedder.clip_g_tokenizer, texts[1], 1280, n_threads, clip_skip);
    const auto rest         = sd::Tensor<float>::zeros({width - 768 - 1280, static_cast<int64_t>(limits::clip.padded), 1});
    auto t5                 = sd::Tensor<float>::zeros({width, static_cast<int64_t>(limits::sd3_t5.padded), 1});
    if (embedder.t5) {
        fit(texts[2], limits::sd3_t5, embedder.t5_tokenizer.EOS_TOKEN_ID, embedder.t5_tokenizer.PAD_TOKEN_ID);
        const auto& [tokens, weights] = texts[2];
        const sd::Tensor<int32_t> ids({static_cast<int64_t>(tokens.size())}, tokens);
        t5 = ::apply_token_weights(encode(*embedder.t5, n_threads, ids, sd::Tensor<float>()), weights);
    }
    SDCondition result;
    result.c_crossattn = sd::ops::concat(sd::ops::concat(sd::ops::concat(l.tokens, g.tokens, 0), rest, 0), t5, 1);
    result.c_vector    = sd::ops::concat(l.pooled, g.pooled, 0);
    if (params.zero_out_masked) {
        result.c_crossattn.fill_(0.0f);
    }
    return result;
}

}  // namespace sdcffi

#endif
