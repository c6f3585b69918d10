// The engine's tokenizers by byte pair encoding. CMake compiles this file in place of upstream's bpe_tokenizer.cpp,
// clip_tokenizer.cpp, qwen2_tokenizer.cpp, mistral_tokenizer.cpp and tokenize_util.cpp.
#include <algorithm>

#include "engine_log.hpp"
#include "tokenizers/bpe_tokenizer.h"
#include "tokenizers/clip_tokenizer.h"
#include "tokenizers/mistral_tokenizer.h"
#include "tokenizers/qwen2_tokenizer.h"
#include "tokenizers/vocab/vocab.h"
#include "unicode.hpp"
#include "utf8.hpp"
#include "word_model.hpp"

#if __has_include("tokenizers/gemma_tokenizer.h")
#define SDCFFI_TOKENIZERS_OF_2026_08
#endif

using sdcffi::text::Bpe;
using sdcffi::text::Tokens;
using sdcffi::text::WordModel;

namespace {

using Ids = std::vector<int>;

// The names that were added to a model's own special tokens, in lower case, the longest first, and what they stand for. A
// name is found only where it begins and ends with a word.
class Names {
public:
    Names(const std::vector<std::string>& tokens, const Tokens& own, const on_new_token_cb_t& replace) : replace_(replace) {
        if (replace == nullptr) {
            return;
        }
        for (const std::string& token : tokens) {
            const bool is_own = std::any_of(own.begin(), own.end(), [&](const auto& row) { return row.first == token; });
            if (!is_own && !token.empty()) {
                names_.push_back(sdcffi::text::from_utf8(token));
            }
        }
        std::stable_sort(names_.begin(), names_.end(), [](const auto& a, const auto& b) { return a.size() > b.size(); });
    }

    // Appends what the name at a word stands for, and returns how many words the name has; 0: there is none.
    size_t append(std::u32string_view text, const sdcffi::text::Words& words, size_t first, Ids& ids) const {
        const size_t start = words[first].data() - text.data();
        for (const std::u32string& name : names_) {
            if (text.compare(start, name.size(), name) != 0) {
                continue;
            }
            size_t last = first;
            while (last < words.size() && words[last].data() + words[last].size() < text.data() + start + name.size()) {
                last++;
            }
            std::string spelt = sdcffi::text::to_utf8(name);
            if (last < words.size() && words[last].data() + words[last].size() == text.data() + start + name.size() && replace_(spelt, ids)) {
                return last + 1 - first;
            }
        }
        return 0;
    }

private:
    std::vector<std::u32string> names_;
    const on_new_token_cb_t& replace_;
};

}  // namespace

std::vector<std::pair<int, std::u32string>> BPETokenizer::bytes_to_unicode() {
    std::vector<std::pair<int, std::u32string>> pairs;
    for (const auto& [byte, letter] : sdcffi::text::byte_letters()) {
        pairs.emplace_back(byte, sdcffi::text::from_utf8(letter));
    }
    return pairs;
}

std::vector<std::u32string> BPETokenizer::split_utf32(const std::string& text, char32_t delimiter) {
    const std::u32string points = sdcffi::text::from_utf8(text);
    std::vector<std::u32string> parts;
    for (size_t start = 0, end; (end = points.find(delimiter, start)) != std::u32string::npos; start = end + 1) {
        parts.push_back(points.substr(start, end - start));
    }
    return parts;
}

std::vector<std::string> BPETokenizer::token_split(const std::string& text) const {
    const std::u32string points = sdcffi::text::from_utf8(text);
    std::vector<std::string> words;
    for (std::u32string_view word : model->words(points)) {
        words.push_back(sdcffi::text::to_utf8(word));
    }
    return words;
}

#ifdef SDCFFI_TOKENIZERS_OF_2026_08
// Gemma and gpt-oss fill upstream's tables. gpt-oss splits a text as o200k_base does, Gemma not at all.
static sdcffi::text::SharedWordModel model_of_tables(const std::map<std::u32string, int>& encoder,
                                                     const std::map<std::pair<std::u32string, std::u32string>, int>& ranks,
                                                     bool bytes, int unknown, const std::vector<std::string>& special_tokens) {
    sdcffi::text::Strings tokens;
    for (const auto& [token, id] : encoder) {
        tokens.add(id, sdcffi::text::to_utf8(token));
    }
    std::vector<std::string> lines(ranks.size());
    for (const auto& [pair, rank] : ranks) {
        if (rank >= 0 && static_cast<size_t>(rank) < lines.size()) {
            lines[rank] = sdcffi::text::to_utf8(pair.first) + ' ' + sdcffi::text::to_utf8(pair.second) + '\n';
        }
    }
    std::string merges;
    for (const std::string& line : lines) {
        merges += line;
    }
    Tokens special;
    for (const std::string& token : special_tokens) {
        const auto found = encoder.find(sdcffi::text::from_utf8(token));
        if (found != encoder.end()) {
            special.emplace_back(token, found->second);
        }
    }
    auto model = std::make_shared<WordModel>(
        Bpe(std::move(tokens), Bpe::Merges(std::move(merges)), bytes ? Bpe::Letters::bytes : Bpe::Letters::characters, "", unknown), special);
    model->split = bytes ? sdcffi::text::split_o200k : nullptr;
    return model;
}
#endif

std::vector<int> BPETokenizer::encode(const std::string& text, on_new_token_cb_t on_new_token_cb) {
#ifdef SDCFFI_TOKENIZERS_OF_2026_08
    if (model == nullptr) {
        model = model_of_tables(encoder, bpe_ranks, byte_level_bpe, UNK_TOKEN_ID, special_tokens);
    }
#endif
    const Names names(special_tokens, model->special_tokens, on_new_token_cb);
    Ids ids;
    const auto plain = [&](std::string_view part) {
        std::u32string points = sdcffi::text::from_utf8(normalize(std::string(part)));
        if (model->composed) {
            points = sdcffi::text::nfc(std::move(points));
        }
        const auto words = model->words(points);
        for (size_t i = 0; i < words.size();) {
            const size_t named = names.append(points, words, i, ids);
            if (named == 0) {
                model->bpe.encode(sdcffi::text::to_utf8(words[i]), ids);
            }
            i += std::max<size_t>(named, 1);
        }
    };
    const auto special = [&](int index) {
        auto [token, id] = model->special_tokens[index];
        if (on_new_token_cb == nullptr || !on_new_token_cb(token, ids)) {
            ids.push_back(id);
        }
    };
    sdcffi::text::split_at(model->special_index, sdcffi::text::valid_utf8(text), plain, special);
    sdcffi::text::log_tokens(text, ids, [&](int id) { return model->bpe.token_of(id); });
    return ids;
}

std::string BPETokenizer::decode_token(int token_id) const {
    if (model != nullptr) {
        return std::string(model->bpe.token_of(token_id));
    }
    const auto found = decoder.find(token_id);
    return found == decoder.end() ? "" : sdcffi::text::to_utf8(found->second);
}

CLIPTokenizer::CLIPTokenizer(int pad_token_id, const std::string& merges_utf8_str) {
    special_tokens = {"<|startoftext|>", "<|endoftext|>"};
    static const auto kept = sdcffi::text::clip_model(load_clip_merges(), special_tokens);

    model        = merges_utf8_str.empty() ? kept : sdcffi::text::clip_model(merges_utf8_str, special_tokens);
    BOS_TOKEN    = special_tokens[0];
    BOS_TOKEN_ID = model->bpe.id_of(BOS_TOKEN);
    EOS_TOKEN = UNK_TOKEN = PAD_TOKEN = special_tokens[1];
    EOS_TOKEN_ID = UNK_TOKEN_ID = model->bpe.id_of(EOS_TOKEN);
    PAD_TOKEN_ID       = pad_token_id;
    end_of_word_suffix = "</w>";
    add_bos_token = add_eos_token = true;
}

std::string CLIPTokenizer::normalize(const std::string& text) const {
    return sdcffi::text::to_utf8(sdcffi::text::clip_normalized(sdcffi::text::from_utf8(text)));
}

std::vector<std::string> CLIPTokenizer::token_split(const std::string& text) const {
    return BPETokenizer::token_split(text);
}

Qwen2Tokenizer::Qwen2Tokenizer(const std::string& merges_utf8_str) {
    special_tokens = {
        "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
        "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
        "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>",
        "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>",
        "<think>", "</think>",
#ifdef SDCFFI_TOKENIZERS_OF_2026_08  // HiDream O1
        "<|boi_token|>", "<|bor_token|>", "<|eor_token|>", "<|bot_token|>", "<|tms_token|>",
#endif
    };
    static const auto kept = sdcffi::text::qwen2_model(load_qwen2_merges(), special_tokens);
    model     = merges_utf8_str.empty() ? kept : sdcffi::text::qwen2_model(merges_utf8_str, special_tokens);
    EOS_TOKEN = UNK_TOKEN = PAD_TOKEN = special_tokens[0];
    EOS_TOKEN_ID = UNK_TOKEN_ID = PAD_TOKEN_ID = model->bpe.id_of(EOS_TOKEN);
}

MistralTokenizer::MistralTokenizer(const std::string& merges_utf8_str, const std::string& vocab_utf8_str) {
    constexpr int special_count = 1000;  // ids below are special tokens
    static const auto kept      = sdcffi::text::mistral_model(load_mistral_merges(), load_mistral_vocab_json(), special_count);
    const bool given = !merges_utf8_str.empty() && !vocab_utf8_str.empty();
    model            = given ? sdcffi::text::mistral_model(merges_utf8_str, vocab_utf8_str, special_count) : kept;
    for (const auto& row : model->special_tokens) {
        special_tokens.push_back(row.first);
    }
    UNK_TOKEN     = "<unk>";
    BOS_TOKEN     = "<s>";
    EOS_TOKEN     = "</s>";
    PAD_TOKEN     = "<pad>";
    UNK_TOKEN_ID  = model->bpe.id_of(UNK_TOKEN);
    BOS_TOKEN_ID  = model->bpe.id_of(BOS_TOKEN);
    EOS_TOKEN_ID  = model->bpe.id_of(EOS_TOKEN);
    PAD_TOKEN_ID  = model->bpe.id_of(PAD_TOKEN);
    add_bos_token = true;
}
