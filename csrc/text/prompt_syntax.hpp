// The syntax of prompts that AUTOMATIC1111 defines: weights in brackets, escapes, and BREAK.
#ifndef SDCFFI_PROMPT_SYNTAX_HPP
#define SDCFFI_PROMPT_SYNTAX_HPP

#include <string>
#include <utility>
#include <vector>

namespace sdcffi {

// A text and the weight of its words. The word BREAK outside of brackets is a part of its own, of weight -1.
using PromptPart = std::pair<std::string, float>;

inline bool is_break(const PromptPart& part) {
    return part.first == "BREAK" && part.second == -1.f;
}

// Returns the parts of a prompt as AUTOMATIC1111's parse_prompt_attention does, at least one. A weight that is no number,
// or more than a float holds, counts as 1.
std::vector<PromptPart> parse_prompt(const std::string& text);

// Whether a plain text looks as if its author meant weights or BREAK: (word:1.2), ((word)), [[word]], BREAK.
bool looks_weighted(const std::string& text);

}  // namespace sdcffi

#endif
