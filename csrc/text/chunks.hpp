// Chunks of 75 tokens for CLIP, as AUTOMATIC1111's tokenize_line makes them.
#ifndef SDCFFI_CHUNKS_HPP
#define SDCFFI_CHUNKS_HPP

#include <cstddef>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace sdcffi {

// How many tokens back from a chunk's end a comma is looked for; 0: nowhere. AUTOMATIC1111 calls it
// comma_padding_backtrack. For the calls of this thread.
inline thread_local size_t comma_backtrack = 20;

// Tokens of one weight. Without tokens and with `ends_chunk` it is a BREAK.
struct WeightedIds {
    std::vector<int> ids;
    float weight    = 1;
    bool ends_chunk = false;
};

struct SpecialTokens {
    int start, end, padding, comma;
};

// A chunk with start, end and padding: 77 tokens. The first `used` are not padding.
struct Chunk {
    std::vector<int> ids;
    std::vector<float> weights;
    size_t used;
};

// The words that stand for vectors (textual inversion), by the tokens of their names.
class Words {
public:
    // Returns the tokens of a word's vectors; none where they cannot be read.
    using Vectors = std::function<std::vector<int>(const std::string& name)>;

    explicit Words(Vectors vectors) : vectors_(std::move(vectors)) {}

    void add(const std::string& name, const std::vector<int>& ids);

    // Returns the longest word that stands at a position, and how many tokens its name has there. No name: none.
    std::pair<std::string, size_t> at(const std::vector<int>& ids, size_t position) const;

    std::vector<int> vectors(const std::string& name) const { return vectors_(name); }

private:
    std::map<int, std::vector<std::pair<std::vector<int>, std::string>>> by_first_;  // the longest first
    Vectors vectors_;
};

// Returns the chunks of a text, at least one.
std::vector<Chunk> make_chunks(const std::vector<WeightedIds>& parts, const Words& words, const SpecialTokens& special,
                               size_t backtrack);

// Returns the same tokens in one sequence without padding, however many: PhotoMaker makes its chunks later.
Chunk make_sequence(const std::vector<WeightedIds>& parts, const Words& words, const SpecialTokens& special);

}  // namespace sdcffi

#endif
