// Rotary positions as one operation of the CPU backend. Upstream uses ten operations on rows of two elements.
#ifndef SDCFFI_ROPE_ON_CPU_HPP
#define SDCFFI_ROPE_ON_CPU_HPP

#include <cstdint>

#include "ggml-backend.h"
#include "ggml.h"

namespace sdcffi {

// The two elements of pair p are x[p * step] and x[p * step + apart]; turns[p] are the rows of its 2 x 2 matrix.
inline void turn_pairs(const float* x, const float* turns, float* out, int64_t pairs, int64_t step, int64_t apart) {
    for (int64_t p = 0; p < pairs; p++, turns += 4) {
        const float first = x[p * step], second = x[p * step + apart];
        out[p * step]         = first * turns[0] + second * turns[1];
        out[p * step + apart] = first * turns[2] + second * turns[3];
    }
}

// out [d_head, L, n_head * N] of x [d_head, n_head, L, N] and turns [2, 2, d_head / 2, L].
template <bool interleaved>
inline void turn_heads(ggml_tensor* out, int thread, int threads, void*) {
    const ggml_tensor *x = out->src[0], *turns = out->src[1];
    const int64_t rows = out->ne[1] * out->ne[2], pairs = out->ne[0] / 2;
    for (int64_t row = rows * thread / threads; row < rows * (thread + 1) / threads; row++) {
        const int64_t position = row % out->ne[1], head = row / out->ne[1];
        const char* from = static_cast<const char*>(x->data) + head % x->ne[1] * x->nb[1] + position * x->nb[2] + head / x->ne[1] * x->nb[3];
        const char* by   = static_cast<const char*>(turns->data) + position % turns->ne[3] * turns->nb[3];
        float* to        = reinterpret_cast<float*>(static_cast<char*>(out->data) + position * out->nb[1] + head * out->nb[2]);
        turn_pairs(reinterpret_cast<const float*>(from), reinterpret_cast<const float*>(by), to, pairs,
                   interleaved ? 2 : 1, interleaved ? 1 : pairs);
    }
}

inline bool can_rotate(const ggml_tensor* x, const ggml_tensor* turns) {
    return x->type == GGML_TYPE_F32 && x->nb[0] == sizeof(float) && turns->type == GGML_TYPE_F32 &&
           ggml_is_contiguous(turns) && turns->ne[2] == x->ne[0] / 2;
}

inline bool can_rotate(ggml_backend_t backend, const ggml_tensor* q, const ggml_tensor* k, const ggml_tensor* turns) {
    return ggml_backend_dev_type(ggml_backend_get_device(backend)) == GGML_BACKEND_DEVICE_TYPE_CPU &&
           can_rotate(q, turns) && can_rotate(k, turns);
}

inline ggml_tensor* rotate_on_cpu(ggml_context* context, ggml_tensor* x, ggml_tensor* turns, bool interleaved) {
    ggml_tensor* sources[] = {x, turns};
    return ggml_custom_4d(context, GGML_TYPE_F32, x->ne[0], x->ne[2], x->ne[1] * x->ne[3], 1, sources, 2,
                          interleaved ? turn_heads<true> : turn_heads<false>, GGML_N_TASKS_MAX, nullptr);
}

}  // namespace sdcffi

#endif
