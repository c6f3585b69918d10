// GELU and its quick form, of which ggml reads 16 bits in a table, one value at a time; SiLU for what computes it along.
#pragma once

#include <algorithm>

#include "exponential.hpp"
#include "ggml-cpu-impl.h"
#include "ggml.h"
#include "rows.hpp"

namespace sdcffi {

// x / (1 + e^-y), with y in units of log2(e).
inline Vector gated(Vector x, Vector y) {
    const Vector bounded = larger(all(kSmallestPower), y);  // what is no number stays so
    return divide(x, add(all(1.0f), power_of_two(subtract(all(0.0f), bounded))));
}

// x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, which is x / (1 + e^-(2 sqrt(2 / pi) (x + 0.044715 x^3))).
inline Vector gelu(Vector x) {
    constexpr float kScale = 2.0f * 0.79788456f * 1.44269504f;
    const Vector cubic = multiply_add(times(x, x), all(0.044715f * kScale), all(kScale));
    return gated(x, times(x, cubic));
}

inline Vector silu(Vector x) { return gated(x, times(x, all(1.44269504f))); }

inline Vector quick_gelu(Vector x) { return gated(x, times(x, all(1.702f * 1.44269504f))); }

inline bool is_our_activation(const ggml_tensor* node) {
    const ggml_unary_op which = ggml_get_unary_op(node);
    return (which == GGML_UNARY_OP_GELU || which == GGML_UNARY_OP_GELU_QUICK) && node->type == GGML_TYPE_F32 &&
           node->src[0]->type == GGML_TYPE_F32 && ggml_is_contiguous(node) && ggml_is_contiguous(node->src[0]);
}

template <Vector (*function)(Vector)>
void activate(const ggml_compute_params* params, const ggml_tensor* node) {
    const int64_t count = ggml_nelements(node), vectors = (count + kWidth - 1) / kWidth;
    const float* from = static_cast<const float*>(node->src[0]->data);
    float* to = static_cast<float*>(node->data);
    const int64_t first = vectors * params->ith / params->nth * kWidth;
    const int64_t end   = std::min(count, vectors * (params->ith + 1) / params->nth * kWidth);
    map_row(from + first, to + first, end - first, [](Vector x, int64_t) { return function(x); });
}

inline void activate(const ggml_compute_params* params, const ggml_tensor* node) {
    ggml_get_unary_op(node) == GGML_UNARY_OP_GELU ? activate<gelu>(params, node) : activate<quick_gelu>(params, node);
}

}  // namespace sdcffi
