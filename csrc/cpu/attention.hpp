// Attention as one operation of the CPU backend: out = softmax(q . k * scale + mask) . v, without its matrix of scores.
//
//     for each task (queries of the heads that share keys and values; a thread that is free takes the next)
//         pack the queries into strips, [depth][strip], and multiply them by the scale
//         for each kKeys keys
//             pack keys and values into strips of the arithmetic's kRows
//             for each strip of queries
//                 scores [key][query] = keys . queries, a tile at a time
//                 weights = 2^(score - the largest score so far), and their sum
//                 out [element][query] = out * 2^(largest before - largest now) + values . weights
//
// A vector holds the same element of several queries, so that nothing is summed across one, and the weights lie as the
// second product wants them (an arithmetic that rounds packs them). The strips and the order of each sum do not depend on the tasks, so the result is the same,
// bit for bit, for any number of threads.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "exponential.hpp"
#include "ggml.h"
#include "rows.hpp"
#include "tiled_product.hpp"

namespace sdcffi {

constexpr int kKeys         = 96;  // a multiple of every kRows; their scores stay in the first-level cache
constexpr int kLeastQueries = 64, kMostQueries = 512;  // of a task: they share the packed keys and values
constexpr int kQueryFloats  = 48 << 10;  // of a task's queries and sums: beside the keys, they stay in the second level
constexpr float kLog2E      = 1.44269504f;

// What all threads know of a node. The queries of `group` heads, which share keys and values, count as one list.
template <class Arithmetic>
class Attention {
    static constexpr int kRows = Arithmetic::kRows;
    static constexpr bool kPacksWeights = !std::is_same_v<Arithmetic, InFloats>;  // which are [key][strip] already
    static_assert(kKeys % kRows == 0 && kKeys <= kDepth, "the packed keys are whole strips");

public:
    explicit Attention(const ggml_tensor* node)
        : q_(node->src[0]), k_(node->src[1]), v_(node->src[2]), mask_(node->src[3]), out_(node),
          deep_(k_->ne[0]), wide_(v_->ne[0]), group_(q_->ne[2] / k_->ne[2]), queries_(q_->ne[1] * group_) {
        std::memcpy(&scale_, node->op_params, sizeof(scale_));
        const int64_t fit = kQueryFloats / (deep_ + wide_);
        const int64_t most = std::min<int64_t>(std::max<int64_t>(fit, kLeastQueries), kMostQueries);
        most_ = round_up(std::min(most, queries_), kTileColumns);
    }

    size_t floats_per_thread() const {
        const size_t queries = size_t(most_) / kTileColumns * packed(kTileColumns, deep_) + most_ * (wide_ + 2);
        const size_t keys    = kKeys / kRows * packed(kRows, deep_) + padded() / kRows * Arithmetic::packed(kRows, kKeys);
        return queries + keys + weights() + unpacked() + kKeys * 2 * kTileColumns + spare();
    }

    void compute(const ggml_compute_params* params) const {
        const int64_t lists = k_->ne[2] * k_->ne[3];
        int64_t each = most_;
        while (each > 2 * kTileColumns && lists * ((queries_ + each - 1) / each) < wanted_tasks(params)) {
            each = round_up(each / 2, kTileColumns);
        }
        const int64_t blocks = (queries_ + each - 1) / each;
        float* scratch = scratch_of(params, floats_per_thread());
        [[maybe_unused]] const typename Arithmetic::Session session;
        share_tasks(params, lists * blocks, [&](int64_t task) {
            const int64_t first = task % blocks * each, list = task / blocks;
            attend(list % k_->ne[2], list / k_->ne[2], first, std::min(each, queries_ - first), scratch);
        });
    }

private:
    const ggml_tensor *q_, *k_, *v_, *mask_, *out_;
    int64_t deep_, wide_, group_, queries_, most_;
    float scale_;

    // Floats of a strip of `deep` values, which is packed in parts of kDepth.
    static size_t packed(int strip, int64_t deep) {
        return deep / kDepth * Arithmetic::packed(strip, kDepth) + Arithmetic::packed(strip, int(deep % kDepth));
    }

    int64_t padded() const { return round_up(wide_, kRows); }
    size_t weights() const { return kPacksWeights ? Arithmetic::packed(kTileColumns, kKeys) : 0; }
    size_t unpacked() const { return kPacksWeights ? kPackedStrip + kKeys * padded() : 0; }
    int64_t spare() const { return kTileColumns * std::max<int64_t>({kKeys, wide_, kDepth}); }

    // Query i of the list is that of head `head(i)` at position `at(i)`.
    int64_t head(int64_t kv, int64_t i) const { return kv * group_ + i / q_->ne[1]; }
    int64_t at(int64_t i) const { return i % q_->ne[1]; }

    void attend(int64_t kv, int64_t item, int64_t first, int64_t count, float* scratch) const {
        float* queries = scratch;
        float* sums    = queries + most_ / kTileColumns * packed(kTileColumns, deep_);  // before they are divided by `total`
        float* largest = sums + most_ * wide_;                                          // score of each query
        float* total   = largest + most_;                                               // of the weights of each query
        float* keys    = total + most_;
        float* values  = keys + kKeys / kRows * packed(kRows, deep_);
        float* scores  = values + padded() / kRows * Arithmetic::packed(kRows, kKeys);
        float* masks   = scores + kKeys * kTileColumns;
        float* weights = masks + kKeys * kTileColumns;
        float* loose   = weights + this->weights();  // not packed yet
        float* spare   = loose + unpacked();
        const auto strip_of_queries = [&](int64_t i) { return queries + i / kTileColumns * packed(kTileColumns, deep_); };
        for (int64_t i = 0; i < count; i += kTileColumns) {
            pack_queries(kv, item, first + i, int(std::min<int64_t>(kTileColumns, count - i)), loose, strip_of_queries(i));
        }
        std::fill(sums, sums + count_of(count) * wide_, 0.0f);
        std::fill(largest, largest + count_of(count), -FLT_MAX);
        std::fill(total, total + count_of(count), 0.0f);
        for (int64_t key = 0; key < k_->ne[1]; key += kKeys) {
            const int some = int(std::min<int64_t>(kKeys, k_->ne[1] - key));
            pack_keys(row_of(k_, key, kv, item), some, spare, loose, keys);
            pack_values(row_of(v_, key, kv, item), some, spare, loose, values);
            for (int64_t i = 0; i < count; i += kTileColumns) {
                const int strip = strip_width(int(std::min<int64_t>(kTileColumns, count - i)));
                const int here  = int(std::min<int64_t>(strip, count - i));
                if (mask_ != nullptr && !pack_masks(kv, item, first + i, here, strip, key, some, spare, masks)) {
                    continue;  // none of these keys counts for any of these queries
                }
                score(strip_of_queries(i), keys, some, strip, scores);
                if (strip == kTileColumns) {
                    weigh<kTileVectors>(scores, mask_ != nullptr ? masks : nullptr, some, largest + i, total + i, sums + i * wide_);
                } else {
                    weigh<1>(scores, mask_ != nullptr ? masks : nullptr, some, largest + i, total + i, sums + i * wide_);
                }
                if (kPacksWeights) {
                    Arithmetic::pack(false, weights, strip, some, loose, [&](float* to, int) { std::copy_n(scores, some * strip, to); });
                }
                multiply_strip<Arithmetic>(values, kPacksWeights ? weights : scores, int(wide_), strip, some, sums + i * wide_, strip, true);
            }
        }
        for (int64_t i = 0; i < count; i += kTileColumns) {
            write(kv, item, first + i, int(std::min<int64_t>(kTileColumns, count - i)), total + i, sums + i * wide_, spare);
        }
    }

    static int64_t count_of(int64_t count) { return round_up(count, kTileColumns); }

    // Strips of queries, for each kDepth of the depth; multiplied so that 2^score is the weight.
    void pack_queries(int64_t kv, int64_t item, int64_t first, int count, float* loose, float* to) const {
        const float* rows[kTileColumns];
        for (int i = 0; i < count; i++) {
            rows[i] = reinterpret_cast<const float*>(row_of(q_, at(first + i), head(kv, first + i), item));
        }
        const Vector by = all(scale_ * kLog2E);
        const int strip = strip_width(count);
        for (int64_t k = 0; k < deep_; k += kDepth, to += Arithmetic::packed(strip, kDepth)) {
            const int depth = int(std::min<int64_t>(kDepth, deep_ - k));
            Arithmetic::pack(false, to, strip, depth, loose, [&](float* out, int) {
                interleave(rows, count, strip, depth, out);
                for (int i = 0; i < depth * strip; i += kWidth) store(out + i, times(load(out + i), by));
            });
            for (int i = 0; i < count; i++) rows[i] += kDepth;
        }
    }

    // For each kDepth of the depth, strips of kRows keys, one after the other as interleave() needs it.
    void pack_keys(const char* base, int count, float* spare, float* loose, float* to) const {
        for (int64_t k = 0; k < deep_; k += kDepth) {
            const int depth = int(std::min<int64_t>(kDepth, deep_ - k));
            for (int first = 0; first < count; first += kRows, to += Arithmetic::packed(kRows, depth)) {
                const int some = std::min(kRows, count - first);
                const float* rows[kRows];
                for (int i = 0; i < some; i++) {
                    rows[i] = floats(k_, base + (first + i) * k_->nb[1], k, depth, spare + i * kDepth);
                }
                Arithmetic::pack(true, to, kRows, depth, loose, [&](float* out, int) { interleave(rows, some, kRows, depth, out); });
            }
        }
    }

    // Strips of kRows elements.
    void pack_values(const char* base, int count, float* spare, float* loose, float* to) const {
        if (!kPacksWeights) {
            return spread_values(base, count, spare, to);
        }
        float* strips = loose + kPackedStrip;
        spread_values(base, count, spare, strips);
        for (int64_t i = 0; i < wide_; i += kRows, strips += count * kRows, to += Arithmetic::packed(kRows, count)) {
            Arithmetic::pack(true, to, kRows, count, loose, [&](float* out, int) { std::copy_n(strips, count * kRows, out); });
        }
    }

    // Strips of kRows elements, [key][kRows].
    void spread_values(const char* base, int count, float* spare, float* to) const {
        constexpr int kStored = int(round_up(kRows, kWidth));
        for (int j = 0; j < count; j++) {
            const float* row = floats(v_, base + j * v_->nb[1], 0, wide_, spare);
            float* strip = to + j * kRows;
            int64_t i = 0;
            // What is stored beyond a strip's row is overwritten by the next one, which the last lacks.
            for (; i + kStored <= wide_ && (kStored == kRows || j + 1 < count); i += kRows, strip += count * kRows) {
                for (int n = 0; n < kStored; n += kWidth) store(strip + n, load(row + i + n));
            }
            for (; i < wide_; i += kRows, strip += count * kRows) {
                for (int n = 0; n < kRows; n++) strip[n] = i + n < wide_ ? row[i + n] : 0.0f;
            }
        }
    }

    // Packs the masks as the scores lie, [key][strip]. Returns whether any of them is above minus infinity.
    bool pack_masks(int64_t kv, int64_t item, int64_t first, int count, int strip, int64_t key, int some, float* spare, float* to) const {
        const float* rows[kTileColumns];
        for (int i = 0; i < count; i++) {
            const char* row = row_of(mask_, at(first + i) % mask_->ne[1], head(kv, first + i) % mask_->ne[2], item % mask_->ne[3]);
            rows[i] = floats(mask_, row, key, some, spare + i * kKeys);
        }
        interleave(rows, count, strip, some, to);
        bool counts = false;
        for (int i = 0; i < count && !counts; i++) {
            for (int j = 0; j < some && !counts; j++) counts = !(rows[i][j] == -INFINITY);
        }
        return counts;
    }

    void score(const float* queries, const float* keys, int count, int strip, float* to) const {
        const int strips = (count + kRows - 1) / kRows;
        for (int64_t k = 0; k < deep_; k += kDepth) {
            const int depth = int(std::min<int64_t>(kDepth, deep_ - k));
            multiply_strip<Arithmetic>(keys, queries, count, strip, depth, to, strip, k > 0);
            keys += strips * Arithmetic::packed(kRows, depth);
            queries += Arithmetic::packed(strip, depth);
        }
    }

    // Turns scores into weights, and scales what was summed with the largest score until now.
    template <int vectors>
    void weigh(float* scores, const float* masks, int count, float* largest, float* total, float* sums) const {
        constexpr int strip = vectors * kWidth;
        for (int j = 0; j < vectors; j++, scores += kWidth, largest += kWidth, total += kWidth, sums += kWidth) {
            const Vector before = load(largest);
            Vector now = before;
            for (int i = 0; i < count; i++) {
                Vector score = load(scores + i * strip);
                if (masks != nullptr) {
                    score = multiply_add(load(masks + i * strip + j * kWidth), all(kLog2E), score);
                    store(scores + i * strip, score);
                }
                now = larger(now, score);
            }
            Vector sum = all(0.0f);
            for (int i = 0; i < count; i++) {
                const Vector weight = power_of_two(subtract(load(scores + i * strip), now));
                store(scores + i * strip, weight);
                sum = add(sum, weight);
            }
            const Vector by = power_of_two(subtract(before, now));
            store(largest, now);
            store(total, multiply_add(load(total), by, sum));
            for (int64_t i = 0; i < wide_; i++) store(sums + i * strip, times(load(sums + i * strip), by));
        }
    }

    // Divides by the sum of the weights, and writes a row for each query; 0 for a query that attends to nothing.
    void write(int64_t kv, int64_t item, int64_t first, int count, const float* total, const float* sums, float* spare) const {
        const int strip = strip_width(count);
        for (int64_t i = 0; i + kBlock <= wide_; i += kBlock) {
            const float* rows[kBlock];
            for (int n = 0; n < kBlock; n++) rows[n] = sums + (i + n) * strip;
            for (int j = 0; j + kBlock <= strip; j += kBlock) transpose_block(rows, j, spare + j * wide_ + i, int(wide_));
        }
        for (int64_t i = wide_ / kBlock * kBlock; i < wide_; i++) {
            for (int j = 0; j < strip; j++) spare[j * wide_ + i] = sums[i * strip + j];
        }
        for (int j = 0; j < count; j++) {
            char* base = static_cast<char*>(out_->data) + head(kv, first + j) * out_->nb[1] + at(first + j) * out_->nb[2] + item * out_->nb[3];
            float* to = reinterpret_cast<float*>(base);
            const float by = total[j] == 0.0f ? 0.0f : 1.0f / total[j];
            for (int64_t i = 0; i < wide_; i++) to[i] = spare[j * wide_ + i] * by;
        }
    }
};

}  // namespace sdcffi
