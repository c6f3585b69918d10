#include "record.hpp"

#include <algorithm>
#include <array>
#include <map>

namespace sdcffi {

namespace {

// Byte-level vocabularies write each byte as a letter: printable ones of Latin-1 as they are, others from U+0100 on.
const std::map<std::string, char>& byte_letters() {
    static const std::map<std::string, char> letters = [] {
        std::map<std::string, char> found;
        int others = 0;
        for (int byte = 0; byte < 256; byte++) {
            const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
            const int letter     = printable ? byte : 0x100 + others++;
            std::string text;
            if (letter < 0x80) {
                text = static_cast<char>(letter);
            } else {
                text += static_cast<char>(0xc0 | letter >> 6);
                text += static_cast<char>(0x80 | (letter & 0x3f));
            }
            found[text] = static_cast<char>(byte);
        }
        return found;
    }();
    return letters;
}

size_t size_of_character(const std::string& text, size_t at) {
    const auto head   = static_cast<uint8_t>(text[at]);
    const size_t size = head < 0x80 ? 1 : head < 0xe0 ? 2 : head < 0xf0 ? 3 : 4;
    return std::min(size, text.size() - at);
}

bool is_utf8(const std::string& text) {
    for (size_t at = 0; at < text.size();) {
        const auto head   = static_cast<uint8_t>(text[at]);
        const size_t size = head < 0x80 ? 1 : head < 0xc2 ? 0 : head < 0xe0 ? 2 : head < 0xf0 ? 3 : head < 0xf5 ? 4 : 0;
        if (size == 0 || at + size > text.size()) {
            return false;
        }
        for (size_t i = 1; i < size; i++) {
            if ((text[at + i] & 0xc0) != 0x80) {
                return false;
            }
        }
        at += size;
    }
    return true;
}

// Replaces the letters of a byte-level vocabulary by their bytes, if that gives a text.
std::string without_byte_letters(const std::string& text) {
    std::string bytes;
    for (size_t at = 0, size; at < text.size(); at += size) {
        size               = size_of_character(text, at);
        const auto letter = byte_letters().find(text.substr(at, size));
        bytes += letter != byte_letters().end() ? std::string(1, letter->second) : text.substr(at, size);
    }
    return is_utf8(bytes) ? bytes : text;
}

// SentencePiece writes a blank as U+2581.
std::string with_blanks(std::string text) {
    static const std::string mark = "\xe2\x96\x81";
    for (size_t at = 0; (at = text.find(mark, at)) != std::string::npos;) {
        text.replace(at, mark.size(), " ");
    }
    return text;
}

}  // namespace

std::string text_of(const Tokenizer& tokenizer, const std::vector<int>& ids) {
    return with_blanks(without_byte_letters(tokenizer.decode(ids)));
}

std::string text_of_token(const Tokenizer& tokenizer, int id) {
    if (id == tokenizer.EOS_TOKEN_ID && !tokenizer.EOS_TOKEN.empty()) {
        return tokenizer.EOS_TOKEN;
    }
    if (id == tokenizer.BOS_TOKEN_ID && !tokenizer.BOS_TOKEN.empty()) {
        return tokenizer.BOS_TOKEN;
    }
    return text_of(tokenizer, {id});
}

std::string unknown_in(Tokenizer& tokenizer, const std::string& text) {
    std::string unknown;
    for (size_t at = 0, size; at < text.size(); at += size) {
        size                      = size_of_character(text, at);
        const std::string character = text.substr(at, size);
        if (character == " " || unknown.find(character) != std::string::npos) {
            continue;
        }
        const std::vector<int> ids = tokenizer.encode(character);
        if (std::find(ids.begin(), ids.end(), tokenizer.UNK_TOKEN_ID) != ids.end()) {
            unknown += character;
        }
    }
    return unknown;
}

}  // namespace sdcffi
