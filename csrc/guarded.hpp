// How a native operation is called so that nothing it throws reaches C: shared by the files that define sdg_ functions.
#ifndef SDCFFI_GUARDED_HPP
#define SDCFFI_GUARDED_HPP

#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <utility>

#include "ggml.h"
#include "guard.h"

namespace sdcffi {

struct AssertFailure {
    std::string text;
};

struct Cancelled {};

// Depth of guarded calls on this thread: only there may ggml's abort callback throw.
inline thread_local int guarded = 0;

inline void set_error(sdg_error* error, sdg_status status, const char* text) {
    if (error != nullptr) {
        error->status = status;
        std::snprintf(error->text, sizeof error->text, "%s", text);
    }
}

// ggml calls abort() when this returns; on a thread without a guarded call that is what happens.
inline void on_abort(const char* message) {
    if (guarded > 0) {
        throw AssertFailure{message};
    }
    std::fprintf(stderr, "%s\n", message);
    std::fflush(stderr);
}

// Runs an operation that returns true for success, and turns whatever it throws into a status.
template <typename Operation>
sdg_status guard(sdg_error* error, Operation&& operation) {
    struct Depth {
        Depth() { guarded++; }
        ~Depth() { guarded--; }
    } depth;
    set_error(error, SDG_OK, "");
    try {
        ggml_set_abort_callback(on_abort);
        if (std::forward<Operation>(operation)()) {
            return SDG_OK;
        }
        set_error(error, SDG_FAILED, "");
        return SDG_FAILED;
    } catch (const Cancelled&) {
        set_error(error, SDG_CANCELLED, "cancelled");
        return SDG_CANCELLED;
    } catch (const AssertFailure& failure) {
        set_error(error, SDG_ASSERT, failure.text.c_str());
        return SDG_ASSERT;
    } catch (const std::bad_alloc& exception) {
        set_error(error, SDG_OUT_OF_MEMORY, exception.what());
        return SDG_OUT_OF_MEMORY;
    } catch (const std::exception& exception) {
        set_error(error, SDG_EXCEPTION, exception.what());
        return SDG_EXCEPTION;
    } catch (...) {
        set_error(error, SDG_EXCEPTION, "an exception of unknown type");
        return SDG_EXCEPTION;
    }
}

}  // namespace sdcffi

#endif
