"""What is told of a process that has ended, from its exit status and what was written before."""

from __future__ import annotations

import pickle
import sys

import pytest

from sdcffi import NativeCrashError
from sdcffi._process.crash import crash_error
from sdcffi._process.messages import Crashed

REPORT = """\
library says hello
sdcffi-assert: ggml.c:4393: GGML_ASSERT(a->ne[2] == b->ne[2]) failed
sdcffi-signal: SIGABRT
sdcffi-backtrace:
/lib/libc.so.6(abort+0xd3)[0x7f]
libsdcffi-ggml-base.so(ggml_abort+0x12)[0x7f]

sdcffi-log:
info: stable-diffusion.cpp:1 - generating
debug: ggml.c:1 - a detail
sdcffi-end
sdcffi-signal: SIGABRT
and goodbye
"""

signals = pytest.mark.skipif(sys.platform == "win32", reason="signals by number")


@signals
def test_a_report_of_the_guard_is_taken_apart() -> None:
    error = crash_error(Crashed(-6, REPORT), ("info: by the pipe",), {"steps": 4})
    assert str(error).startswith("the engine's process was ended by SIGABRT: ggml.c:4393: GGML_ASSERT(a->ne[2]")
    assert (error.signal, error.exit_code) == ("SIGABRT", -6)
    assert error.assertion == "ggml.c:4393: GGML_ASSERT(a->ne[2] == b->ne[2]) failed"
    assert [frame.partition("(")[0] for frame in error.backtrace] == ["/lib/libc.so.6", "libsdcffi-ggml-base.so"]
    assert error.log == ("info: by the pipe",)
    assert error.output == REPORT
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, NativeCrashError)
    assert (str(copy), vars(copy)) == (str(error), vars(error))
    assert copy.parameters == {"steps": 4}


def test_log_lines_that_did_not_come_through_the_pipe_are_taken_from_the_report() -> None:
    error = crash_error(Crashed(-6, REPORT), (), None)
    assert error.log == ("info: stable-diffusion.cpp:1 - generating", "debug: ggml.c:1 - a detail")


@pytest.mark.parametrize(
    ("code", "output", "message"),
    [
        (
            1,
            "libthing: I give up\n",
            "exited with status 1; its last output was: libthing: I give up",
        ),
        (0, "", "exited with status 0"),
        pytest.param(-9, "", "ended by SIGKILL: .*out-of-memory killer", marks=signals),
        pytest.param(-11, "x" * 5000, f"ended by SIGSEGV; its last output was: {'x' * 1000}$", marks=signals),
        pytest.param(-63, "", "ended by signal 63", marks=signals),
        (0xC0000005, "sdcffi-signal: 0xC0000005\nsdcffi-backtrace:\nsdcffi-end\n", "ended by 0xC0000005"),
    ],
)
def test_every_end_has_its_reason(code: int, output: str, message: str) -> None:
    with pytest.raises(NativeCrashError, match=message):
        raise crash_error(Crashed(code, output), (), None)
