// Undoes HTML's character references as Python's html.unescape does.
#ifndef SDCFFI_TEXT_HTML_HPP
#define SDCFFI_TEXT_HTML_HPP

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <string>

namespace sdcffi {

inline std::string utf8(uint32_t point) {
    std::string text;
    if (point < 0x80) {
        return std::string(1, static_cast<char>(point));
    }
    const int more = point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
    text += static_cast<char>((0xFF00 >> (more + 1) & 0xFF) | point >> 6 * more);
    for (int i = more - 1; i >= 0; i--) {
        text += static_cast<char>(0x80 | (point >> 6 * i & 0x3F));
    }
    return text;
}

namespace html {

struct Entity {
    const char* name;
    const char* text;
};

// Returns the text of an entity, whose name may end with ";"; nullptr if there is none.
inline const char* entity(const std::string& name) {
    static const Entity table[] = {
#define ENTITY(name, text) {name, text},
#define NUMBER(number, text)
#include "html_entities.inc"
#undef ENTITY
#undef NUMBER
    };
    const auto found = std::lower_bound(std::begin(table), std::end(table), name, [](const Entity& one, const std::string& other) {
        return other.compare(one.name) > 0;
    });
    return found != std::end(table) && name == found->name ? found->text : nullptr;
}

inline std::string character(const std::string& digits, int base) {
    const unsigned long long number = digits.size() > 9 ? 0x110000ull : std::strtoull(digits.c_str(), nullptr, base);
    switch (number) {
#define ENTITY(name, text)
#define NUMBER(number, text) \
    case number:             \
        return text;
#include "html_entities.inc"
#undef ENTITY
#undef NUMBER
        case 0x0D:
            return "\r";
        default:
            break;
    }
    if (number == 0 || number > 0x10FFFF || (number >= 0xD800 && number <= 0xDFFF)) {
        return "\xEF\xBF\xBD";
    }
    const bool control = number < 0x20 && number != 0x09 && number != 0x0A && number != 0x0C;
    if (control || number == 0x7F || (number >= 0xFDD0 && number <= 0xFDEF) || (number & 0xFFFE) == 0xFFFE) {
        return "";
    }
    return utf8(static_cast<uint32_t>(number));
}

}  // namespace html

inline std::string html_unescape(const std::string& text) {
    std::string result;
    for (size_t at = 0; at < text.size();) {
        if (text[at] != '&') {
            result += text[at++];
            continue;
        }
        size_t end = at + 1;
        if (end < text.size() && text[end] == '#') {
            const bool hex      = end + 1 < text.size() && (text[end + 1] | 0x20) == 'x';
            const char* legal   = hex ? "0123456789abcdefABCDEF" : "0123456789";
            const size_t begin  = end + (hex ? 2 : 1);
            end                 = std::min(text.find_first_not_of(legal, begin), text.size());
            std::string digits  = text.substr(std::min(begin, text.size()), end - std::min(begin, end));
            digits.erase(0, std::min(digits.find_first_not_of('0'), digits.empty() ? 0 : digits.size() - 1));
            if (digits.empty()) {
                result += text[at++];
                continue;
            }
            result += html::character(digits, hex ? 16 : 10);
            at = end + (end < text.size() && text[end] == ';' ? 1 : 0);
            continue;
        }
        // A name has at most 32 characters, of which those of UTF-8's continuation bytes do not count.
        int count = 0;
        while (end < text.size() && std::strchr("\t\n\f <&#;", text[end]) == nullptr) {
            const bool begins = (text[end] & 0xC0) != 0x80;
            if (begins && count == 32) {
                break;
            }
            count += begins ? 1 : 0;
            end++;
        }
        const size_t name_end = end;
        end += end < text.size() && text[end] == ';' ? 1 : 0;
        const std::string name = text.substr(at + 1, end - at - 1);
        const char* found      = name_end > at + 1 ? html::entity(name) : nullptr;
        size_t length          = name.size();
        while (found == nullptr && length > 2) {
            found = html::entity(name.substr(0, --length));
        }
        if (found != nullptr) {
            result += found;
            at += 1 + length;
        } else {
            // Python goes on after the name, so that an ampersand within it would count; there is none.
            result += text.substr(at, name_end > at + 1 ? end - at : 1);
            at = name_end > at + 1 ? end : at + 1;
        }
    }
    return result;
}

}  // namespace sdcffi

#endif
