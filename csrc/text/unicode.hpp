// What the tokenizers need of Unicode. The table is written at build time (sdcffi/_build/unicode_table.py), so that neither
// the C library nor the locale has a say.
#ifndef SDCFFI_TEXT_UNICODE_HPP
#define SDCFFI_TEXT_UNICODE_HPP

#include <cstdint>
#include <string>
#include <string_view>

namespace sdcffi::text {

// Classes of characters, as bits; the numbers are those of unicode_table.py.
enum : std::uint8_t {
    upper_case   = 1,  // Lu, Lt
    small_case   = 2,  // Ll
    other_letter = 4,  // Lm, Lo
    mark         = 8,
    number       = 16,
    white_space  = 32,  // the property White_Space
    letter       = upper_case | small_case | other_letter,
};

std::uint8_t class_of(char32_t point);

inline bool is(char32_t point, int classes) {
    return (class_of(point) & classes) != 0;
}

// Returns each character's lower case by itself, without rules for its neighbours.
std::u32string lower(std::u32string_view text);

// Returns the canonical composition.
std::u32string nfc(std::u32string text);

}  // namespace sdcffi::text

#endif
