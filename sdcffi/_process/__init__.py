"""Run native code in a child process or on a thread, with time limits, cancellation, and crashes as errors."""
