// The exceptions with which the guard and our patches interrupt the engine, and the state that allows throwing.
#ifndef SDCFFI_INTERRUPTS_HPP
#define SDCFFI_INTERRUPTS_HPP

#include <atomic>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

namespace sdcffi {

// sdg_cancel was called. The context stays usable.
struct Cancelled {};

// The call's parameters or data cannot be used. The context stays usable.
struct Refused : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A call that only asks for the tokens of a prompt has them, and would now compute. The context stays usable.
struct OnlyTokens {};

// A bad_alloc that names what the memory was for.
class OutOfMemory : public std::bad_alloc {
public:
    explicit OutOfMemory(std::string text) : text_(std::move(text)) {}
    const char* what() const noexcept override { return text_.c_str(); }

private:
    std::string text_;
};

// Depth of guarded calls on this thread. An exception is caught only inside one.
inline thread_local int guarded = 0;

// Set while a context is made of which only the tensors' names and shapes are needed: their memory is never written.
inline thread_local bool names_only = false;

// Set while a file is read by somebody who looks at no result: the reader throws if some data cannot be read.
inline thread_local bool all_data_needed = false;

// Set while nothing may be computed, because only the tokens of a prompt are needed.
inline thread_local bool only_tokens = false;

// Set while kernels run on several threads: an exception cannot leave a parallel region.
inline thread_local bool in_kernels = false;

// Sets a variable for the time of a scope.
template <typename T>
class Restored {
public:
    Restored(T& variable, T value) : variable_(variable), before_(variable) { variable_ = value; }
    ~Restored() { variable_ = before_; }
    Restored(const Restored&)            = delete;
    Restored& operator=(const Restored&) = delete;

private:
    T& variable_;
    T before_;
};

inline std::atomic<bool> cancel_requested{false};

inline bool cancelled() {
    return guarded > 0 && cancel_requested.load(std::memory_order_relaxed);
}

inline void stop_if_cancelled() {
    if (only_tokens) {
        throw OnlyTokens{};
    }
    if (cancelled()) {
        throw Cancelled{};
    }
}

}  // namespace sdcffi

#endif
