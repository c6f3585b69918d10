// The report on stderr when the process must end: reason, native backtrace and the last lines of the log.
#ifndef SDCFFI_CRASH_REPORT_HPP
#define SDCFFI_CRASH_REPORT_HPP

namespace sdcffi {

// Keeps a line of the native log for the report. Any thread may call it; it neither waits nor allocates.
void remember_line(const char* level, const char* text);

// Keeps an assertion for the report until caught(): unwinding its exception can end the process too.
void expect_caught(const char* message);
void caught();

// Writes the report of an assertion; the process must end after it.
void report_assert(const char* message);

void catch_crashes();

}  // namespace sdcffi

#endif
