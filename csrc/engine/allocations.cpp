// Throws where upstream gets no memory for weights: many of its callers go on as if they had it. CMake gives upstream's
// calls of these functions of ggml the names that stand here.
#undef ggml_backend_alloc_ctx_tensors
#undef ggml_backend_alloc_ctx_tensors_from_buft
#undef ggml_backend_buft_alloc_buffer
#undef ggml_backend_sched_alloc_graph

#include <string>

#include "engine/interrupts.hpp"
#include "ggml-alloc.h"
#include "ggml-backend.h"

namespace {

size_t size_of(ggml_context* context) {
    size_t size = 0;
    for (ggml_tensor* t = ggml_get_first_tensor(context); t != nullptr; t = ggml_get_next_tensor(context, t)) {
        size += ggml_nbytes(t);
    }
    return size;
}

// Without a size no buffer is right: a LoRA may have no tensor for a part.
ggml_backend_buffer_t require(ggml_backend_buffer_t buffer, size_t size) {
    if (buffer == nullptr && size > 0) {
        throw sdcffi::OutOfMemory("no memory for weights of " + std::to_string(size >> 20) + " MiB");
    }
    return buffer;
}

}  // namespace

extern "C" {

ggml_backend_buffer_t sdcffi_alloc_ctx_tensors(ggml_context* context, ggml_backend_t backend) {
    const size_t size = size_of(context);
    return require(ggml_backend_alloc_ctx_tensors(context, backend), size);
}

ggml_backend_buffer_t sdcffi_alloc_ctx_tensors_from_buft(ggml_context* context, ggml_backend_buffer_type_t type) {
    const size_t size = size_of(context);
    return require(ggml_backend_alloc_ctx_tensors_from_buft(context, type), size);
}

ggml_backend_buffer_t sdcffi_buft_alloc_buffer(ggml_backend_buffer_type_t type, size_t size) {
    return require(ggml_backend_buft_alloc_buffer(type, size), size);
}

bool sdcffi_sched_alloc_graph(ggml_backend_sched_t sched, ggml_cgraph* graph) {
    if (!ggml_backend_sched_alloc_graph(sched, graph)) {
        throw sdcffi::OutOfMemory("no memory to compute in");
    }
    return true;
}
}
