// Small graphs that are computed on the CPU at once, whatever the engine computes with: for what LoRAs do to weights.
#ifndef SDCFFI_HOST_MATH_HPP
#define SDCFFI_HOST_MATH_HPP

#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml.h"
#include "on_cpu.hpp"

namespace sdcffi {

struct FreeBackend {
    void operator()(ggml_backend* backend) const { ggml_backend_free(backend); }
};
struct FreeBuffer {
    void operator()(ggml_backend_buffer* buffer) const { ggml_backend_buffer_free(buffer); }
};
struct FreeAllocator {
    void operator()(ggml_gallocr* allocator) const { ggml_gallocr_free(allocator); }
};
struct FreeContext {
    void operator()(ggml_context* context) const { ggml_free(context); }
};
using Backend   = std::unique_ptr<ggml_backend, FreeBackend>;
using Buffer    = std::unique_ptr<ggml_backend_buffer, FreeBuffer>;
using Allocator = std::unique_ptr<ggml_gallocr, FreeAllocator>;
using Context   = std::unique_ptr<ggml_context, FreeContext>;

// A context for `count` tensors whose data is elsewhere.
inline Context new_context(size_t count) {
    Context context(ggml_init({count * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true}));
    if (context == nullptr) {
        throw std::bad_alloc();
    }
    return context;
}

// Tensors and the buffer that has their data.
class Tensors {
public:
    explicit Tensors(size_t count) : context_(new_context(count)) {}

    ggml_context* context() const { return context_.get(); }

    void allocate(ggml_backend_buffer_type_t type) {
        buffer_.reset(ggml_backend_alloc_ctx_tensors_from_buft(context_.get(), type));
        if (buffer_ == nullptr && ggml_get_first_tensor(context_.get()) != nullptr) {
            throw std::bad_alloc();
        }
    }

    size_t bytes() const { return buffer_ ? ggml_backend_buffer_get_size(buffer_.get()) : 0; }

private:
    Context context_;
    Buffer buffer_;
};

// A graph whose nodes are computed in the order in which they were asked for.
class HostGraph {
public:
    explicit HostGraph(size_t nodes)
        : context_(ggml_init({nodes * ggml_tensor_overhead() + ggml_graph_overhead_custom(nodes, false), nullptr, true})) {
        if (context_ == nullptr) {
            throw std::bad_alloc();
        }
        graph_ = ggml_new_graph_custom(context_.get(), nodes, false);
    }

    ggml_context* context() const { return context_.get(); }
    ggml_cgraph* graph() const { return graph_; }

    // Computes `node` before what is asked for later; its data stays.
    ggml_tensor* ask(ggml_tensor* node) {
        ggml_set_output(node);
        ggml_build_forward_expand(graph_, node);
        return node;
    }

private:
    Context context_;
    ggml_cgraph* graph_;
};

class HostMath {
public:
    explicit HostMath(int threads)
        : threads_(threads), backend_(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr)) {
        if (backend_ == nullptr) {
            throw std::runtime_error("ggml has no CPU backend");
        }
        allocator_.reset(ggml_gallocr_new(buffer_type()));
        ggml_backend_reg_t registry = ggml_backend_dev_backend_reg(ggml_backend_get_device(backend_.get()));
        void* function              = ggml_backend_reg_get_proc_address(registry, "ggml_backend_set_n_threads");
        if (function != nullptr) {
            reinterpret_cast<ggml_backend_set_n_threads_t>(function)(backend_.get(), threads);
        }
    }

    ggml_backend_buffer_type_t buffer_type() const { return ggml_backend_get_default_buffer_type(backend_.get()); }

    void compute(HostGraph& graph) {
        if (!ggml_gallocr_alloc_graph(allocator_.get(), graph.graph())) {
            throw std::bad_alloc();
        }
        Computation computation(backend_.get(), threads_);
        const ggml_status status = ggml_backend_graph_compute(backend_.get(), graph.graph());
        if (computation.ends(status)) {
            throw Cancelled{};
        }
        if (status != GGML_STATUS_SUCCESS) {
            throw std::runtime_error("the CPU backend could not compute a LoRA's difference");
        }
    }

private:
    int threads_;
    Backend backend_;
    Allocator allocator_;
};

inline ggml_tensor* as_f32(ggml_context* ctx, ggml_tensor* tensor) {
    return tensor->type == GGML_TYPE_F32 ? tensor : ggml_cast(ctx, tensor, GGML_TYPE_F32);
}

// The values of a contiguous tensor in the memory of the process.
inline std::vector<float> values_of(const ggml_tensor* tensor) {
    std::vector<float> values(ggml_nelements(tensor));
    if (tensor->type == GGML_TYPE_F32) {
        std::copy_n(static_cast<const float*>(tensor->data), values.size(), values.begin());
    } else {
        ggml_get_type_traits(tensor->type)->to_float(tensor->data, values.data(), values.size());
    }
    return values;
}

}  // namespace sdcffi

#endif
