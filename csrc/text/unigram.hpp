// The unigram model of SentencePiece: a word becomes those of its pieces whose scores have the greatest sum.
#ifndef SDCFFI_TEXT_UNIGRAM_HPP
#define SDCFFI_TEXT_UNIGRAM_HPP

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "charsmap.hpp"
#include "prefixes.hpp"

namespace sdcffi::text {

class Unigram {
public:
    struct Settings {
        std::vector<std::pair<std::string, double>> pieces;    // with their scores; the position is the id
        std::vector<std::pair<std::string, int>> added_tokens; // found in a text before all else
        int unknown = 0;
        Charsmap charsmap;
        bool trims = true;  // spaces at the end of a text are left out
    };

    explicit Unigram(Settings settings);
    Unigram(const Unigram&)            = delete;  // the prefixes are views of the settings
    Unigram& operator=(const Unigram&) = delete;

    // Appends the ids of a text, without an end token.
    void encode(std::string_view text, std::vector<int>& ids) const;

    // Returns the piece of an id, empty if there is none.
    const std::string& piece_of(int id) const;

    // Returns the id of an added token, -1 if there is none.
    int id_of(std::string_view added_token) const;

    const std::vector<std::pair<std::string, int>>& added_tokens() const { return settings_.added_tokens; }

    // Returns the text with its characters mapped, U+2581 in place of spaces, of several one, and one at the beginning.
    std::string normalized(std::string_view text) const;

private:
    void encode_plain(std::string_view text, std::vector<int>& ids) const;
    void encode_word(std::string_view word, std::vector<int>& ids) const;

    const Settings settings_;
    const Prefixes pieces_;
    const Prefixes added_;
    const double unknown_score_;
};

}  // namespace sdcffi::text

#endif
