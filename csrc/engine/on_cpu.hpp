// Whether a backend computes on the CPU, and stopping it there. Upstream's own names for this differ by revision.
#ifndef SDCFFI_ON_CPU_HPP
#define SDCFFI_ON_CPU_HPP

#include "ggml-backend.h"
#include "interrupts.hpp"

namespace sdcffi {

inline bool is_cpu(ggml_backend_t backend) {
    ggml_backend_dev_t device = backend != nullptr ? ggml_backend_get_device(backend) : nullptr;
    return device != nullptr && ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_CPU;
}

inline void set_abort_callback(ggml_backend_t cpu, ggml_abort_callback callback) {
    ggml_backend_reg_t registry = ggml_backend_dev_backend_reg(ggml_backend_get_device(cpu));
    void* function              = ggml_backend_reg_get_proc_address(registry, "ggml_backend_set_abort_callback");
    if (function != nullptr) {
        reinterpret_cast<ggml_backend_set_abort_callback_t>(function)(cpu, callback, nullptr);
    }
}

// From here until it ends, a graph is computed: on the CPU it can be stopped between two of its nodes. While kernels run
// on several threads an assertion must not throw, since its exception cannot leave them.
class Computation {
public:
    Computation(ggml_backend_t backend, int threads) : kernels_(in_kernels, is_cpu(backend) && threads != 1) {
        if (is_cpu(backend)) {
            set_abort_callback(backend, [](void*) { return cancelled(); });
        }
    }

    // Returns whether the graph was stopped.
    bool ends(ggml_status status) {
        in_kernels = false;
        return status == GGML_STATUS_ABORTED;
    }

private:
    Restored<bool> kernels_;
};

}  // namespace sdcffi

#endif
