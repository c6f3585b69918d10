// Calls csrc/text without the engine, on texts that come as lines of hexadecimal digits.
//     text_program words               the words of each text by split_o200k, in hexadecimal digits
//     text_program ids TOKENS MERGES   the ids of each text as one word, whose letters are characters. The files have a
//                                      token a line, its id being the line's number, and two tokens a line.
#include <cstdio>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "text/bpe.hpp"
#include "text/split.hpp"
#include "text/utf8.hpp"

using namespace sdcffi::text;

static std::string from_hex(const std::string& digits) {
    std::string bytes;
    for (size_t i = 0; i + 1 < digits.size(); i += 2) {
        bytes += static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16));
    }
    return bytes;
}

static void print_hex(const std::string& bytes) {
    for (unsigned char byte : bytes) {
        std::printf("%02x", byte);
    }
}

static std::string content(const char* path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream all;
    all << file.rdbuf();
    return all.str();
}

static Strings numbered(const std::string& lines) {
    Strings tokens;
    std::istringstream stream(lines);
    for (std::string line; std::getline(stream, line);) {
        tokens.add(static_cast<int>(tokens.size()), line);
    }
    return tokens;
}

int main(int count, char** arguments) {
    const bool words         = std::string(arguments[1]) == "words" || count < 4;
    const std::string merges = words ? "" : content(arguments[3]);
    const Bpe bpe(words ? numbered("") : numbered(content(arguments[2])), Bpe::Merges(merges), Bpe::Letters::characters, "", 0);
    for (std::string line; std::getline(std::cin, line);) {
        const std::string text = from_hex(line);
        if (words) {
            const std::u32string points = from_utf8(text);
            for (std::u32string_view word : split_o200k(points)) {
                print_hex(to_utf8(word));
                std::printf(" ");
            }
        } else {
            std::vector<int> ids;
            bpe.encode(text, ids);
            for (int id : ids) {
                std::printf("%d ", id);
            }
        }
        std::printf("\n");
    }
}
