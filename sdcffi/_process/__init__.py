"""Where native work is done: in a child process or on a thread, with time limits, cancelling, and crashes as errors."""
