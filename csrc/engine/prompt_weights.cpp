// Takes the place of upstream's parse_prompt_attention, which CMake renames in the file that defines it. Upstream throws
// for a weight such as "." or fifty nines, and products of weights can be infinite.
#include <algorithm>
#include <cmath>
#include <cstdlib>
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

// Returns the prompt with 1 for each weight, the text between ":" and ")", that is made of digits but no number.
static std::string with_numbers(const std::string& prompt) {
    std::string result;
    for (size_t at = 0, end = 0; at < prompt.size(); at = end) {
        end = std::min(prompt.find(':', at), prompt.size() - 1) + 1;
        result.append(prompt, at, end - at);
        const size_t close = std::min(prompt.find_first_not_of("+-.0123456789", end), prompt.size());
        const std::string weight = prompt.substr(end, close - end);
        if (prompt[end - 1] == ':' && !weight.empty() && close < prompt.size() && prompt[close] == ')' && !is_number(weight)) {
            log_printf(SD_LOG_WARN, __FILE__, __LINE__, "the weight '%s' in the prompt is not a number: taken as 1", weight.c_str());
            result += '1';
            end = close;
        }
    }
    return result;
}

Weighted parse_prompt_attention(const std::string& text) {
    Weighted parts = upstream_parse_prompt_attention(with_numbers(text));
    for (auto& [words, factor] : parts) {
        if (!std::isfinite(factor)) {
            log_printf(SD_LOG_WARN, __FILE__, __LINE__, "the weights around '%s' in the prompt multiply to more than a float holds: taken as 1", words.c_str());
            factor = 1.0f;
        }
    }
    return parts;
}
