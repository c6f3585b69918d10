#include "unigram.hpp"

#include <algorithm>

#include "utf8.hpp"

namespace sdcffi::text {

namespace {

constexpr std::string_view blank = "\xE2\x96\x81";  // U+2581 stands for a space

}  // namespace

Unigram::Unigram(Settings settings)
    : settings_(std::move(settings)),
      added_({settings_.added_tokens.begin(), settings_.added_tokens.end()}),
      unknown_score_(*std::min_element(settings_.scores.begin(), settings_.scores.end()) - 10.0) {
    settings_.pieces.index();
}

int Unigram::id_of(std::string_view added_token) const {
    for (const auto& [token, id] : settings_.added_tokens) {
        if (token == added_token) {
            return id;
        }
    }
    return -1;
}

void Unigram::encode(std::string_view text, std::vector<int>& ids) const {
    const std::string valid = valid_utf8(text);
    split_at(
        added_, valid, [&](std::string_view plain) { encode_plain(plain, ids); }, [&](int id) { ids.push_back(id); });
}

std::string Unigram::normalized(std::string_view text) const {
    const std::string mapped = settings_.charsmap.normalized(text);
    std::string result;
    result.reserve(mapped.size() + blank.size());
    bool after_space = true;
    for (char c : mapped) {
        if (c == ' ') {
            after_space = true;
            continue;
        }
        if (after_space) {
            result += blank;
            after_space = false;
        }
        result += c;
    }
    if (!settings_.trims && after_space && !mapped.empty()) {
        result += blank;
    }
    // A text that begins with U+2581 needs no other one.
    return result.compare(0, 2 * blank.size(), std::string(blank) + std::string(blank)) == 0 && mapped.compare(0, blank.size(), blank) == 0
               ? result.substr(blank.size())
               : result;
}

void Unigram::encode_plain(std::string_view text, std::vector<int>& ids) const {
    const std::string whole = normalized(text);
    for (size_t start = 0; start < whole.size();) {
        const size_t end = std::min(whole.find(blank, start + 1), whole.size());
        encode_word(std::string_view(whole).substr(start, end - start), ids);
        start = end;
    }
}

void Unigram::encode_word(std::string_view word, std::vector<int>& ids) const {
    struct Best {
        double score = 0;
        size_t start = std::string_view::npos;  // of the piece that ends here
        int id       = 0;
    };
    std::vector<Best> best(word.size() + 1);
    for (size_t start = 0; start < word.size();) {
        const double score_here = best[start].score;
        const auto offer        = [&](size_t length, int id, double score) {
            Best& end = best[start + length];
            if (end.start == std::string_view::npos || score_here + score > end.score) {
                end = {score_here + score, start, id};
            }
        };
        size_t character = 1;
        while (start + character < word.size() && (word[start + character] & 0xC0) == 0x80) {
            character++;
        }
        bool known = false;
        settings_.pieces.each_prefix(word.substr(start), [&](size_t length, int id) {
            offer(length, id, settings_.scores[id]);
            known = known || length == character;
        });
        if (!known) {
            offer(character, settings_.unknown, unknown_score_);
        }
        start += character;
    }
    std::vector<int> backwards;
    for (size_t end = word.size(); end > 0; end = best[end].start) {
        const int id = best[end].id;
        if (id != settings_.unknown || backwards.empty() || backwards.back() != id) {
            backwards.push_back(id);  // neighbours that are unknown count as one
        }
    }
    ids.insert(ids.end(), backwards.rbegin(), backwards.rend());
}

}  // namespace sdcffi::text
