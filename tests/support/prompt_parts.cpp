// Prints the parts of prompts, which stand on standard input with a zero byte after each: their number, then a line with
// weight and text in hexadecimal for each. Numbers have a decimal comma in this program's locale.
#include <cstdio>
#include <iostream>
#include <iterator>
#include <locale>
#include <string>

#include "stable-diffusion.h"
#include "text/prompt_syntax.hpp"

void log_printf(sd_log_level_t, const char*, int, const char*, ...) {}

struct DecimalComma : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
    char do_thousands_sep() const override { return '.'; }
    std::string do_grouping() const override { return "\3"; }
};

int main() {
    std::locale::global(std::locale(std::locale::classic(), new DecimalComma));
    const std::string all((std::istreambuf_iterator<char>(std::cin)), {});
    for (size_t at = 0, end; at < all.size(); at = end + 1) {
        end              = all.find('\0', at);
        const auto parts = sdcffi::parse_prompt(all.substr(at, end - at));
        std::printf("%zu\n", parts.size());
        for (const auto& [text, weight] : parts) {
            std::printf("%.9g ", weight);
            for (const unsigned char byte : text) {
                std::printf("%02x", byte);
            }
            std::printf("\n");
        }
    }
}
