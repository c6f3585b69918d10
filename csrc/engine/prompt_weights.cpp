// Takes the place of upstream's parse_prompt_attention, which CMake renames in the file that defines it. Upstream throws
// for a weight such as "." or fifty nines, and products of weights can be infinite.
#include <cmath>
#include <cstdlib>
#include <regex>
#include <string>
#include <utility>
#include <vector>

#include "stable-diffusion.h"

using Weighted = std::vector<std::pair<std::string, float>>;

Weighted upstream_parse_prompt_attention(const std::string& text);
void log_printf(sd_log_level_t level, const char* file, int line, const char* format, ...);

static bool is_number(const std::string& weight) {
    char* end         = nullptr;
    const float value = std::strtof(weight.c_str(), &end);
    return *end == '\0' && std::isfinite(value);
}

Weighted parse_prompt_attention(const std::string& text) {
    static const std::regex weight(R"(:([+-]?[.\d]+)\))");
    std::string prompt;
    std::string rest = text;
    for (std::smatch match; std::regex_search(rest, match, weight); rest = match.suffix()) {
        const bool usable = is_number(match[1]);
        if (!usable) {
            log_printf(SD_LOG_WARN, __FILE__, __LINE__, "the weight '%s' in the prompt is not a number: taken as 1", match[1].str().c_str());
        }
        prompt += match.prefix().str() + (usable ? match[0].str() : ":1)");
    }
    Weighted parts = upstream_parse_prompt_attention(prompt + rest);
    for (auto& [words, factor] : parts) {
        if (!std::isfinite(factor)) {
            log_printf(SD_LOG_WARN, __FILE__, __LINE__, "the weights around '%s' in the prompt multiply to more than a float holds: taken as 1", words.c_str());
            factor = 1.0f;
        }
    }
    return parts;
}
