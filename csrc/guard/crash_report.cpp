#include "crash_report.hpp"

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <thread>

#if defined(_WIN32)
#include <io.h>
#include <windows.h>
#else
#include <unistd.h>
#endif
#if __has_include(<execinfo.h>)
#include <execinfo.h>
#endif

namespace sdcffi {
namespace {

constexpr size_t kKeptLines = 50, kLineSize = 256, kMostFrames = 64;

// A thread skips a line that is in use, so that neither loader threads nor a signal handler ever wait.
struct Line {
    std::atomic<bool> busy{false};
    char text[kLineSize] = "";
};

Line ring[kKeptLines];
std::atomic<size_t> next_line{0};

char assertion[2048] = "";
enum { kNone, kBeingWritten, kComplete };
std::atomic<int> assertion_state{kNone};

enum { kQuiet, kReporting, kReported };
std::atomic<int> report_state{kQuiet};

// Only write() is safe: the heap or stdio may be broken.
void put(const char* text, size_t size) {
#if defined(_WIN32)
    _write(2, text, static_cast<unsigned>(size));
#else
    while (size > 0) {
        const ssize_t written = ::write(2, text, size);
        if (written <= 0) {
            return;
        }
        text += written;
        size -= static_cast<size_t>(written);
    }
#endif
}

void put(const char* text) {
    put(text, std::strlen(text));
}

void put_line(const char* heading, const char* text) {
    put(heading);
    put(text);
    put("\n");
}

void put_backtrace() {
    put("sdcffi-backtrace:\n");
#if __has_include(<execinfo.h>)
    void* frames[kMostFrames];
    backtrace_symbols_fd(frames, backtrace(frames, kMostFrames), 2);
#elif defined(_WIN32)
    void* frames[kMostFrames];
    const int count = CaptureStackBackTrace(0, kMostFrames, frames, nullptr);
    for (int i = 0; i < count; i++) {
        char text[32];
        put(text, std::snprintf(text, sizeof text, "%p\n", frames[i]));
    }
#endif
}

void put_log() {
    put("sdcffi-log:\n");
    const size_t end = next_line.load(std::memory_order_acquire);
    for (size_t i = end > kKeptLines ? end - kKeptLines : 0; i < end; i++) {
        Line& line = ring[i % kKeptLines];
        if (!line.busy.exchange(true, std::memory_order_acquire)) {
            put_line("", line.text);
            line.busy.store(false, std::memory_order_release);
        }
    }
}

// The first thread writes the report; the others wait, so that they do not end the process before it is complete.
template <typename Write>
bool report_once(Write&& write) {
    int expected = kQuiet;
    if (report_state.compare_exchange_strong(expected, kReporting)) {
        write();
        report_state = kReported;
        return true;
    }
    for (int i = 0; i < 200 && report_state != kReported; i++) {
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
}

void report_crash(const char* heading, const char* name) {
    const bool first = report_once([&] {
        if (assertion_state == kComplete) {
            put_line("sdcffi-assert: ", assertion);
        }
        put_line(heading, name);
        put_backtrace();
        put_log();
        put("sdcffi-end\n");
    });
    if (!first) {
        put_line(heading, name);
    }
}

const char* signal_name(int number) {
    switch (number) {
        case SIGSEGV:
            return "SIGSEGV";
        case SIGFPE:
            return "SIGFPE";
        case SIGILL:
            return "SIGILL";
        case SIGABRT:
            return "SIGABRT";
#if !defined(_WIN32)
        case SIGBUS:
            return "SIGBUS";
#endif
        default:
            return "unknown";
    }
}

void on_signal(int number) {
    report_crash("sdcffi-signal: ", signal_name(number));
    std::signal(number, SIG_DFL);
    std::raise(number);  // blocked until the handler returns; the exit status is then the signal's
}

#if defined(_WIN32)
LONG WINAPI on_exception(EXCEPTION_POINTERS* exception) {
    char name[32];
    std::snprintf(name, sizeof name, "0x%08lX", exception->ExceptionRecord->ExceptionCode);
    report_crash("sdcffi-signal: ", name);
    return EXCEPTION_CONTINUE_SEARCH;
}
#else
alignas(16) char signal_stack[64 * 1024];
#endif

}  // namespace

void remember_line(const char* level, const char* text) {
    Line& line = ring[next_line.fetch_add(1, std::memory_order_acq_rel) % kKeptLines];
    if (line.busy.exchange(true, std::memory_order_acquire)) {
        return;
    }
    const int size = std::snprintf(line.text, kLineSize, "%s: %s", level, text);
    size_t end     = size < 0 ? 0 : static_cast<size_t>(size) < kLineSize ? static_cast<size_t>(size) : kLineSize - 1;
    while (end > 0 && line.text[end - 1] == '\n') {
        end--;
    }
    line.text[end] = '\0';
    for (size_t i = 0; i < end; i++) {
        if (line.text[i] == '\n') {
            line.text[i] = ' ';
        }
    }
    line.busy.store(false, std::memory_order_release);
}

void expect_caught(const char* message) {
    int expected = kNone;
    if (assertion_state.compare_exchange_strong(expected, kBeingWritten)) {
        std::snprintf(assertion, sizeof assertion, "%s", message);
        assertion_state = kComplete;
    }
}

void caught() {
    assertion_state = kNone;
}

void report_assert(const char* message) {
    report_once([&] {
        put_line("sdcffi-assert: ", message);
        put_backtrace();
        put_log();
        put("sdcffi-end\n");
    });
}

void catch_crashes() {
#if defined(_WIN32)
    SetUnhandledExceptionFilter(on_exception);
    std::signal(SIGABRT, on_signal);
#else
#if __has_include(<execinfo.h>)
    void* frame;
    backtrace(&frame, 1);  // loads libgcc now: loading takes locks and memory
#endif
    stack_t stack  = {};
    stack.ss_sp    = signal_stack;
    stack.ss_size  = sizeof signal_stack;
    sigaltstack(&stack, nullptr);
    struct sigaction action = {};
    action.sa_handler       = on_signal;
    action.sa_flags         = SA_ONSTACK;
    for (int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) {
        sigaction(number, &action, nullptr);
    }
#endif
}

}  // namespace sdcffi
