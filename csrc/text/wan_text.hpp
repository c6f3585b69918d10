// Cleans a prompt for Wan as its authors and diffusers do, but for ftfy, which repairs wrongly decoded text.
#ifndef SDCFFI_TEXT_WAN_TEXT_HPP
#define SDCFFI_TEXT_WAN_TEXT_HPP

#include <string>

#include "text/html.hpp"

namespace sdcffi {

// Returns the length in bytes of the white space of Unicode at a place of a text; 0: there is none.
inline size_t blank_at(const std::string& text, size_t at) {
    const auto byte = [&](size_t i) { return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0u; };
    const unsigned first = byte(0), second = byte(1), third = byte(2);
    if ((first >= 0x09 && first <= 0x0D) || (first >= 0x1C && first <= 0x20)) {
        return 1;
    }
    if (first == 0xC2) {
        return second == 0x85 || second == 0xA0 ? 2 : 0;
    }
    const bool is_1680 = first == 0xE1 && second == 0x9A && third == 0x80;
    const bool is_20xx = first == 0xE2 && second == 0x80 && (third <= 0x8A || third == 0xA8 || third == 0xA9 || third == 0xAF);
    const bool is_205f = first == 0xE2 && second == 0x81 && third == 0x9F;
    const bool is_3000 = first == 0xE3 && second == 0x80 && third == 0x80;
    return is_1680 || (is_20xx && third >= 0x80) || is_205f || is_3000 ? 3 : 0;
}

// Undoes HTML's references twice, and makes each run of white space one blank, but for those at the ends.
inline std::string clean_text(const std::string& prompt) {
    const std::string text = html_unescape(html_unescape(prompt));
    std::string result;
    for (size_t at = 0; at < text.size();) {
        const size_t blank = blank_at(text, at);
        if (blank > 0) {
            result += result.empty() || result.back() == ' ' ? "" : " ";
            at += blank;
        } else {
            result += text[at++];
        }
    }
    if (!result.empty() && result.back() == ' ') {
        result.pop_back();
    }
    return result;
}

template <typename Version>
std::string text_for(Version version, const std::string& prompt) {
    return sd_version_is_wan(version) ? clean_text(prompt) : prompt;
}

}  // namespace sdcffi

#endif
