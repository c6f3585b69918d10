// guard() calls a native operation and turns what it throws into a status. All files that define sdg_ functions use it.
#ifndef SDCFFI_GUARDED_CALL_HPP
#define SDCFFI_GUARDED_CALL_HPP

#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <utility>

#include "crash_report.hpp"
#include "engine/interrupts.hpp"
#include "ggml.h"
#include "guard.h"

namespace sdcffi {

struct AssertFailure {
    std::string text;
};

inline void set_error(sdg_error* error, sdg_status status, const char* text) {
    if (error != nullptr) {
        error->status = status;
        std::snprintf(error->text, sizeof error->text, "%s", text);
    }
}

// ggml's abort callback; ggml calls abort() when it returns.
inline void on_abort(const char* message) {
    if (guarded > 0 && !in_kernels) {
        expect_caught(message);
        throw AssertFailure{message};
    }
    report_assert(message);
}

// Runs an operation that returns true for success.
template <typename Operation>
sdg_status guard(sdg_error* error, Operation&& operation) {
    Restored<int> depth(guarded, guarded + 1);
    caught();  // an assertion that was replaced by a loader thread's earlier exception
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
    } catch (const Refused& refused) {
        set_error(error, SDG_FAILED, refused.what());
        return SDG_FAILED;
    } catch (const AssertFailure& failure) {
        caught();
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
