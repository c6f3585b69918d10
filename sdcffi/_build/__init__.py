"""Build the native library: sources, toolchain, patches, compilation, manifest, verification.

`main` is the command ``sdcffi build`` and ``python build_native.py``. It needs more packages than the bindings do. If
some are missing, it installs them into a private environment and continues there. So this module imports only the
standard library.
"""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

from ..errors import BuildError
from . import bootstrap

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Run the build command.

    Parameters
    ----------
    argv : list of str
        The arguments, without the program's name.

    Returns
    -------
    int
        Exit status: 0 for success, 1 after an error, 130 after Ctrl-C. Errors are printed on standard error.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if not bootstrap.is_complete():
            if "--dry-run" in argv and (needed := bootstrap.not_installed()):
                print(f"packages: {needed} would be installed first; the rest of the plan is known then")
                return 0
            bootstrap.restart(argv)
        return _run(argv)
    except (BuildError, OSError) as error:
        lines = error.log if isinstance(error, BuildError) else ()
        print("\n  ".join([f"sdcffi: error: {error}", *lines]), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sdcffi: interrupted; the same command continues where this one stopped", file=sys.stderr)
        return 130


def _run(argv: list[str]) -> int:
    from .pipeline import build
    from .plan import make_plan
    from .request import BuildRequest

    request = BuildRequest.from_arguments(argv)
    if request.dry_run:
        print(make_plan(request).describe())
    else:
        build(request)
    return 0


def _interrupt(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
