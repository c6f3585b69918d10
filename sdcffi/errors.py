"""Exceptions and warnings for failures of the engine, the build and the machine.

A caller's mistake (a value out of range, a wrong type) is a `ValueError` or `TypeError`. Where Python has an exception
(a path that does not exist, a time limit, memory that ran out), ours is that one too.
All classes here are plain data and can be pickled.
"""

from __future__ import annotations

from ._public import public

__all__ = [
    "BackendUnavailableError",
    "BuildError",
    "CancelledError",
    "DownloadError",
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
    "OutputError",
    "PathNotFoundError",
    "SDError",
    "UnsupportedParameterError",
]


@public
class SDError(Exception):
    """Base of all errors of sdcffi.

    Its text is the message alone, which a service may show to its clients. A traceback shows the log's lines below it
    (since Python 3.11), as notes.

    Parameters
    ----------
    message : str
        What failed, then what to do.
    log : tuple of str
        Last lines of the native log, oldest first. Empty if no native code ran.
    """

    def __init__(self, message: str, log: tuple[str, ...] = ()) -> None:
        Exception.__init__(self, message, log)  # not OSError's, of which some are: it takes two arguments otherwise
        self.message = message
        self.log = log
        if log:
            self.__notes__ = [f"native log, last {len(log)} lines:", *(f"  {line}" for line in log)]

    def __str__(self) -> str:
        return self.message


@public
class BuildError(SDError):
    """The native library could not be built. The message names the missing piece and how to get it."""


@public
class LibraryNotFoundError(SDError, FileNotFoundError):
    """No usable native library was found. The message lists each candidate and why it was refused."""


@public
class LayoutMismatchError(SDError):
    """The library, its declarations and its manifest come from different builds."""


@public
class BackendUnavailableError(SDError):
    """The requested compute backend is not available on this machine."""


@public
class NativeError(SDError):
    """Native code raised an exception.

    With ``isolated=False`` the engine cannot be used any more. Else its next call loads the model again.
    """


@public
class NativeAssertError(NativeError):
    """An assertion of the engine failed. The message has its expression, file and line."""


@public
class OutOfMemoryError(NativeError, MemoryError):
    """Memory could not be allocated or, with ``memory_check="strict"``, is expected not to suffice."""


@public
class NativeCrashError(SDError):
    """The child process that runs the native code has crashed. The calling process is unharmed.

    The engine's next call starts a new child process, unless the engine was opened with ``restart="never"``.

    Attributes
    ----------
    signal : str or None
        Signal that ended it, such as ``"SIGSEGV"``. None if it exited by itself.
    exit_code : int or None
        Exit status as in `subprocess`: negative for a signal. None if no process was started.
    assertion : str
        Failed assertion with file and line. Empty if no assertion failed.
    backtrace : tuple of str
        Native frames, innermost first. Empty if the system could not report them.
    output : str
        What the process wrote to its standard output and error during the call.
    parameters : object
        Parameters of the call: an `ImageParams`, a `ContextParams`, a tuple of `Lora`, ...
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
    """The engine reported that generation, upscaling or preprocessing failed."""


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
class OutputError(SDError, OSError):
    """A file could not be written. The message says why, and on the command line where the result is instead.

    In Python, the result that was to be saved is unharmed: it can be saved to another place.
    """


@public
class DownloadError(SDError, OSError):
    """A file that was given by reference could not be downloaded. The message says why, and what to do."""


@public
class LoraWarning(UserWarning):
    """A LoRA was applied in part only, or not at all, or was made for another family of models."""


@public
class LoraQualityWarning(LoraWarning):
    """A LoRA is applied to weights of at most five bits, so its effect is imprecise."""


@public
class CancelledError(SDError):
    """The call was cancelled by ``cancel()``, or with its asyncio task."""


@public
class GenerationTimeoutError(SDError, TimeoutError):
    """The call took longer than its ``timeout``."""


@public
class UnsupportedParameterError(SDError, ValueError):
    """A parameter is set that the built engine does not have, or to a name that it does not know."""
