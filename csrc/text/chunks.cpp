#include "chunks.hpp"

#include <algorithm>

#include "notes.hpp"

namespace sdcffi {

namespace {

constexpr size_t chunk_length = 75;

class Chunker {
public:
    Chunker(const SpecialTokens& special, size_t backtrack) : special_(special), backtrack_(backtrack) {}

    void add(int id, float weight) {
        begin(id);
        make_room(1);
        ids_.push_back(id);
        weights_.push_back(weight);
    }

    // Adds a word's vectors, which stay together. `first` is the first token of its name.
    void add_word(int first, const std::vector<int>& vectors, float weight) {
        begin(first);
        make_room(vectors.size());
        ids_.insert(ids_.end(), vectors.begin(), vectors.end());
        weights_.insert(weights_.end(), vectors.size(), weight);
    }

    void end_chunk() {
        Chunk chunk{{special_.start}, {1}, ids_.size() + 2};
        chunk.ids.insert(chunk.ids.end(), ids_.begin(), ids_.end());
        chunk.weights.insert(chunk.weights.end(), weights_.begin(), weights_.end());
        chunk.ids.push_back(special_.end);
        chunk.ids.resize(chunk_length + 2, special_.padding);
        chunk.weights.resize(chunk_length + 2, 1.f);
        chunks_.push_back(std::move(chunk));
        ids_.clear();
        weights_.clear();
        has_comma_ = false;
    }

    std::vector<Chunk> chunks() {
        if (!ids_.empty() || chunks_.empty()) {
            end_chunk();
        }
        return std::move(chunks_);
    }

private:
    const SpecialTokens special_;
    const size_t backtrack_;
    std::vector<Chunk> chunks_;
    std::vector<int> ids_;
    std::vector<float> weights_;
    size_t comma_   = 0;
    bool has_comma_ = false;

    // Notes a comma; at a chunk's end anything else moves what follows the last comma to the next chunk.
    void begin(int id) {
        if (id == special_.comma) {
            comma_     = ids_.size();
            has_comma_ = true;
        } else if (ids_.size() == chunk_length && has_comma_ && ids_.size() - comma_ <= backtrack_) {
            move_from(comma_ + 1);
        }
    }

    void make_room(size_t count) {
        if (ids_.size() + count > chunk_length) {
            end_chunk();
        }
    }

    // Ends the chunk before a position, and begins the next one with what follows there.
    void move_from(size_t position) {
        const std::vector<int> ids(ids_.begin() + position, ids_.end());
        const std::vector<float> weights(weights_.begin() + position, weights_.end());
        ids_.resize(position);
        weights_.resize(position);
        end_chunk();
        ids_     = ids;
        weights_ = weights;
    }
};

// Calls `token(id, weight)`, `word(first, vectors, weight)` and `brk()` for what stands in a text, in order.
template <typename Token, typename Word, typename Break>
void for_each_piece(const std::vector<WeightedIds>& parts, const Words& words, Token token, Word word, Break brk) {
    for (const WeightedIds& part : parts) {
        if (part.ends_chunk) {
            brk();
            continue;
        }
        for (size_t position = 0; position < part.ids.size();) {
            const auto [name, length] = words.at(part.ids, position);
            std::vector<int> vectors  = length > 0 ? words.vectors(name) : std::vector<int>();
            if (vectors.empty()) {
                token(part.ids[position++], part.weight);
                continue;
            }
            if (vectors.size() > chunk_length) {
                note("the embedding '" + name + "' has " + std::to_string(vectors.size()) + " vectors, and " +
                     std::to_string(chunk_length) + " fit into a chunk: the others are left out");
                vectors.resize(chunk_length);
            }
            word(part.ids[position], vectors, part.weight);
            position += length;
        }
    }
}

}  // namespace

void Words::add(const std::string& name, const std::vector<int>& ids) {
    if (ids.empty()) {
        return;
    }
    auto& others = by_first_[ids.front()];
    others.emplace_back(ids, name);
    std::stable_sort(others.begin(), others.end(), [](const auto& a, const auto& b) { return a.first.size() > b.first.size(); });
}

std::pair<std::string, size_t> Words::at(const std::vector<int>& ids, size_t position) const {
    const auto found = by_first_.find(ids[position]);
    if (found != by_first_.end()) {
        for (const auto& [name_ids, name] : found->second) {
            if (position + name_ids.size() <= ids.size() && std::equal(name_ids.begin(), name_ids.end(), ids.begin() + position)) {
                return {name, name_ids.size()};
            }
        }
    }
    return {"", 0};
}

std::vector<Chunk> make_chunks(const std::vector<WeightedIds>& parts, const Words& words, const SpecialTokens& special,
                               size_t backtrack) {
    Chunker chunker(special, backtrack);
    for_each_piece(
        parts, words, [&](int id, float weight) { chunker.add(id, weight); },
        [&](int first, const std::vector<int>& vectors, float weight) { chunker.add_word(first, vectors, weight); },
        [&] { chunker.end_chunk(); });
    return chunker.chunks();
}

Chunk make_sequence(const std::vector<WeightedIds>& parts, const Words& words, const SpecialTokens& special) {
    Chunk all{{special.start}, {1}, 0};
    for_each_piece(
        parts, words,
        [&](int id, float weight) {
            all.ids.push_back(id);
            all.weights.push_back(weight);
        },
        [&](int, const std::vector<int>& vectors, float weight) {
            all.ids.insert(all.ids.end(), vectors.begin(), vectors.end());
            all.weights.insert(all.weights.end(), vectors.size(), weight);
        },
        [] {});
    all.ids.push_back(special.end);
    all.weights.push_back(1);
    all.used = all.ids.size();
    return all;
}

}  // namespace sdcffi
