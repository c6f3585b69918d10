"""Convert model files to another weight type."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ._bindings.requests import Conversion, Opening
from ._conversion_check import check_writable, check_written, source_tensors
from ._files import replacing
from ._machine.backends import CPU
from ._models.files import read_file
from ._models.weight_types import check_rules, check_type
from ._process.calls import run_alone
from .events import Listeners

if TYPE_CHECKING:
    from .events import LogFunction, ProgressFunction
    from .params.struct import StrPath

__all__ = ["convert"]


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
        Model file: one file, whose header is read first.
    output : path
        File to write: ``.gguf``, or ``.safetensors`` for f32, f16 and bf16. It is written to a temporary name, read
        again, and moved if it holds every tensor in the type asked for, or in its own where the engine keeps that:
        biases, norms, some small layers, and what does not divide into the type's blocks.
    type : str
        Weight type, such as ``"q8_0"``, ``"q4_0"``, ``"f16"``.
    vae : path, optional
        Autoencoder to put into the file too, under names that begin with ``vae.``.
    tensor_type_rules : str, optional
        Weight types by tensor name: ``"regex=type,..."``; the first pattern found in a name counts.
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
        If the engine cannot convert the file, or what it wrote is not what was asked for; nothing is kept.
    """
    source, target = Path(input).expanduser(), Path(output).expanduser()
    model = read_file("input", source)
    autoencoder = None if vae is None else read_file("vae", Path(vae))
    check_type("type", type)
    check_rules("tensor_type_rules", tensor_type_rules)
    if target.suffix not in (".gguf", ".safetensors"):
        raise ValueError(f"output must end in .gguf or .safetensors, not {target.name!r}")
    if not target.parent.is_dir():
        raise ValueError(f"directory {target.parent} does not exist")
    check_writable(target, type, tensor_type_rules)
    tensors = source_tensors(model, autoencoder)
    with replacing(target) as temporary:
        request = Conversion(
            source,
            temporary,
            type,
            autoencoder.path if autoencoder else None,
            tensor_type_rules or "",
            convert_name,
        )
        listeners = Listeners(on_log, on_progress)
        run_alone(
            Opening(library, CPU),
            "convert",
            request,
            isolated=isolated,
            listeners=listeners,
            timeout=timeout,
        )
        check_written(temporary, tensors, type, tensor_type_rules, renamed=convert_name)
    return target
