#include "charsmap.hpp"

#include <stdexcept>

namespace sdcffi::text {

namespace {

std::string from_base64(std::string_view text) {
    std::string bytes;
    std::uint32_t bits = 0;
    int count          = 0;
    for (char c : text) {
        const int value = c >= 'A' && c <= 'Z'   ? c - 'A'
                          : c >= 'a' && c <= 'z' ? c - 'a' + 26
                          : c >= '0' && c <= '9' ? c - '0' + 52
                          : c == '+'             ? 62
                          : c == '/'             ? 63
                                                 : -1;
        if (value < 0) {
            continue;  // = at the end
        }
        bits = bits << 6 | static_cast<std::uint32_t>(value);
        count += 6;
        if (count >= 8) {
            count -= 8;
            bytes += static_cast<char>(bits >> count & 0xFF);
        }
    }
    return bytes;
}

std::uint32_t little_endian(std::string_view bytes, size_t at) {
    std::uint32_t value = 0;
    for (size_t i = 0; i < 4; i++) {
        value |= static_cast<std::uint32_t>(static_cast<unsigned char>(bytes[at + i])) << (8 * i);
    }
    return value;
}

// A unit of the double array, as darts-clone packs it.
struct Unit {
    std::uint32_t bits;
    bool has_leaf() const { return (bits >> 8 & 1) != 0; }
    std::uint32_t value() const { return bits & 0x7FFFFFFF; }
    std::uint32_t label() const { return bits & 0x800000FF; }
    std::uint32_t offset() const { return bits >> 10 << ((bits & 0x200) >> 6); }
};

}  // namespace

Charsmap::Charsmap(std::string_view base64) {
    const std::string bytes = from_base64(base64);
    if (bytes.size() < 4 || little_endian(bytes, 0) > bytes.size() - 4) {
        throw std::runtime_error("the tokenizer's precompiled_charsmap is cut off");
    }
    const size_t size = little_endian(bytes, 0);
    for (size_t at = 4; at + 4 <= 4 + size; at += 4) {
        units_.push_back(little_endian(bytes, at));
    }
    replacements_ = bytes.substr(4 + size) + '\0';
}

std::string Charsmap::normalized(std::string_view text) const {
    if (units_.empty()) {
        return std::string(text);
    }
    const auto unit_at = [&](std::uint32_t position) { return Unit{position < units_.size() ? units_[position] : 0x80000000}; };
    std::string result;
    result.reserve(text.size());
    for (size_t at = 0; at < text.size();) {
        size_t length         = 0;
        std::uint32_t replace = 0;
        std::uint32_t node    = unit_at(0).offset();
        for (size_t i = at; i < text.size(); i++) {
            const unsigned char byte = text[i];
            node ^= byte;
            const Unit unit = unit_at(node);
            if (byte == 0 || unit.label() != byte) {
                break;
            }
            node ^= unit.offset();
            if (unit.has_leaf()) {
                length  = i + 1 - at;
                replace = unit_at(node).value();
            }
        }
        if (length > 0) {
            result += replace < replacements_.size() ? replacements_.c_str() + replace : "";
        } else {
            do {
                result += text[at + length++];
            } while (at + length < text.size() && (text[at + length] & 0xC0) == 0x80);
        }
        at += length;
    }
    return result;
}

}  // namespace sdcffi::text
