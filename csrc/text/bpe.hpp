// Byte pair encoding: a vocabulary, and merges of two of its tokens into one. The merge of the lowest rank comes first, of
// equal ones the leftmost.
#ifndef SDCFFI_TEXT_BPE_HPP
#define SDCFFI_TEXT_BPE_HPP

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace sdcffi::text {

class Bpe {
public:
    enum class Letters {
        bytes,       // a letter is a byte, spelt as GPT-2 does
        characters,  // a letter is a character; those that the vocabulary lacks are bytes, spelt <0x0A>
    };
    using Merge = std::pair<std::string_view, std::string_view>;

    // `tokens` are in UTF-8, with their ids; of equal tokens the last counts. `end_of_word` is added to the last letter of
    // each word. A letter that is not in the vocabulary is `unknown`.
    Bpe(std::vector<std::pair<std::string, int>> tokens, const std::vector<Merge>& merges, Letters letters,
        const std::string& end_of_word, int unknown);
    Bpe(const Bpe&)            = delete;  // ids_ has views of tokens_
    Bpe& operator=(const Bpe&) = delete;

    // Appends the ids of one word, which is not empty and in UTF-8.
    void encode(std::string_view word, std::vector<int>& ids) const;

    // Returns the id of a token, -1 if there is none, and the token of an id, empty if there is none.
    int id_of(std::string_view token) const;
    const std::string& token_of(int id) const;

private:
    void append_letters(std::string_view word, std::vector<int>& ids) const;

    static std::uint64_t pair_of(int first, int second) {
        return static_cast<std::uint64_t>(static_cast<std::uint32_t>(first)) << 32 | static_cast<std::uint32_t>(second);
    }

    struct Merged {
        int rank, id;
    };

    std::vector<std::pair<std::string, int>> tokens_;  // by id
    std::unordered_map<std::string_view, int> ids_;
    std::unordered_map<std::uint64_t, Merged> merges_;
    const Letters letters_;
    const int unknown_;
    const std::string end_of_word_;
    int byte_ids_[256];
    int last_byte_ids_[256];
};

// Returns the lines of a list of merges, "a b", which need not end with a line feed.
std::vector<Bpe::Merge> read_merges(std::string_view text);

// Returns the characters that GPT-2 spells bytes with, in the order of its vocabulary, and the byte of each.
std::vector<std::pair<int, std::string>> byte_letters();

}  // namespace sdcffi::text

#endif
