#include "bpe.hpp"

#include <algorithm>
#include <cstdio>
#include <queue>

#include "utf8.hpp"

namespace sdcffi::text {

std::vector<std::pair<int, std::string>> byte_letters() {
    std::vector<std::pair<int, std::string>> letters, others;
    for (int byte = 0; byte < 256; byte++) {
        const bool visible = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
        const char32_t point = visible ? byte : 256 + others.size();
        auto& target         = visible ? letters : others;
        target.emplace_back(byte, to_utf8({&point, 1}));
    }
    letters.insert(letters.end(), others.begin(), others.end());
    return letters;
}

std::vector<Bpe::Merge> read_merges(std::string_view text) {
    std::vector<Bpe::Merge> merges;
    if (text.substr(0, 9) == "#version:") {
        text.remove_prefix(std::min(text.find('\n'), text.size()));
    }
    while (!text.empty()) {
        const std::string_view line = text.substr(0, text.find('\n'));
        const size_t blank          = line.find(' ');
        if (blank != std::string_view::npos) {
            merges.emplace_back(line.substr(0, blank), line.substr(blank + 1));
        }
        text.remove_prefix(std::min(line.size() + 1, text.size()));
    }
    return merges;
}

Bpe::Bpe(std::vector<std::pair<std::string, int>> tokens, const std::vector<Merge>& merges, Letters letters,
         const std::string& end_of_word, int unknown)
    : tokens_(std::move(tokens)), letters_(letters), unknown_(unknown), end_of_word_(end_of_word) {
    std::stable_sort(tokens_.begin(), tokens_.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    ids_.reserve(tokens_.size());
    for (const auto& [token, id] : tokens_) {
        ids_[token] = id;
    }
    merges_.reserve(merges.size());
    std::string whole;
    int rank = 0;
    for (const auto& [first, second] : merges) {
        whole.assign(first).append(second);
        const int first_id = id_of(first), second_id = id_of(second), id = id_of(whole);
        if (first_id >= 0 && second_id >= 0 && id >= 0) {
            merges_[pair_of(first_id, second_id)] = {rank, id};
        }
        rank++;
    }
    if (letters_ == Letters::bytes) {
        for (const auto& [byte, spelt] : byte_letters()) {
            const int id = id_of(spelt), last = id_of(spelt + end_of_word_);
            byte_ids_[byte]      = id < 0 ? unknown_ : id;
            last_byte_ids_[byte] = last < 0 ? unknown_ : last;
        }
    } else {
        for (int byte = 0; byte < 256; byte++) {
            char name[8];
            std::snprintf(name, sizeof name, "<0x%02X>", byte);
            const int id    = id_of(name);
            byte_ids_[byte] = last_byte_ids_[byte] = id < 0 ? unknown_ : id;
        }
    }
}

int Bpe::id_of(std::string_view token) const {
    const auto found = ids_.find(token);
    return found == ids_.end() ? -1 : found->second;
}

const std::string& Bpe::token_of(int id) const {
    static const std::string none;
    const auto found = std::lower_bound(tokens_.begin(), tokens_.end(), id, [](const auto& row, int wanted) { return row.second < wanted; });
    return found != tokens_.end() && found->second == id ? found->first : none;
}

void Bpe::append_letters(std::string_view word, std::vector<int>& ids) const {
    if (letters_ == Letters::bytes) {
        for (size_t i = 0; i < word.size(); i++) {
            const unsigned char byte = word[i];
            ids.push_back(i + 1 < word.size() ? byte_ids_[byte] : last_byte_ids_[byte]);
        }
        return;
    }
    for (size_t at = 0; at < word.size();) {
        size_t end = at + 1;
        while (end < word.size() && (word[end] & 0xC0) == 0x80) {
            end++;
        }
        const std::string_view character = word.substr(at, end - at);
        const int id                     = end < word.size() || end_of_word_.empty() ? id_of(character) : id_of(std::string(character) + end_of_word_);
        if (id >= 0) {
            ids.push_back(id);
        } else {
            for (unsigned char byte : character) {
                ids.push_back(byte_ids_[byte]);
            }
        }
        at = end;
    }
}

void Bpe::encode(std::string_view word, std::vector<int>& ids) const {
    struct Letter {
        int id, before, after;  // after: -1 at the end; id: -1 if it was merged into the one before
    };
    struct Candidate {
        int rank, position, first, second, merged;
        bool operator<(const Candidate& other) const {  // the top of the queue is the greatest
            return rank != other.rank ? rank > other.rank : position > other.position;
        }
    };
    std::vector<int> start;
    append_letters(word, start);
    const int count = static_cast<int>(start.size());
    std::vector<Letter> letters;
    letters.reserve(start.size());
    for (int i = 0; i < count; i++) {
        letters.push_back({start[i], i - 1, i + 1 < count ? i + 1 : -1});
    }
    std::vector<Candidate> storage;
    storage.reserve(start.size());
    std::priority_queue<Candidate> queue(std::less<Candidate>(), std::move(storage));
    const auto consider = [&](int position) {
        const int after = position < 0 ? -1 : letters[position].after;
        if (after >= 0) {
            const int first = letters[position].id, second = letters[after].id;
            const auto found = merges_.find(pair_of(first, second));
            if (found != merges_.end()) {
                queue.push({found->second.rank, position, first, second, found->second.id});
            }
        }
    };
    for (int i = 0; i < count; i++) {
        consider(i);
    }
    while (!queue.empty()) {
        const Candidate best = queue.top();
        queue.pop();
        Letter& first   = letters[best.position];
        const int after = first.after;
        if (first.id != best.first || after < 0 || letters[after].id != best.second) {
            continue;  // one of the two was merged since
        }
        first.id    = best.merged;
        first.after = letters[after].after;
        letters[after].id = -1;
        if (first.after >= 0) {
            letters[first.after].before = best.position;
        }
        consider(first.before);
        consider(best.position);
    }
    for (int i = 0; i >= 0 && i < count; i = letters[i].after) {
        ids.push_back(letters[i].id);
    }
}

}  // namespace sdcffi::text
