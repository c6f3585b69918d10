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

namespace {

// Returns the hash of the line.
std::uint64_t hash_of_merge(std::string_view first, std::string_view second) {
    return hash_of(second, hash_of(" ", hash_of(first)));
}

bool is_merge(std::string_view line, std::string_view first, std::string_view second) {
    return line.find(' ') == first.size() && line.substr(0, first.size()) == first && line.substr(first.size() + 1) == second;
}

std::string_view line_at(std::string_view text, std::uint32_t start) {
    return text.substr(start, std::min(text.find('\n', start), text.size()) - start);
}

}  // namespace

Bpe::Merges::Merges(std::string all) : text(std::move(all)) {
    lines.reserve(std::count(text.begin(), text.end(), '\n') + 1);
    each_merge(text, [&](size_t at, std::string_view, std::string_view) { lines.push_back(static_cast<std::uint32_t>(at)); });
    numbers = HashTable(
        static_cast<int>(lines.size()), [&](int number) { return hash_of(line_at(text, lines[number])); },
        [&](int number, int other) { return line_at(text, lines[number]) == line_at(text, lines[other]); });
}

Bpe::Bpe(Strings tokens, Merges merges, Letters letters, const std::string& end_of_word, int unknown)
    : tokens_(std::move(tokens)), merges_(std::move(merges)), letters_(letters), unknown_(unknown), end_of_word_(end_of_word) {
    tokens_.index();
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

Bpe::Merged Bpe::merged(std::string_view first, std::string_view second) const {
    const int id = tokens_.find(first, second);
    if (id < 0) {
        return {-1, -1};
    }
    if (merges_.splits.empty()) {
        return {merges_.numbers.find(hash_of_merge(first, second),
                                     [&](int number) { return is_merge(line_at(merges_.text, merges_.lines[number]), first, second); }),
                id};
    }
    const int number = id - merges_.first_token;
    const bool is_it = number >= 0 && static_cast<size_t>(number) < merges_.splits.size() && merges_.splits[number] == first.size();
    return {is_it ? number : -1, id};
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
            const Merged whole = merged(tokens_[first], tokens_[second]);
            if (whole.rank >= 0) {
                queue.push({whole.rank, position, first, second, whole.id});
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
