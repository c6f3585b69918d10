// Byte pair encoding: a vocabulary, and merges of two of its tokens into one. The merge of the lowest rank comes first, of
// equal ones the leftmost.
#ifndef SDCFFI_TEXT_BPE_HPP
#define SDCFFI_TEXT_BPE_HPP

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "strings.hpp"

namespace sdcffi::text {

class Bpe {
public:
    enum class Letters {
        bytes,       // a letter is a byte, spelt as GPT-2 does
        characters,  // a letter is a character; those that the vocabulary lacks are bytes, spelt <0x0A>
    };

    // Which merges there are, the first of them has the lowest rank.
    struct Merges {
        // Those of a merges.txt, a line "a b" each.
        explicit Merges(std::string text);

        // Those that make the tokens from `first_token` on, of which no two are equal: the length of "a" of each.
        Merges(int first_token, std::vector<std::uint16_t> splits) : first_token(first_token), splits(std::move(splits)) {}

        std::string text;
        std::vector<std::uint32_t> lines;  // where they begin in the text
        HashTable numbers;                 // of the lines
        int first_token = 0;
        std::vector<std::uint16_t> splits;
    };

    // A token's number is its id. `end_of_word` is added to the last letter of each word. A letter that is not in the
    // vocabulary is `unknown`.
    Bpe(Strings tokens, Merges merges, Letters letters, const std::string& end_of_word, int unknown);

    // Appends the ids of one word, which is not empty and in UTF-8.
    void encode(std::string_view word, std::vector<int>& ids) const;

    // Returns the id of a token, -1 if there is none, and the token of an id, empty if there is none.
    int id_of(std::string_view token) const { return tokens_.find(token); }
    std::string_view token_of(int id) const { return tokens_[id]; }

private:
    void append_letters(std::string_view word, std::vector<int>& ids) const;

    struct Merged {
        int rank, id;  // -1: the two are not merged
    };
    Merged merged(std::string_view first, std::string_view second) const;

    Strings tokens_;
    Merges merges_;
    Letters letters_;
    int unknown_;
    std::string end_of_word_;
    int byte_ids_[256];
    int last_byte_ids_[256];
};

// Calls `found` with where each line of a list of merges, "a b", begins, and with its two parts. The last line need not end
// with a line feed.
template <typename Found>
void each_merge(std::string_view text, Found&& found) {
    size_t at = text.substr(0, 9) == "#version:" ? std::min(text.find('\n'), text.size()) : 0;
    while (at < text.size()) {
        const std::string_view line = text.substr(at, std::min(text.find('\n', at), text.size()) - at);
        const size_t blank          = line.find(' ');
        if (blank != std::string_view::npos) {
            found(at, line.substr(0, blank), line.substr(blank + 1));
        }
        at += line.size() + 1;
    }
}

// Returns the characters that GPT-2 spells bytes with, in the order of its vocabulary, and the byte of each.
std::vector<std::pair<int, std::string>> byte_letters();

}  // namespace sdcffi::text

#endif
