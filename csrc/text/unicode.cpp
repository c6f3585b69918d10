#include "unicode.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

namespace sdcffi::text {

namespace {

struct Lower {
    char32_t point, first, second;  // second: 0, but for one character
};
struct Decomposition {
    char32_t point;
    std::uint16_t start, length;  // within `decomposed`
};
struct Composition {
    char32_t first, second, point;
};
struct Rank {
    char32_t point;
    std::uint8_t rank;  // the canonical combining class, where it is not 0
};

#include "unicode_table.inc"

// Hangul syllables are composed by arithmetic: The Unicode Standard, 3.12.
constexpr char32_t hangul = 0xAC00, leads = 0x1100, vowels = 0x1161, tails = 0x11A7;
constexpr char32_t lead_count = 19, vowel_count = 21, tail_count = 28, syllables = lead_count * vowel_count * tail_count;

template <typename Row, size_t count>
const Row* find(const Row (&rows)[count], char32_t point) {
    const Row* row = std::lower_bound(std::begin(rows), std::end(rows), point, [](const Row& a, char32_t b) { return a.point < b; });
    return row != std::end(rows) && row->point == point ? row : nullptr;
}

std::uint8_t rank_of(char32_t point) {
    const Rank* row = point < 0x300 ? nullptr : find(ranks, point);
    return row == nullptr ? 0 : row->rank;
}

void append_decomposed(std::u32string& target, char32_t point) {
    if (point >= hangul && point < hangul + syllables) {
        const char32_t index = point - hangul;
        target += leads + index / (vowel_count * tail_count);
        target += vowels + index / tail_count % vowel_count;
        if (index % tail_count != 0) {
            target += tails + index % tail_count;
        }
    } else if (const Decomposition* row = point < 0xC0 ? nullptr : find(decompositions, point)) {
        target.append(decomposed + row->start, row->length);
    } else {
        target += point;
    }
}

// Returns the character that two make together, or 0.
char32_t composed(char32_t first, char32_t second) {
    if (first >= leads && first < leads + lead_count && second >= vowels && second < vowels + vowel_count) {
        return hangul + ((first - leads) * vowel_count + second - vowels) * tail_count;
    }
    if (first >= hangul && first < hangul + syllables && (first - hangul) % tail_count == 0 && second > tails && second < tails + tail_count) {
        return first + (second - tails);
    }
    const auto less = [](const Composition& row, std::pair<char32_t, char32_t> pair) { return std::make_pair(row.first, row.second) < pair; };
    const Composition* row = std::lower_bound(std::begin(compositions), std::end(compositions), std::make_pair(first, second), less);
    return row != std::end(compositions) && row->first == first && row->second == second ? row->point : 0;
}

// Sorts marks between two characters of rank 0 by their ranks.
void sort_marks(std::u32string& text) {
    for (size_t at = 0; at < text.size(); at++) {
        size_t end = at;
        while (end < text.size() && rank_of(text[end]) != 0) {
            end++;
        }
        if (end - at > 1) {
            std::stable_sort(text.begin() + at, text.begin() + end, [](char32_t a, char32_t b) { return rank_of(a) < rank_of(b); });
        }
        at = std::max(at, end);
    }
}

}  // namespace

std::uint8_t class_of(char32_t point) {
    return point < 0x110000 ? classes[block_of[point >> 8] * 256 + (point & 0xFF)] : 0;
}

std::u32string lower(std::u32string_view text) {
    std::u32string result;
    result.reserve(text.size());
    for (char32_t point : text) {
        if (point < 0x80) {
            result += point >= U'A' && point <= U'Z' ? point + 32 : point;
        } else if (const Lower* row = find(lower_case, point)) {
            result += row->first;
            if (row->second != 0) {
                result += row->second;
            }
        } else {
            result += point;
        }
    }
    return result;
}

std::u32string nfc(std::u32string text) {
    if (std::all_of(text.begin(), text.end(), [](char32_t point) { return point < 0x300; })) {
        return text;
    }
    std::u32string parts;
    parts.reserve(text.size());
    for (char32_t point : text) {
        append_decomposed(parts, point);
    }
    sort_marks(parts);
    std::u32string result;
    result.reserve(parts.size());
    size_t starter = std::u32string::npos;  // of the character that what follows may be composed with
    int last_rank  = 0;                     // of what follows it in the result; -1: nothing follows
    for (char32_t point : parts) {
        const int rank = rank_of(point);
        if (starter != std::u32string::npos && last_rank < rank) {
            if (const char32_t whole = composed(result[starter], point)) {
                result[starter] = whole;
                continue;
            }
        }
        if (rank == 0) {
            starter   = result.size();
            last_rank = -1;
        } else {
            last_rank = rank;
        }
        result += point;
    }
    return result;
}

}  // namespace sdcffi::text
