"""The program `sdcffi`, also ``python -m sdcffi``: it holds what must be so before the command line is imported."""

from __future__ import annotations

import os
import sys

__all__ = ["main"]

_INTERRUPTED = 130


def main() -> int:
    """Run the command line; see `sdcffi.cli.main`."""
    try:
        _open_standard_descriptors()
        from .cli import main as run

        return run()
    except KeyboardInterrupt:  # while it imports; later the command line says so itself
        print("sdcffi: error: interrupted", file=sys.stderr)
        return _INTERRUPTED


def _open_standard_descriptors() -> None:
    """Open those that the caller has closed: otherwise a file that is written takes the place of standard output."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != descriptor:
                os.dup2(nothing, descriptor)
                os.close(nothing)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, closefd=False, errors="backslashreplace"))  # noqa: SIM115


if __name__ == "__main__":
    sys.exit(main())
