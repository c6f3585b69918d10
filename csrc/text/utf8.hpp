// UTF-8 to code points and back. What is not UTF-8 becomes U+FFFD, one for each part that begins a character and does not
// complete it (the Unicode Standard, 3.9: "substitution of maximal subparts"; Python's errors="replace" does the same).
#ifndef SDCFFI_TEXT_UTF8_HPP
#define SDCFFI_TEXT_UTF8_HPP

#include <string>
#include <string_view>

namespace sdcffi::text {

inline void append_utf8(std::string& target, char32_t point) {
    const auto byte = [&](char32_t value) { target += static_cast<char>(value); };
    if (point < 0x80) {
        byte(point);
    } else if (point < 0x800) {
        byte(0xC0 | point >> 6);
        byte(0x80 | (point & 0x3F));
    } else if (point < 0x10000) {
        byte(0xE0 | point >> 12);
        byte(0x80 | (point >> 6 & 0x3F));
        byte(0x80 | (point & 0x3F));
    } else {
        byte(0xF0 | point >> 18);
        byte(0x80 | (point >> 12 & 0x3F));
        byte(0x80 | (point >> 6 & 0x3F));
        byte(0x80 | (point & 0x3F));
    }
}

inline std::string to_utf8(std::u32string_view points) {
    std::string result;
    result.reserve(points.size());
    for (char32_t point : points) {
        append_utf8(result, point);
    }
    return result;
}

inline std::u32string from_utf8(std::string_view bytes) {
    constexpr char32_t replacement = 0xFFFD;
    std::u32string result;
    result.reserve(bytes.size());
    for (size_t at = 0; at < bytes.size();) {
        const unsigned char lead = bytes[at++];
        if (lead < 0x80) {
            result += lead;
            continue;
        }
        const int more = lead < 0xC2 || lead > 0xF4 ? 0 : lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
        // The second byte's range excludes overlong forms, surrogates and what is above U+10FFFF.
        unsigned char least = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
        unsigned char most  = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
        char32_t point      = lead & (0x3F >> more);
        int read            = 0;
        for (; read < more && at < bytes.size(); read++) {
            const unsigned char next = bytes[at];
            if (next < least || next > most) {
                break;
            }
            point = point << 6 | (next & 0x3F);
            least = 0x80;
            most  = 0xBF;
            at++;
        }
        result += more > 0 && read == more ? point : replacement;
    }
    return result;
}

// Returns the same text with U+FFFD for what is not UTF-8.
inline std::string valid_utf8(std::string_view bytes) {
    return to_utf8(from_utf8(bytes));
}

}  // namespace sdcffi::text

#endif
