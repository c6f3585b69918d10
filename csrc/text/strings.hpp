// The strings of a vocabulary, in one text, and the number of each by a flat hash table. A vocabulary is read anew in each
// process: what counts is how few pages and cache lines that touches.
#ifndef SDCFFI_TEXT_STRINGS_HPP
#define SDCFFI_TEXT_STRINGS_HPP

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace sdcffi::text {

constexpr std::uint64_t hash_of_nothing = 0xCBF29CE484222325;

// FNV-1a, which goes on where it ended: the hash of "ab" is that of "b" after that of "a".
inline std::uint64_t hash_of(std::string_view text, std::uint64_t before = hash_of_nothing) {
    for (unsigned char byte : text) {
        before = (before ^ byte) * 0x100000001B3;
    }
    return before;
}

// Numbers by the hash of what they stand for. Two things may have one hash: `is_same` has to tell them apart.
class HashTable {
public:
    HashTable() = default;

    // Of the numbers below `count`: `hash_at(number)`, `is_same(number, other)`. Of the same things the last counts.
    template <typename HashAt, typename IsSame>
    HashTable(int count, HashAt&& hash_at, IsSame&& is_same) {
        while (number_mask_ <= static_cast<std::uint32_t>(count)) {
            number_mask_ = number_mask_ * 2 + 1;
        }
        const size_t size = number_mask_ + size_t{1};
        slots_.resize(static_cast<size_t>(count) > size / 3 * 2 ? size * 2 : size);
        constexpr int ahead = 16;  // slots are fetched into the cache while others are filled
        std::uint64_t hashes[ahead];
        for (int number = 0; number < count + ahead; number++) {
            std::uint64_t& hash = hashes[number % ahead];
            if (number >= ahead) {
                const int ready    = number - ahead;
                const size_t place = place_of(hash, [&](int other) { return is_same(ready, other); });
                slots_[place]      = tag_of(hash) | static_cast<std::uint32_t>(ready + 1);
            }
            if (number < count) {
                hash = hash_at(number);
                fetch(&slots_[first_place(hash)]);
            }
        }
    }

    // Returns -1 if there is none.
    template <typename IsSame>
    int find(std::uint64_t hash, IsSame&& is_same) const {
        return static_cast<int>(slots_[place_of(hash, is_same)] & number_mask_) - 1;
    }

private:
    static void fetch(const void* address) {
#if defined(__GNUC__) || defined(__clang__)
        __builtin_prefetch(address);
#else
        (void)address;
#endif
    }

    size_t first_place(std::uint64_t hash) const { return static_cast<size_t>(hash ^ hash >> 29) & (slots_.size() - 1); }

    std::uint32_t tag_of(std::uint64_t hash) const { return static_cast<std::uint32_t>(hash >> 32) & ~number_mask_; }

    template <typename IsSame>
    size_t place_of(std::uint64_t hash, IsSame&& is_same) const {
        size_t place = first_place(hash);
        for (; slots_[place] != 0; place = (place + 1) & (slots_.size() - 1)) {
            if ((slots_[place] & ~number_mask_) == tag_of(hash) && is_same(static_cast<int>(slots_[place] & number_mask_) - 1)) {
                break;
            }
        }
        return place;
    }

    std::uint32_t number_mask_ = 1;        // a slot's lower bits are a number plus one, the others bits of its hash
    std::vector<std::uint32_t> slots_{0};  // a power of two of them; 0 is a free one
};

class Strings {
public:
    // Adds `first` and `second` as one string.
    void add(int number, std::string_view first, std::string_view second = {}) {
        if (static_cast<size_t>(number) >= places_.size()) {
            places_.resize(number + 1);
        }
        places_[number] = {static_cast<std::uint32_t>(text_.size()), static_cast<std::uint32_t>(first.size() + second.size())};
        longest_        = std::max(longest_, first.size() + second.size());
        text_.append(first).append(second);
    }

    // Room for so many strings and bytes.
    void reserve(size_t count, size_t bytes) {
        places_.reserve(count);
        text_.reserve(bytes);
    }

    // What was added is found from now on. Of equal strings the greatest number counts.
    void index() {
        numbers_ = HashTable(
            static_cast<int>(places_.size()), [&](int number) { return hash_of((*this)[number]); },
            [&](int number, int other) { return (*this)[number] == (*this)[other]; });
    }

    // Returns how many numbers there may be, from 0.
    size_t size() const { return places_.size(); }

    // Returns the string of a number, empty if there is none.
    std::string_view operator[](int number) const {
        if (number < 0 || static_cast<size_t>(number) >= places_.size()) {
            return {};
        }
        return std::string_view(text_.data() + places_[number].start, places_[number].length);
    }

    // Returns the number of `first` and `second` as one string, -1 if there is none or it is empty.
    int find(std::string_view first, std::string_view second = {}) const {
        if (first.empty() && second.empty()) {
            return -1;
        }
        return numbers_.find(hash_of(second, hash_of(first)), [&](int number) { return is(number, first, second); });
    }

    // Calls `found` with the length and the number of each string that a text begins with, the shortest first.
    template <typename Found>
    void each_prefix(std::string_view text, Found&& found) const {
        std::uint64_t hash = hash_of_nothing;
        for (size_t length = 1; length <= std::min(text.size(), longest_); length++) {
            hash             = hash_of(text.substr(length - 1, 1), hash);
            const int number = numbers_.find(hash, [&](int other) { return is(other, text.substr(0, length), {}); });
            if (number >= 0) {
                found(length, number);
            }
        }
    }

private:
    struct Place {
        std::uint32_t start = 0, length = 0;
    };

    bool is(int number, std::string_view first, std::string_view second) const {
        const std::string_view text = (*this)[number];
        return text.size() == first.size() + second.size() && text.substr(0, first.size()) == first && text.substr(first.size()) == second;
    }

    std::string text_;
    std::vector<Place> places_;  // by number
    HashTable numbers_;
    size_t longest_ = 0;
};

}  // namespace sdcffi::text

#endif
