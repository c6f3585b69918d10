#include "prompt_syntax.hpp"

#include <algorithm>
#include <cmath>
#include <locale>
#include <sstream>
#include <string_view>

#include "notes.hpp"
#include "word_characters.hpp"

namespace sdcffi {

namespace {

constexpr double round_factor  = 1.1;
constexpr double square_factor = 1 / 1.1;
constexpr size_t most_depth    = 1000;  // 1.1 to this power is no float: brackets around so many count as 1

struct CodePoint {
    uint32_t value;
    size_t size;  // in bytes
};

// Returns the code point that begins at a byte; a byte that begins none stands for itself, beyond all of Unicode.
CodePoint code_point(const std::string& text, size_t at) {
    const auto byte   = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
    const uint8_t head = byte(at);
    const size_t size = head < 0x80 ? 1 : head < 0xc2 ? 0 : head < 0xe0 ? 2 : head < 0xf0 ? 3 : head < 0xf5 ? 4 : 0;
    if (size == 1) {
        return {head, 1};
    }
    uint32_t value = head & (0x7f >> size);
    for (size_t i = 1; i < size; i++) {
        if (at + i >= text.size() || (byte(at + i) & 0xc0) != 0x80) {
            return {0x110000u + head, 1};
        }
        value = value << 6 | (byte(at + i) & 0x3f);
    }
    return size > 0 ? CodePoint{value, size} : CodePoint{0x110000u + head, 1};
}

// Returns the code point that ends before a byte.
CodePoint code_point_before(const std::string& text, size_t end) {
    size_t size = 1;
    while (size < std::min<size_t>(end, 4) && (text[end - size] & 0xc0) == 0x80) {
        size++;
    }
    const CodePoint found = code_point(text, end - size);
    return found.size == size ? found : CodePoint{0x110000u, 1};
}

size_t after_white(const std::string& text, size_t at, size_t end) {
    for (CodePoint next{}; at < end && is_white((next = code_point(text, at)).value);) {
        at += next.size;
    }
    return at;
}

// A weight as in ":1.2)", which begins at the colon. `end` is 0 where there is none.
struct Weight {
    size_t end = 0;
    std::string digits;
};

Weight weight_at(const std::string& text, size_t colon) {
    Weight weight;
    size_t at = after_white(text, colon + 1, text.size());
    if (at < text.size() && (text[at] == '+' || text[at] == '-')) {
        weight.digits = text[at++];
    }
    const size_t sign = weight.digits.size();
    while (at < text.size()) {
        const CodePoint next = code_point(text, at);
        const int digit      = digit_value(next.value);
        if (digit < 0 && next.value != '.') {
            break;
        }
        weight.digits += digit < 0 ? '.' : static_cast<char>('0' + digit);
        at += next.size;
    }
    at = after_white(text, at, text.size());
    if (weight.digits.size() > sign && at < text.size() && text[at] == ')') {
        weight.end = at + 1;
    }
    return weight;
}

// Returns the number of a weight; 1 with a note if it is none. std::from_chars of libc++ knows no doubles.
double number(const std::string& digits) {
    std::istringstream stream(digits);
    stream.imbue(std::locale::classic());
    double value = 0;
    if (!(stream >> value) || stream.peek() != std::istringstream::traits_type::eof() || !std::isfinite(static_cast<float>(value))) {
        note("the weight '" + shortened(digits) + "' in the prompt is not a number: taken as 1");
        return 1;
    }
    return value;
}

class Parser {
public:
    explicit Parser(const std::string& text) : text_(text) {}

    std::vector<PromptPart> parts() {
        for (size_t at = 0; at < text_.size();) {
            at = read(at);
        }
        for (size_t depth = 0; depth < round_.size(); depth++) {
            multiply(round_[depth], round_factor, depth);
        }
        for (size_t depth = 0; depth < square_.size(); depth++) {
            multiply(square_[depth], square_factor, depth);
        }
        return merged();
    }

private:
    struct Part {
        std::string text;
        double weight;
    };

    const std::string& text_;
    std::vector<Part> found_;
    std::vector<size_t> round_, square_;  // where the open brackets are

    // Reads what begins at a byte, and returns where it ends.
    size_t read(size_t at) {
        const char c = text_[at];
        if (c == '\\') {
            const bool escapes = at + 1 < text_.size() && std::string("()[]\\").find(text_[at + 1]) != std::string::npos;
            found_.push_back({escapes ? text_.substr(at + 1, 1) : "", 1});
            return at + (escapes ? 2 : 1);
        }
        if (c == '(' || c == '[') {
            (c == '(' ? round_ : square_).push_back(found_.size());
            return at + 1;
        }
        if (c == ':') {
            const Weight weight = weight_at(text_, at);
            if (weight.end != 0 && !round_.empty()) {
                close(round_, number(weight.digits));
            } else {
                add_text(at, weight.end != 0 ? weight.end : at + 1);
            }
            return weight.end != 0 ? weight.end : at + 1;
        }
        if ((c == ')' && !round_.empty()) || (c == ']' && !square_.empty())) {
            close(c == ')' ? round_ : square_, c == ')' ? round_factor : square_factor);
            return at + 1;
        }
        const size_t end = c == ')' || c == ']' ? at + 1 : std::min(text_.find_first_of("\\()[]:", at), text_.size());
        add_text(at, end);
        return end;
    }

    void close(std::vector<size_t>& open, double factor) {
        const size_t from = open.back();
        open.pop_back();
        multiply(from, factor, open.size());
    }

    void multiply(size_t from, double factor, size_t depth) {
        for (size_t i = from; i < found_.size() && depth < most_depth; i++) {
            found_[i].weight *= factor;
        }
    }

    // Adds a text without brackets, split at BREAK with the white space around it.
    void add_text(size_t begin, size_t end) {
        static const std::string word = "BREAK";
        const std::string_view run(text_.data(), end);
        size_t from = begin;
        for (size_t at = begin; (at = run.find(word, at)) != run.npos;) {
            const size_t after = at + word.size();
            if ((at > begin && is_word(code_point_before(text_, at).value)) || (after < end && is_word(code_point(text_, after).value))) {
                at = after;
                continue;
            }
            size_t last = at;
            for (CodePoint before{}; last > from && is_white((before = code_point_before(text_, last)).value);) {
                last -= before.size;
            }
            found_.push_back({text_.substr(from, last - from), 1});
            found_.push_back({word, -1});
            at = from = after_white(text_, after, end);
        }
        found_.push_back({text_.substr(from, end - from), 1});
    }

    // Joins neighbours of the same weight.
    std::vector<PromptPart> merged() {
        std::vector<Part> joined;
        for (Part& part : found_) {
            if (!joined.empty() && joined.back().weight == part.weight) {
                joined.back().text += part.text;
            } else {
                joined.push_back(std::move(part));
            }
        }
        std::vector<PromptPart> parts;
        for (Part& part : joined) {
            float weight = static_cast<float>(part.weight);
            if (!std::isfinite(weight)) {
                note("the weights around '" + shortened(part.text) + "' in the prompt multiply to more than a float holds: taken as 1");
                weight = 1;
            }
            parts.emplace_back(std::move(part.text), weight);
        }
        if (parts.empty()) {
            parts.emplace_back("", 1.f);
        }
        return parts;
    }
};

}  // namespace

std::vector<PromptPart> parse_prompt(const std::string& text) {
    return Parser(text).parts();
}

bool looks_weighted(const std::string& text) {
    int open = 0;
    for (size_t at = 0; at < text.size(); at++) {
        const char c = text[at];
        if (c == '\\') {
            at++;
        } else if (c == '(' || c == '[') {
            open += c == '(' ? 1 : 0;
            if (at + 1 < text.size() && text[at + 1] == c) {
                return true;
            }
        } else if (c == ':' && open > 0 && weight_at(text, at).end != 0) {
            return true;
        } else if (c == ')') {
            open = std::max(0, open - 1);
        }
    }
    const std::vector<PromptPart> words = parse_prompt(text);
    return std::any_of(words.begin(), words.end(), is_break);
}

}  // namespace sdcffi

// Takes the place of upstream's function, which CMake renames in the file that defines it.
std::vector<std::pair<std::string, float>> parse_prompt_attention(const std::string& text) {
    return sdcffi::parse_prompt(text);
}
