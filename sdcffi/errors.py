"""Every exception that sdcffi raises for native or environmental reasons.

A caller's mistake (a value outside its legal set, a wrong type) is a `ValueError` or `TypeError`. Where Python
has an exception (a path that does not exist, a time limit, memory that ran out), ours is that one too.
All classes here are plain data and can be pickled.
"""

from __future__ import annotations

from ._public import public

__all__ = [
    "BackendUnavailableError",
    "BuildError",
    "CancelledError",
    "GenerationError",
    "GenerationTimeoutError",
    "LayoutMismatchError",
    "LibraryNotFoundError",
    "LoraError",
    "LoraNotFoundError",
    "LoraQualityWarning",
    "LoraWarning",
    "ModelLoadError",
    "NativeAssertError",
    "NativeCrashError",
    "NativeError",
    "OutOfMemoryError",
    "PathNotFoundError",
    "SDError",
    "UnsupportedParameterError",
]


@public
class SDError(Exception):
    """Base of all errors of sdcffi.

    Parameters
    ----------
    message : str
        What failed, what was tried, what to run.
    log : tuple of str
        The last lines of the native log, oldest first; empty where nothing native ran.
    """

    def __init__(self, message: str, log: tuple[str, ...] = ()) -> None:
        Exception.__init__(self, message, log)  # not OSError's, of which some are: it takes two arguments otherwise
        self.message = message
        self.log = log

    def __str__(self) -> str:
        if not self.log:
            return self.message
        lines = "\n".join(f"  {line}" for line in self.log)
        return f"{self.message}\nnative log, last {len(self.log)} lines:\n{lines}"


@public
class BuildError(SDError):
    """The native library could not be built; the message names the missing piece and how to get it."""


@public
class LibraryNotFoundError(SDError, FileNotFoundError):
    """No usable native library; the message lists every candidate with its reason."""


@public
class LayoutMismatchError(SDError):
    """The library, its declarations and its manifest do not belong together."""


@public
class BackendUnavailableError(SDError):
    """The compute backend that was asked for cannot be had here."""


@public
class NativeError(SDError):
    """Native code raised an exception; the engine it happened in cannot be used any more."""


@public
class NativeAssertError(NativeError):
    """An assertion of the engine failed (expression, file and line stand in the message)."""


@public
class OutOfMemoryError(NativeError, MemoryError):
    """Native code could not allocate memory."""


@public
class NativeCrashError(SDError):
    """The process that did the native work has ended; the caller's is as before.

    The engine starts a new one at its next call, unless it was opened with ``restart="never"``.

    Attributes
    ----------
    signal : str or None
        What ended it, such as ``"SIGSEGV"``; None if it exited.
    exit_code : int or None
        Its exit status as `subprocess` has it (negative for a signal); None if nothing was run.
    assertion : str
        The failed assertion with file and line; empty if it was none.
    backtrace : tuple of str
        Native frames, innermost first, where the system could tell.
    output : str
        Everything that it wrote to its standard output and error during the call.
    parameters : object
        The parameters of the call: an `ImageParams`, a `ContextParams`, a tuple of `Lora`, ...
    """

    def __init__(
        self,
        message: str,
        log: tuple[str, ...] = (),
        *,
        signal: str | None = None,
        exit_code: int | None = None,
        assertion: str = "",
        backtrace: tuple[str, ...] = (),
        output: str = "",
        parameters: object = None,
    ) -> None:
        super().__init__(message, log)
        self.signal = signal
        self.exit_code = exit_code
        self.assertion = assertion
        self.backtrace = backtrace
        self.output = output
        self.parameters = parameters


@public
class ModelLoadError(SDError):
    """The engine could not load the model files."""


@public
class GenerationError(SDError):
    """The engine reported that it could not draw the picture."""


@public
class LoraError(SDError):
    """A LoRA file cannot be used."""


@public
class LoraNotFoundError(LoraError, FileNotFoundError):
    """A LoRA file does not exist, or a name means none in ``lora_dir``."""


@public
class PathNotFoundError(ValueError, FileNotFoundError):
    """A file or directory that a caller named does not exist."""

    def __init__(self, message: str) -> None:
        Exception.__init__(self, message)

    def __str__(self) -> str:
        return str(self.args[0])


@public
class LoraWarning(UserWarning):
    """A LoRA was applied in part, or not at all where that was allowed."""


@public
class LoraQualityWarning(LoraWarning):
    """A LoRA meets weights of so few bits that its effect is no longer precise."""


@public
class CancelledError(SDError):
    """The call was stopped because somebody asked for it."""


@public
class GenerationTimeoutError(SDError, TimeoutError):
    """The call took longer than its ``timeout=``."""


@public
class UnsupportedParameterError(SDError):
    """A parameter was set that the built engine does not have."""
