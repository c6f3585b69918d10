// The vocabularies in tokenizer.json and vocab.json, which are megabytes: strings with a number each.
#ifndef SDCFFI_TEXT_NUMBERED_HPP
#define SDCFFI_TEXT_NUMBERED_HPP

#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

#include "json.hpp"

namespace sdcffi::text {

// Returns the number that a text begins with, and takes it off the text. Whole numbers below 2^53 are exact; others are as
// near as what two roundings of a double leave, which is nearer than a float is.
inline double take_number(std::string_view& text) {
    constexpr std::uint64_t enough = 100'000'000'000'000'000;  // more digits change no double by more than a rounding does
    std::uint64_t digits = 0;
    int power            = 0;
    size_t at            = 0;
    const bool negative  = text[0] == '-';
    bool fraction        = false;
    for (at += negative; at < text.size(); at++) {
        if (text[at] == '.') {
            fraction = true;
        } else if (text[at] < '0' || text[at] > '9') {
            break;
        } else if (digits < enough) {
            digits = digits * 10 + static_cast<std::uint64_t>(text[at] - '0');
            power -= fraction;
        } else {
            power += !fraction;
        }
    }
    if (at < text.size() && (text[at] == 'e' || text[at] == 'E')) {
        const bool down = text[++at] == '-';
        at += text[at] == '-' || text[at] == '+';
        int exponent = 0;
        for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; at++) {
            exponent = exponent * 10 + (text[at] - '0');
        }
        power += down ? -exponent : exponent;
    }
    text.remove_prefix(at);
    const double scale = std::pow(10.0, std::abs(power)), value = static_cast<double>(digits);
    return (negative ? -1 : 1) * (power < 0 ? value / scale : value * scale);
}

// Calls `found` with each string that a number follows in a JSON object or array, {"a": 1, "b": 2} or [["a", 1], ["b", 2]],
// and with that number. Returns the length of the text to the end of the object or array. The text is known to be valid.
template <typename Found>
size_t each_numbered(std::string_view json, Found&& found) {
    std::string_view rest = json, name;
    std::string unescaped;
    for (int depth = 0; !rest.empty();) {
        const char c = rest[0];
        if (c == '"') {
            size_t end = 1;
            for (; rest[end] != '"'; end++) {
                end += rest[end] == '\\';
            }
            name = rest.substr(1, end - 1);
            if (name.find('\\') != std::string_view::npos) {
                unescaped = nlohmann::json::parse(rest.substr(0, end + 1)).get<std::string>();
                name      = unescaped;
            }
            rest.remove_prefix(end + 1);
        } else if (c == '-' || (c >= '0' && c <= '9')) {
            found(name, take_number(rest));
        } else {
            rest.remove_prefix(1);
            depth += (c == '[' || c == '{') - (c == ']' || c == '}');
            if (depth == 0 && (c == ']' || c == '}')) {
                break;
            }
        }
    }
    return json.size() - rest.size();
}

}  // namespace sdcffi::text

#endif
