// The rules by which a SentencePiece model normalises characters (its precompiled_charsmap): a double array that leads from
// a sequence of bytes to its replacement.
#ifndef SDCFFI_TEXT_CHARSMAP_HPP
#define SDCFFI_TEXT_CHARSMAP_HPP

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sdcffi::text {

class Charsmap {
public:
    Charsmap() = default;  // replaces nothing

    // `base64` is the map as tokenizer.json has it.
    explicit Charsmap(std::string_view base64);

    // Returns the text, which is valid UTF-8, with each replacement made, the longest at each place.
    std::string normalized(std::string_view text) const;

private:
    std::vector<std::uint32_t> units_;
    std::string replacements_;  // each ends with a zero
};

}  // namespace sdcffi::text

#endif
