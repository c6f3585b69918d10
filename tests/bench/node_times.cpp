// Notes when each thread of ggml's CPU backend begins each operation. profile.py compiles it against the engine's headers.
//
// The backend asks its extra buffer types, one after the other, whether they compute an operation. The first of them is
// replaced by one that looks at the clock, then does what the first did: the engine stays as it was built.
#include <ctime>

#include <algorithm>
#include <array>
#include <atomic>
#include <vector>

#include "ggml-backend-impl.h"
#include "traits.h"

// Their vtables are hidden in the engine's library.
ggml::cpu::tensor_traits::~tensor_traits() {}
ggml::cpu::extra_buffer_type::~extra_buffer_type() {}

namespace {

constexpr int kThreads = 256;

struct Node {
    int64_t wall, sizes[4][4];  // sizes of the result, then of three sources
    int32_t op, unary, types[4];
};

std::atomic<bool> noting{false};
std::vector<Node> nodes;
std::array<std::vector<int64_t>, kThreads> cpu;  // of each thread, at the beginning of each node

int64_t nanoseconds(clockid_t clock) {
    timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

void note(const ggml_compute_params* params, const ggml_tensor* node) {
    if (params->ith >= kThreads) return;
    cpu[params->ith].push_back(nanoseconds(CLOCK_THREAD_CPUTIME_ID));
    if (params->ith > 0) return;
    Node noted{nanoseconds(CLOCK_MONOTONIC), {}, node->op, -1, {-1, -1, -1, -1}};
    if (node->op == GGML_OP_UNARY || node->op == GGML_OP_GLU) noted.unary = node->op_params[0];
    const ggml_tensor* tensors[4] = {node, node->src[0], node->src[1], node->src[2]};
    for (int i = 0; i < 4; i++) {
        if (tensors[i] == nullptr) continue;
        noted.types[i] = tensors[i]->type;
        std::copy_n(tensors[i]->ne, 4, noted.sizes[i]);
    }
    nodes.push_back(noted);
}

class Clock : public ggml::cpu::tensor_traits {
public:
    explicit Clock(ggml::cpu::extra_buffer_type* behind) : behind_(behind) {}

    bool work_size(int threads, const ggml_tensor* node, size_t& size) override {
        ggml::cpu::tensor_traits* traits = behind_->get_tensor_traits(node);
        return traits != nullptr && traits->work_size(threads, node, size);
    }

    bool compute_forward(ggml_compute_params* params, ggml_tensor* node) override {
        if (noting) note(params, node);
        ggml::cpu::tensor_traits* traits = behind_->get_tensor_traits(node);
        return traits != nullptr && traits->compute_forward(params, node);
    }

private:
    ggml::cpu::extra_buffer_type* behind_;
};

class Clocked : public ggml::cpu::extra_buffer_type {
public:
    explicit Clocked(ggml::cpu::extra_buffer_type* behind) : behind_(behind), clock_(behind) {}
    bool supports_op(ggml_backend_dev_t device, const ggml_tensor* node) override { return behind_->supports_op(device, node); }
    ggml::cpu::tensor_traits* get_tensor_traits(const ggml_tensor*) override { return &clock_; }

private:
    ggml::cpu::extra_buffer_type* behind_;
    Clock clock_;
};

}  // namespace

extern "C" {

void watch(ggml_backend_buffer_type_t first) {
    first->context = new Clocked(static_cast<ggml::cpu::extra_buffer_type*>(first->context));
}

void begin() {
    nodes.clear();
    for (auto& times : cpu) times.clear();
    noting = true;
}

// When it was called; what was noted stays where it is until the next begin.
int64_t end() {
    noting = false;
    return nanoseconds(CLOCK_MONOTONIC);
}

const Node* noted(size_t* count) {
    *count = nodes.size();
    return nodes.data();
}

const int64_t* cpu_times(int thread, size_t* count) {
    *count = cpu[thread].size();
    return cpu[thread].data();
}
}
