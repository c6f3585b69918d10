// Attention as one operation of the CPU backend (csrc/cpu/attention.hpp), in single precision. Upstream uses eight, of
// which three pass over a matrix of all scores, or casts keys and values to half precision.
#ifndef SDCFFI_ATTENTION_ON_CPU_HPP
#define SDCFFI_ATTENTION_ON_CPU_HPP

#include <cmath>
#include <cstdint>

#include "ggml.h"
#include "on_cpu.hpp"

namespace sdcffi {

// Whether the operation reads rows of these tensors as they are.
inline bool has_rows_of_floats(const ggml_tensor* tensor) {
    return tensor->type == GGML_TYPE_F32 && tensor->nb[0] == sizeof(float);
}

// Whether a mask has a row for each query, or one for all, of each head or of all heads.
inline bool can_mask(const ggml_tensor* mask, int64_t queries, int64_t keys, int64_t heads) {
    return has_rows_of_floats(mask) && mask->ne[0] == keys && queries % mask->ne[1] == 0 && heads % mask->ne[2] == 0 &&
           mask->ne[3] == 1;
}

// Of the arguments of upstream's ggml_ext_attention_ext, what that returns: [N, L_q, C]. Null if it must do so itself.
inline ggml_tensor* attend_on_cpu(ggml_context* context, ggml_backend_t backend, ggml_tensor* q, ggml_tensor* k, ggml_tensor* v,
                                  int64_t heads, ggml_tensor* mask, bool in_heads) {
    if (!is_cpu(backend) || !has_rows_of_floats(q) || !has_rows_of_floats(k) || !has_rows_of_floats(v)) {
        return nullptr;
    }
    const int64_t items  = in_heads ? v->ne[3] : q->ne[2];
    const int64_t depth  = in_heads ? v->ne[0] : q->ne[0] / heads;
    const int64_t shared = in_heads ? k->ne[2] / items : k->ne[0] / depth;  // heads of keys and values
    if ((in_heads && q->ne[0] != depth) || (mask != nullptr && !can_mask(mask, q->ne[1], k->ne[1], heads))) {
        return nullptr;
    }
    // [N, head, L, d_head], without moving anything
    const auto split = [&](ggml_tensor* x, int64_t count) {
        const size_t head = in_heads ? x->nb[2] : depth * x->nb[0];
        const size_t item = in_heads ? count * x->nb[2] : x->nb[2];
        return ggml_view_4d(context, x, depth, x->ne[1], count, items, x->nb[1], head, item, 0);
    };
    ggml_tensor* values = in_heads ? ggml_permute(context, v, 0, 2, 1, 3) : split(v, shared);
    const float scale   = 1.0f / std::sqrt(static_cast<float>(depth));
    ggml_tensor* out    = ggml_flash_attn_ext(context, split(q, heads), split(k, shared), values, nullptr, scale, 0.0f, 0.0f);
    ggml_flash_attn_ext_set_prec(out, GGML_PREC_F32);
    out->src[3] = mask;  // whose rows ggml_flash_attn_ext wants in half precision
    return ggml_reshape_3d(context, out, depth * heads, q->ne[1], items);
}

}  // namespace sdcffi

#endif
