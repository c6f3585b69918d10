// A tokenizer by byte pair encoding: how it splits a text into words, and its vocabulary.
#ifndef SDCFFI_TEXT_WORD_MODEL_HPP
#define SDCFFI_TEXT_WORD_MODEL_HPP

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bpe.hpp"
#include "models.hpp"
#include "prefixes.hpp"
#include "split.hpp"

namespace sdcffi::text {

using Tokens = std::vector<std::pair<std::string, int>>;

struct WordModel {
    WordModel(Bpe bpe, const Tokens& special_tokens);

    // Returns the words of a text: all of it where the model has no rule.
    Words words(std::u32string_view text) const;

    const Bpe bpe;
    const Tokens special_tokens;   // found in a text as it is, before all else
    const Prefixes special_index;  // their positions
    Words (*split)(std::u32string_view) = nullptr;
    bool composed = false;  // a text is normalised to NFC
};

// As openai/clip-vit-large-patch14 normalises a text: NFC, each run of white space one space, lower case.
std::u32string clip_normalized(std::u32string_view text);

// The published tokenizers. `merges` is merges.txt, `vocabulary` is vocab.json.
SharedWordModel clip_model(std::string_view merges, const std::vector<std::string>& special_tokens);
SharedWordModel qwen2_model(std::string_view merges, const std::vector<std::string>& special_tokens);
SharedWordModel mistral_model(std::string merges, const std::string& vocabulary, int special_tokens);

// Returns a unigram model by its tokenizer.json. That does not say whether spaces at the end of a text are left out.
SharedUnigram unigram_model(const std::string& json, bool trims);

}  // namespace sdcffi::text

#endif
