// What the conditioners' tokenize functions are: the tokens of a prompt for each family's text encoders. The patched
// conditioner.hpp includes this file.
#ifndef SDCFFI_ENCODERS_HPP
#define SDCFFI_ENCODERS_HPP

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "chunks.hpp"
#include "engine/interrupts.hpp"
#include "limits.hpp"
#include "notes.hpp"
#include "prompt_syntax.hpp"
#include "record.hpp"

namespace sdcffi {

using TokensAndWeights = std::pair<std::vector<int>, std::vector<float>>;

// --- Stable Diffusion 1, 2 and XL: AUTOMATIC1111's syntax, any number of chunks ---

// The text of a token, which may be a vector of an embedding.
template <typename Embedder>
std::string clip_text_of(const Embedder& embedder, int id) {
    const int vector = id - static_cast<int>(embedder.text_model->model.vocab_size);
    for (const auto& [name, vectors] : embedder.embedding_pos_map) {
        if (vector >= vectors.first && vector < vectors.second) {
            return name;
        }
    }
    return text_of_token(embedder.tokenizer, id);
}

template <typename Embedder>
void record_clip(const Embedder& embedder, const std::vector<Chunk>& chunks) {
    RecordedText text{"clip_l", {}, 0, "", ""};
    for (const Chunk& chunk : chunks) {
        const int padding = chunk.used < chunk.ids.size() ? chunk.ids.back() : embedder.tokenizer.PAD_TOKEN_ID;
        RecordedChunk recorded{{chunk.ids.begin(), chunk.ids.begin() + chunk.used},
                               {chunk.weights.begin(), chunk.weights.begin() + chunk.used},
                               {},
                               chunk.ids.size(),
                               padding};
        for (const int id : recorded.ids) {
            recorded.texts.push_back(clip_text_of(embedder, id));
        }
        text.chunks.push_back(std::move(recorded));
    }
    record->push_back(text);
    if (embedder.text_model2) {
        text.encoder = "clip_g";
        record->push_back(std::move(text));
    }
}

// Returns the chunks in one sequence; with a `length` of 0 one sequence without chunks, which PhotoMaker asks for.
template <typename Embedder>
TokensAndWeights tokens_for_clip(Embedder& embedder, const std::string& prompt, size_t length) {
    auto& tokenizer              = embedder.tokenizer;
    const std::vector<int> comma = tokenizer.encode(",");
    const SpecialTokens special{tokenizer.BOS_TOKEN_ID, tokenizer.EOS_TOKEN_ID, tokenizer.PAD_TOKEN_ID,
                                comma.size() == 1 ? comma[0] : -1};
    Words words([&](const std::string& name) {
        Restored<bool> reading_a_file(only_tokens, false);
        std::vector<int> ids;
        return embedder.load_embedding(name, embedder.embedding_map.at(name), ids) ? ids : std::vector<int>();
    });
    for (const auto& [name, path] : embedder.embedding_map) {
        words.add(name, tokenizer.encode(name));
    }
    std::vector<WeightedIds> parts;
    for (const PromptPart& part : parse_prompt(prompt)) {
        parts.push_back(is_break(part) ? WeightedIds{{}, 1, true} : WeightedIds{tokenizer.encode(part.first), part.second, false});
    }
    std::vector<Chunk> chunks;
    if (length == 0) {
        chunks.push_back(make_sequence(parts, words, special));
    } else {
        chunks = make_chunks(parts, words, special, comma_backtrack);
    }
    if (record != nullptr) {
        record_clip(embedder, chunks);
    }
    TokensAndWeights all;
    for (const Chunk& chunk : chunks) {
        all.first.insert(all.first.end(), chunk.ids.begin(), chunk.ids.end());
        all.second.insert(all.second.end(), chunk.weights.begin(), chunk.weights.end());
    }
    return all;
}

// --- the other families: text stays text, and is cut where the authors cut it ---

inline void note_plain_text(const std::string& prompt) {
    if (looks_weighted(prompt)) {
        note("this model has no weights in prompts: brackets, numbers and BREAK are taken as text");
    }
}

struct PlainTokens {
    std::vector<int> ids;
    std::vector<float> weights;
    std::vector<float> mask;  // 1: text, 0: padding
};

struct PlainText {
    std::string encoder;
    std::string prompt;      // for characters that the vocabulary lacks
    size_t limit     = 0;    // of tokens, with start and end; 0: none
    size_t padded    = 0;    // to this number; 0: not at all
    size_t kept_tail = 0;    // tokens at the end that are not cut
};

// Notes tokens that an encoder does not get, and returns their text.
inline std::string note_cut(const Tokenizer& tokenizer, const std::string& encoder, size_t all, size_t limit, const std::vector<int>& ids) {
    const std::string text = text_of(tokenizer, ids);
    note("the prompt has " + std::to_string(all) + " tokens for " + encoder + ", which takes " + std::to_string(limit) +
         ": left out is '" + shortened(text) + "'");
    return text;
}

// Cuts tokens without start and end at the limit, notes what is lost, and adds start, end and padding.
template <typename AnyTokenizer>
PlainTokens finish_plain(AnyTokenizer& tokenizer, std::vector<int> ids, const PlainText& text) {
    std::vector<int> none;
    tokenizer.pad_tokens(none, nullptr, nullptr);
    const size_t added = none.size();
    RecordedText recorded{text.encoder, {}, text.limit, "", ""};
    if (text.limit > added + text.kept_tail && ids.size() + added > text.limit) {
        const size_t all = ids.size() + added;
        const auto from  = ids.begin() + (text.limit - added - text.kept_tail);
        const auto to    = ids.end() - text.kept_tail;
        recorded.cut     = note_cut(tokenizer, text.encoder, all, text.limit, {from, to});
        ids.erase(from, to);
    }
    const bool has_unknown = !tokenizer.UNK_TOKEN.empty() && tokenizer.UNK_TOKEN_ID != tokenizer.EOS_TOKEN_ID;
    if (has_unknown && std::find(ids.begin(), ids.end(), tokenizer.UNK_TOKEN_ID) != ids.end()) {
        recorded.unknown = unknown_in(tokenizer, text.prompt);
    }
    if (!recorded.unknown.empty()) {
        note("the vocabulary of " + text.encoder + " has no '" + shortened(recorded.unknown) + "': read as unknown");
    }
    PlainTokens tokens{ids, std::vector<float>(ids.size(), 1.f), {}};
    tokenizer.pad_tokens(tokens.ids, &tokens.weights, &tokens.mask, text.padded, 0, false);
    if (record != nullptr) {
        RecordedChunk chunk{{}, {}, {}, tokens.ids.size(), tokenizer.PAD_TOKEN_ID};
        for (size_t i = 0; i < tokens.ids.size(); i++) {
            if (tokens.mask[i] > 0) {
                chunk.ids.push_back(tokens.ids[i]);
                chunk.weights.push_back(1.f);
                chunk.texts.push_back(text_of_token(tokenizer, tokens.ids[i]));
            }
        }
        recorded.chunks.push_back(std::move(chunk));
        record->push_back(std::move(recorded));
    }
    return tokens;
}

template <typename AnyTokenizer>
PlainTokens plain_tokens(AnyTokenizer& tokenizer, const char* encoder, const std::string& prompt, const TextLimit& limit) {
    note_plain_text(prompt);
    return finish_plain(tokenizer, tokenizer.encode(prompt), {encoder, prompt, limit.tokens, limit.padded, 0});
}

inline TokensAndWeights as_pair(PlainTokens tokens) {
    return {std::move(tokens.ids), std::move(tokens.weights)};
}

// SD3. CLIP's texts have one length, T5's its own unless it is given.
template <typename Embedder>
std::vector<TokensAndWeights> tokens_for_sd3(Embedder& embedder, const std::string& prompt, size_t length) {
    const TextLimit t5 = length != 0 ? TextLimit{length, length} : limits::sd3_t5;
    std::vector<TokensAndWeights> all(3);
    if (embedder.clip_l) {
        all[0] = as_pair(plain_tokens(embedder.clip_l_tokenizer, "clip_l", prompt, limits::clip));
    }
    if (embedder.clip_g) {
        all[1] = as_pair(plain_tokens(embedder.clip_g_tokenizer, "clip_g", prompt, limits::clip));
    }
    if (embedder.t5) {
        all[2] = as_pair(plain_tokens(embedder.t5_tokenizer, "t5xxl", prompt, t5));
    }
    return all;
}

// FLUX.1
template <typename Embedder>
std::vector<TokensAndWeights> tokens_for_flux(Embedder& embedder, const std::string& prompt, size_t length) {
    std::vector<TokensAndWeights> all(2);
    if (embedder.clip_l) {
        all[0] = as_pair(plain_tokens(embedder.clip_l_tokenizer, "clip_l", prompt, limits::clip));
    }
    if (embedder.t5) {
        all[1] = as_pair(plain_tokens(embedder.t5_tokenizer, "t5xxl", prompt, {length, length}));
    }
    return all;
}

// Chroma and Wan. The mask is 0 for text, and minus infinity for padding.
template <typename Embedder>
std::tuple<std::vector<int>, std::vector<float>, std::vector<float>> tokens_for_t5(Embedder& embedder, const std::string& prompt, size_t length) {
    if (!embedder.t5) {
        return {};
    }
    PlainTokens tokens = plain_tokens(embedder.t5_tokenizer, "t5xxl", prompt, {length, length});
    for (float& value : tokens.mask) {
        value = value > 0 ? 0.f : -HUGE_VALF;
    }
    return {std::move(tokens.ids), std::move(tokens.weights), std::move(tokens.mask)};
}

// Anima. An empty text is one token of padding for Qwen3.
template <typename Embedder>
std::tuple<std::vector<int>, std::vector<float>, std::vector<int>, std::vector<float>> tokens_for_anima(Embedder& embedder, const std::string& prompt) {
    PlainTokens qwen = plain_tokens(*embedder.qwen_tokenizer, "llm", prompt, limits::anima);
    PlainTokens t5   = plain_tokens(embedder.t5_tokenizer, "t5xxl", prompt, limits::anima);
    if (qwen.ids.empty()) {
        qwen.ids.push_back(embedder.qwen_tokenizer->PAD_TOKEN_ID);
        qwen.weights.push_back(1.f);
    }
    return {std::move(qwen.ids), std::move(qwen.weights), std::move(t5.ids), std::move(t5.weights)};
}

// MiniT2I, whose T5 gets no end token.
template <typename AnyTokenizer>
void cut_minit2i(AnyTokenizer& tokenizer, std::vector<int>& ids, const std::string& prompt, size_t length) {
    note_plain_text(prompt);
    const std::vector<int> all = ids;
    if (ids.size() > length) {
        ids.resize(length);
        note_cut(tokenizer, "t5xxl", all.size(), length, {all.begin() + length, all.end()});
    }
}

using Pieces = std::vector<std::pair<std::string, float>>;

// A language model's tokens of a template with the prompt in a range of its bytes. An empty range: the whole is both.
// `split` cuts the prompt into pieces whose tokens do not join.
template <typename AnyTokenizer>
std::tuple<std::vector<int>, std::vector<float>, std::vector<float>> tokens_for_language_model(
    AnyTokenizer& tokenizer, const std::string& text, const std::pair<int, int>& range, TextLimit limit, size_t min_length,
    size_t max_length, Pieces (*split)(const Pieces&) = nullptr) {
    const bool has_range     = range.first >= 0 && range.second > 0;
    const std::string before = has_range ? text.substr(0, range.first) : "";
    const std::string prompt = has_range ? text.substr(range.first, range.second - range.first) : text;
    const std::string after  = has_range ? text.substr(range.second) : "";
    note_plain_text(prompt);
    std::vector<int> ids;
    if (split == nullptr) {
        ids = tokenizer.encode(text);
    } else {
        Pieces pieces = split({{prompt, 1.f}});
        pieces.insert(pieces.begin(), {before, 1.f});
        pieces.emplace_back(after, 1.f);
        for (const auto& [piece, weight] : pieces) {
            const std::vector<int> more = tokenizer.encode(piece);
            ids.insert(ids.end(), more.begin(), more.end());
        }
    }
    PlainText plain{"llm", prompt, limit.tokens, min_length, 0};
    if (limit.tokens != 0 && limit.dropped != 0) {
        const bool has_images = before.find("<|vision_start|>") != std::string::npos;
        plain.limit += has_images ? tokenizer.encode(before).size() : limit.dropped;
    }
    if (limit.whole_end) {
        plain.kept_tail = tokenizer.encode(after).size();
    }
    if (max_length < 100000000) {  // upstream's word for none
        plain.limit = plain.limit != 0 ? std::min(plain.limit, max_length) : max_length;
    }
    PlainTokens tokens = finish_plain(tokenizer, std::move(ids), plain);
    return {std::move(tokens.ids), std::move(tokens.weights), std::move(tokens.mask)};
}

}  // namespace sdcffi

#endif
