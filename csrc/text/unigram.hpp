// The unigram model of SentencePiece: a word becomes those of its pieces whose scores have the greatest sum.
#ifndef SDCFFI_TEXT_UNIGRAM_HPP
#define SDCFFI_TEXT_UNIGRAM_HPP

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "charsmap.hpp"
#include "prefixes.hpp"
#include "strings.hpp"

namespace sdcffi::text {

class Unigram {
public:
    struct Settings {
        Strings pieces;                                        // their numbers are their ids
        std::vector<float> scores;                             // of each piece
        std::vector<std::pair<std::string, int>> added_tokens; // found in a text before all else
        int unknown = 0;
        Charsmap charsmap;
        bool trims = true;  // spaces at the end of a text are left out
    };

    explicit Unigram(Settings settings);

    // Appends the ids of a text, without an end token.
    void encode(std::string_view text, std::vector<int>& ids) const;

    // Returns the piece of an id, empty if there is none.
    std::string_view piece_of(int id) const { return settings_.pieces[id]; }

    // Returns the id of an added token, -1 if there is none.
    int id_of(std::string_view added_token) const;

    const std::vector<std::pair<std::string, int>>& added_tokens() const { return settings_.added_tokens; }

    // Returns the text with its characters mapped, U+2581 in place of spaces, of several one, and one at the beginning.
    std::string normalized(std::string_view text) const;

private:
    void encode_plain(std::string_view text, std::vector<int>& ids) const;
    void encode_word(std::string_view word, std::vector<int>& ids) const;

    Settings settings_;
    Prefixes added_;
    double unknown_score_;
};

}  // namespace sdcffi::text

#endif
