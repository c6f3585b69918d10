// Refuses a graph that its device cannot compute.
#ifndef SDCFFI_SUPPORTED_HPP
#define SDCFFI_SUPPORTED_HPP

#include <string>

#include "ggml.h"
#include "on_cpu.hpp"

namespace sdcffi {

// "MUL_MAT of tq2_0 and f32"
inline std::string described(const ggml_tensor* node) {
    std::string text = ggml_op_desc(node);
    const char* word = " of ";
    for (const ggml_tensor* source : {node->src[0], node->src[1]}) {
        if (source != nullptr) {
            text += word + std::string(ggml_type_name(source->type));
            word = " and ";
        }
    }
    return text;
}

// A GPU's backend asserts at the first operation that it lacks. The CPU is not asked: it has all that the engine uses,
// and its answer is about types that it would have to convert.
inline void require_supported(ggml_backend_t backend, ggml_cgraph* graph, const std::string& part) {
    if (is_cpu(backend)) {
        return;
    }
    for (int i = 0; i < ggml_graph_n_nodes(graph); i++) {
        const ggml_tensor* node = ggml_graph_node(graph, i);
        if (!ggml_backend_supports_op(backend, node)) {
            throw Refused(part + ": " + ggml_backend_name(backend) + " cannot compute " + described(node) +
                          "; give the weights another type, or run this part on the CPU");
        }
    }
}

}  // namespace sdcffi

#endif
