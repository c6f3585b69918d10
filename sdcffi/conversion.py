"""Convert model files to another weight type."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ._calls import run_alone
from ._files import replacing
from ._session import Conversion, Opening
from .events import Listeners

if TYPE_CHECKING:
    from .events import LogFunction, ProgressFunction
    from .params import StrPath

__all__ = ["convert"]

# What the engine can write: others divide by zero or abort in it (no way to quantise to them, or removed types).
_NOT_WRITABLE = frozenset({"q8_1", "q8_K", "i8", "i16", "i32", "i64", "f64"})


def convert(
    input: StrPath,
    output: StrPath,
    *,
    type: str,
    vae: StrPath | None = None,
    tensor_type_rules: str | None = None,
    convert_name: bool = False,
    library: StrPath | None = None,
    isolated: bool = True,
    timeout: float | None = None,
    on_log: LogFunction | None = None,
    on_progress: ProgressFunction | None = None,
) -> Path:
    """Write a model with other weight types.

    Parameters
    ----------
    input : path
        Model file.
    output : path
        File to write: ``.gguf``, or ``.safetensors`` for float types. It is written to a temporary name and moved.
    type : str
        Weight type, such as ``"q8_0"``, ``"q4_0"``, ``"f16"``.
    vae : path, optional
        Autoencoder to put into the file too.
    tensor_type_rules : str, optional
        Weight types by tensor name: ``"regex=type,..."``.
    convert_name : bool
        Write the engine's own tensor names in place of the file's.
    library, isolated, timeout, on_log, on_progress : optional
        As for `Engine`.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    TypeError, ValueError
        For a bad argument, before anything native runs.
    SDError
        If the engine cannot convert the file.
    """
    source, target = Path(input).expanduser(), Path(output).expanduser()
    for path in (source, *([Path(vae).expanduser()] if vae is not None else [])):
        if not path.is_file():
            raise ValueError(f"{path} is not a file")
    if target.suffix not in (".gguf", ".safetensors"):
        raise ValueError(f"output must end in .gguf or .safetensors, not {target.name!r}")
    if not target.parent.is_dir():
        raise ValueError(f"directory {target.parent} does not exist")
    if type in _NOT_WRITABLE:
        raise ValueError(f"type {type!r} cannot be written; it only exists inside the engine")
    with replacing(target) as temporary:
        request = Conversion(
            source,
            temporary,
            type,
            None if vae is None else Path(vae).expanduser(),
            tensor_type_rules or "",
            convert_name,
        )
        listeners = Listeners(on_log, on_progress)
        run_alone(Opening(library), "convert", request, isolated=isolated, listeners=listeners, timeout=timeout)
    return target
