// The tokens of a prompt, recorded for sdg_tokens on the way that a generation takes.
#ifndef SDCFFI_RECORD_HPP
#define SDCFFI_RECORD_HPP

#include <string>
#include <vector>

#include "tokenizers/tokenizer.h"

namespace sdcffi {

struct RecordedChunk {
    std::vector<int> ids;  // without padding
    std::vector<float> weights;
    std::vector<std::string> texts;
    size_t length;  // with padding
    int padding;    // the padding token
};

struct RecordedText {
    std::string encoder;  // by the name of the Engine's keyword
    std::vector<RecordedChunk> chunks;
    size_t limit = 0;     // of tokens; 0: none
    std::string cut;      // what is left out beyond the limit
    std::string unknown;  // characters that the vocabulary lacks
};

// Where to record; none while an image is generated.
inline thread_local std::vector<RecordedText>* record = nullptr;

// Returns the text of tokens, as far as it is whole characters.
std::string text_of(const Tokenizer& tokenizer, const std::vector<int>& ids);

// The text of one token; of a special one its name.
std::string text_of_token(const Tokenizer& tokenizer, int id);

// Returns the characters of a text that a tokenizer knows only as its unknown token, each once.
std::string unknown_in(Tokenizer& tokenizer, const std::string& text);

}  // namespace sdcffi

#endif
