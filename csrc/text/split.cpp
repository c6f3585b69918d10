#include "split.hpp"

#include <algorithm>

#include "unicode.hpp"

namespace sdcffi::text {

namespace {

constexpr int upper_or_other = upper_case | other_letter | mark;
constexpr int small_or_other = small_case | other_letter | mark;
constexpr size_t none        = 0;  // no match; a match ends behind its start

bool is_line_end(char32_t point) {
    return point == U'\r' || point == U'\n';
}

// Takes words off a text from the left.
class Scanner {
public:
    explicit Scanner(std::u32string_view text) : text_(text) {}

    bool done() const { return at_ == text_.size(); }
    char32_t next() const { return text_[at_]; }
    size_t position() const { return at_; }

    void skip() { at_++; }

    // Takes what ends at `end`, unless it is `none`.
    bool take(size_t end) {
        if (end == none) {
            return false;
        }
        words_.push_back(text_.substr(at_, end - at_));
        at_ = end;
        return true;
    }

    bool has(size_t at, int classes) const { return at < text_.size() && is(text_[at], classes); }

    // The end of the characters of these classes, of `most` at most.
    size_t run(size_t at, int classes, size_t most = std::u32string_view::npos) const {
        for (; most > 0 && has(at, classes); most--) {
            at++;
        }
        return at;
    }

    // The end of the characters of none of these classes.
    size_t run_without(size_t at, int classes) const {
        while (at < text_.size() && !is(text_[at], classes)) {
            at++;
        }
        return at;
    }

    // 's|'t|'re|'ve|'m|'ll|'d   Without regard to case U+017F is an s.
    size_t contraction(size_t at, bool any_case) const {
        const auto letter_at = [&](size_t index) -> char32_t {
            if (index >= text_.size()) {
                return 0;
            }
            const char32_t point = text_[index];
            if (!any_case) {
                return point;
            }
            return point >= U'A' && point <= U'Z' ? point + 32 : point == 0x17F ? U's' : point;
        };
        if (letter_at(at) != U'\'') {
            return none;
        }
        const char32_t first = letter_at(at + 1), second = letter_at(at + 2);
        switch (first) {
            case U's':
            case U't':
            case U'm':
            case U'd':
                return at + 2;
            case U'r':
            case U'v':
                return second == U'e' ? at + 3 : none;
            case U'l':
                return second == U'l' ? at + 3 : none;
            default:
                return none;
        }
    }

    // [^\r\n\p{L}\p{N}]   The start of what may follow it.
    size_t behind_prefix() const {
        return is_line_end(next()) || is(next(), letter | number) ? at_ : at_ + 1;
    }

    // [^\r\n\p{L}\p{N}]?\p{L}+
    size_t letters() const {
        const size_t start = behind_prefix();
        const size_t end   = run(start, letter);
        return end > start ? end : none;
    }

    // [U]*[W]+   Where no character of W alone ends the U, the last that is in both ends them.
    size_t small_end(size_t start) const {
        size_t end = run(start, upper_or_other);
        if (has(end, small_or_other)) {
            return run(end, small_or_other);
        }
        while (end > start && !is(text_[end - 1], small_or_other)) {
            end--;
        }
        return end > start ? end : none;
    }

    // [^\r\n\p{L}\p{N}]?[U]*[W]+|[^\r\n\p{L}\p{N}]?[U]+[W]*
    size_t cased_letters() const {
        const size_t start = behind_prefix();
        for (size_t from : {start, at_}) {
            if (const size_t end = small_end(from)) {
                return end;
            }
        }
        for (size_t from : {start, at_}) {
            const size_t end = run(from, upper_or_other);
            if (end > from) {
                return end;
            }
        }
        return none;
    }

    //  ?[^\s\p{L}\p{N}]+[\r\n]*   and with slashes [\r\n/]*
    size_t symbols(bool slashes) const {
        const size_t start = next() == U' ' ? at_ + 1 : at_;
        size_t end         = run_without(start, white_space | letter | number);
        if (end == start) {
            return none;
        }
        while (end < text_.size() && (is_line_end(text_[end]) || (slashes && text_[end] == U'/'))) {
            end++;
        }
        return end;
    }

    // \s*[\r\n]+|\s+(?!\S)|\s+
    size_t blanks() const {
        const size_t end = run(at_, white_space);
        for (size_t last = end; last > at_; last--) {
            if (is_line_end(text_[last - 1])) {
                return last;
            }
        }
        return end == text_.size() || end - at_ < 2 ? end : end - 1;
    }

    Words words() && { return std::move(words_); }

private:
    const std::u32string_view text_;
    size_t at_ = 0;
    Words words_;
};

Words split_cased(std::u32string_view text, bool contractions, size_t digits) {
    Scanner scanner(text);
    while (!scanner.done()) {
        size_t end = scanner.cased_letters();
        if (end != none && contractions) {
            end = std::max(end, scanner.contraction(end, true));
        }
        if (scanner.take(end)) {
            continue;
        }
        if (is(scanner.next(), number)) {
            scanner.take(scanner.run(scanner.position(), number, digits));
        } else if (!scanner.take(scanner.symbols(true))) {
            scanner.take(scanner.blanks());
        }
    }
    return std::move(scanner).words();
}

}  // namespace

Words split_clip(std::u32string_view text) {
    Scanner scanner(text);
    while (!scanner.done()) {
        if (is(scanner.next(), white_space)) {
            scanner.skip();
        } else if (is(scanner.next(), letter)) {
            scanner.take(scanner.run(scanner.position(), letter));
        } else if (is(scanner.next(), number)) {
            scanner.take(scanner.position() + 1);
        } else if (!scanner.take(scanner.contraction(scanner.position(), false))) {
            scanner.take(scanner.run_without(scanner.position(), white_space | letter | number));
        }
    }
    return std::move(scanner).words();
}

Words split_qwen2(std::u32string_view text) {
    Scanner scanner(text);
    while (!scanner.done()) {
        if (scanner.take(scanner.contraction(scanner.position(), true)) || scanner.take(scanner.letters())) {
            continue;
        }
        if (is(scanner.next(), number)) {
            scanner.take(scanner.position() + 1);
        } else if (!scanner.take(scanner.symbols(false))) {
            scanner.take(scanner.blanks());
        }
    }
    return std::move(scanner).words();
}

Words split_tekken(std::u32string_view text) {
    return split_cased(text, false, 1);
}

Words split_o200k(std::u32string_view text) {
    return split_cased(text, true, 3);
}

}  // namespace sdcffi::text
