"""Runs in a frozen program before its main module: if it was started as an engine's child process, it is one."""

import sys

sys._sdcffi_serves_children = True  # type: ignore[attr-defined]  # see sdcffi._process.frozen


def _serve() -> None:
    if "-c" not in sys.argv[1:4]:
        return
    at = sys.argv.index("-c")
    if "sdcffi._process.child" in sys.argv[at + 1]:
        program, sys.argv = sys.argv[at + 1], ["-c", *sys.argv[at + 2 :]]
        exec(program, {"__name__": "__main__"})
        sys.exit()


_serve()
