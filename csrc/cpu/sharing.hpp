// How threads share the rows of an operation that mostly moves data.
#pragma once

#include <algorithm>
#include <cstdint>

#include "tiled_product.hpp"

namespace sdcffi {

// Of each thread, from which on it pays to wait for all threads to begin, so that a free one can take the next task.
constexpr int64_t kManyFloats = 1 << 18;

// Calls function(first, end) for this thread's share of `rows` rows, which are `width` floats wide.
template <class Function>
void share_rows(const ggml_compute_params* params, int64_t rows, int64_t width, Function function) {
    if (rows * width < kManyFloats * params->nth) {
        function(rows * params->ith / params->nth, rows * (params->ith + 1) / params->nth);
        return;
    }
    const int64_t tasks = std::min(rows, wanted_tasks(params));
    share_tasks(params, tasks, [&](int64_t task) { function(rows * task / tasks, rows * (task + 1) / tasks); });
}

}  // namespace sdcffi
