// What is left on stderr when the process cannot go on: reason, native backtrace and the last lines of the log.
#ifndef SDCFFI_CRASH_REPORT_HPP
#define SDCFFI_CRASH_REPORT_HPP

namespace sdcffi {

// Keeps a line of the native log for the report; from any thread, without waiting or allocating.
void remember_line(const char* level, const char* text);

// Remembers an assertion for the report, in case its exception is never caught: unwinding can end the process too.
void expect_caught(const char* message);
void caught();

// Writes the report of an assertion; the process must end after it.
void report_assert(const char* message);

void catch_crashes();

}  // namespace sdcffi

#endif
