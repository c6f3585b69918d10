// A set of strings with a number each, and which of them a text begins with.
#ifndef SDCFFI_TEXT_PREFIXES_HPP
#define SDCFFI_TEXT_PREFIXES_HPP

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string_view>
#include <utility>
#include <vector>

namespace sdcffi::text {

// A tree whose edges are bytes. The edges from a node lie beside each other, in order.
class Prefixes {
public:
    using Row = std::pair<std::string_view, int>;

    Prefixes() : Prefixes(std::vector<Row>()) {}

    // Of equal strings the last counts; an empty one counts for nothing.
    explicit Prefixes(std::vector<Row> rows) {
        std::stable_sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.first < b.first; });
        std::vector<Range> ranges{{0, rows.size(), 0}};
        nodes_.push_back({});
        for (size_t at = 0; at < nodes_.size(); at++) {
            auto [low, high, depth] = ranges[at];
            for (; low < high && rows[low].first.size() == depth; low++) {
                nodes_[at].value = rows[low].second;
            }
            nodes_[at].edges = static_cast<std::uint32_t>(nodes_.size());
            while (low < high) {
                const std::uint8_t byte = rows[low].first[depth];
                const size_t start      = low;
                while (low < high && static_cast<std::uint8_t>(rows[low].first[depth]) == byte) {
                    low++;
                }
                nodes_.push_back({0, none, 0, byte});
                ranges.push_back({start, low, depth + 1});
            }
            nodes_[at].count = static_cast<std::uint16_t>(nodes_.size() - nodes_[at].edges);
        }
        nodes_[0].value = none;
        nodes_.shrink_to_fit();
    }

    // Calls `found` with the length and the number of each string that the text begins with, the shortest first.
    template <typename Found>
    void each(std::string_view text, Found&& found) const {
        const Node* node = nodes_.data();
        for (size_t length = 0; length < text.size();) {
            const std::uint8_t byte = text[length++];
            const Node* first       = nodes_.data() + node->edges;
            const Node* end         = first + node->count;
            node = std::lower_bound(first, end, byte, [](const Node& a, std::uint8_t b) { return a.byte < b; });
            if (node == end || node->byte != byte) {
                return;
            }
            if (node->value != none) {
                found(length, node->value);
            }
        }
    }

    // Returns the longest string that the text begins with, as length and number; {0, none} if there is none.
    std::pair<size_t, int> longest(std::string_view text) const {
        std::pair<size_t, int> best{0, none};
        each(text, [&](size_t length, int value) { best = {length, value}; });
        return best;
    }

    static constexpr int none = std::numeric_limits<int>::min();

private:
    struct Range {  // of the rows that a node stands for, which have `depth` bytes in common
        size_t low, high, depth;
    };
    struct Node {
        std::uint32_t edges = 0;
        int value           = none;
        std::uint16_t count = 0;
        std::uint8_t byte   = 0;  // of the edge that leads here
    };

    std::vector<Node> nodes_;
};

// Splits a text at special tokens: the leftmost first, of those the longest. Calls `plain` with the text between them,
// unless it is empty, and `special` with the number of each.
template <typename Plain, typename Special>
void split_at(const Prefixes& tokens, std::string_view text, Plain&& plain, Special&& special) {
    size_t start = 0;
    for (size_t at = 0; at < text.size();) {
        const auto [length, value] = tokens.longest(text.substr(at));
        if (length == 0) {
            at++;
            continue;
        }
        if (at > start) {
            plain(text.substr(start, at - start));
        }
        special(value);
        start = at += length;
    }
    if (start < text.size()) {
        plain(text.substr(start));
    }
}

}  // namespace sdcffi::text

#endif
