"""Convert model files to another weight type."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .._bindings.requests import Conversion, Opening
from .._files import check_directory, replacing
from .._machine.backends import CPU
from .._models.files import ModelFile, read_file
from .._models.headers import Tensor
from .._models.weight_types import check_rules, check_type, parse_rules
from .._process.calls import run_alone
from ..errors import SDError
from ..events import Listeners

if TYPE_CHECKING:
    from ..events import LogFunction, ProgressFunction
    from ..params.struct import StrPath

__all__ = ["check_writable", "check_written", "convert", "source_tensors"]


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
    check_directory(target)
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


_LONGEST_NAME = 127  # bytes; ggml cuts longer ones off
_TYPES_OF_SAFETENSORS = ("f32", "f16", "bf16")  # safetensors_io.cpp writes no others
_KEPT_AS = {"F64": "F32", "I64": "I32", "F8_E4M3": "F16", "F8_E5M2": "F16"}  # what the reader makes of them

# Starts of the names that the engine leaves out: unused_tensors of model.cpp.
_LEFT_OUT = (
    *("betas", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"),
    *("log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"),
    *("posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2"),
    "cond_stage_model.transformer.text_model.embeddings.position_ids",
    "cond_stage_model.1.model.text_model.embeddings.position_ids",
    "cond_stage_model.transformer.vision_model.embeddings.position_ids",
    "cond_stage_model.model.logit_scale",
    "conditioner.embedders.0.transformer.text_model.embeddings.position_ids",
    *("conditioner.embedders.0.model.logit_scale", "conditioner.embedders.1.model.logit_scale"),
    *("model.diffusion_model.time_embedding.cond_proj.weight", "unet.time_embedding.cond_proj.weight"),
    *("model_ema.decay", "model_ema.num_updates", "model_ema.diffusion_model"),
    *("embedding_manager", "denoiser.sigmas", "ztsnr", "edm_vpred.sigma_min", "first_stage_model.bn."),
    "text_encoders.t5xxl.transformer.encoder.embed_tokens.weight",
    *("text_encoders.llm.output.weight", "text_encoders.llm.lm_head."),
)
_LEFT_OUT_BY_NEW_NAME = ("position_ids", "logit_scale")  # where the names are converted first


def source_tensors(source: ModelFile, vae: ModelFile | None) -> dict[str, Tensor] | None:
    """Give the tensors that go in, under the names they keep; None where only the engine can read them.

    Raises
    ------
    ValueError
        If a name cannot be kept.
    """
    files = [file for file in (source, vae) if file]
    if any(file.format == "torch" for file in files):
        return None
    tensors = dict(source.tensors)
    if vae:
        tensors |= {name if name.startswith("vae.") else f"vae.{name}": item for name, item in vae.tensors.items()}
    if too_long := next((name for name in tensors if len(name.encode()) > _LONGEST_NAME), None):
        raise ValueError(f"input: {source.path}: the name {too_long!r} has more than {_LONGEST_NAME} bytes")
    return tensors


def check_writable(target: Path, type: str, rules: str | None) -> None:
    """Refuse weight types that the target's format does not have."""
    if target.suffix == ".safetensors":
        for kind in [type, *(kind for _, kind in parse_rules(rules))]:
            if kind not in _TYPES_OF_SAFETENSORS:
                legal = ", ".join(_TYPES_OF_SAFETENSORS)
                raise ValueError(f"type {kind!r} goes into a .gguf file only; legal in .safetensors: {legal}")


def check_written(
    path: Path, source: Mapping[str, Tensor] | None, type: str, rules: str | None, *, renamed: bool
) -> None:
    """Read a written file's header: every tensor must be there, of its size, and of the type asked for or its own.

    The engine leaves biases, some small layers, and what does not divide into a type's blocks as they were; it
    quantises no single row.

    Raises
    ------
    SDError
        With the tensor that is not as it should be.
    """
    try:
        written = read_file("output", path).tensors
    except ValueError as error:
        raise SDError(f"what was written cannot be read again: {error}") from error
    if source is not None and renamed:
        _check_counts(written.values(), source)
    elif source is not None:
        _check_names(written, source)
    patterns = parse_rules(rules)
    reached = False
    for name, tensor in written.items():
        wanted = next((kind for pattern, kind in patterns if pattern.search(name)), type).upper()
        reached = reached or tensor.dtype == wanted
        kept = None if source is None else _kept(source.values() if renamed else [source[name]])
        if kept is not None and tensor.dtype != wanted and tensor.dtype not in kept:
            legal = " or ".join(sorted({wanted, *kept}))
            raise SDError(f"tensor {name!r} was written as {tensor.dtype}, not as {legal}")
    if not reached:
        raise SDError(
            f"no tensor could be written as {type}: biases, single rows, and what does not fit its blocks cannot"
        )


def _kept(tensors: Iterable[Tensor]) -> set[str]:
    return {_KEPT_AS.get(tensor.dtype, tensor.dtype) for tensor in tensors}


def _check_names(written: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    missing = [name for name in source if name not in written and not name.startswith(_LEFT_OUT)]
    strange = [name for name in written if name not in source]
    if missing or strange:
        names = ", ".join([*missing, *strange][:3])
        raise SDError(f"{len(missing)} tensors were not written, {len(strange)} others were: {names}")
    for name, tensor in written.items():
        if math.prod(tensor.shape) != math.prod(source[name].shape):
            raise SDError(f"tensor {name!r} was written with shape {tensor.shape}, not {source[name].shape}")


def _check_counts(written: Iterable[Tensor], source: Mapping[str, Tensor]) -> None:
    missing = Counter(math.prod(tensor.shape) for tensor in source.values())
    missing.subtract(math.prod(tensor.shape) for tensor in written)
    allowed = sum(name.startswith(_LEFT_OUT) or name.endswith(_LEFT_OUT_BY_NEW_NAME) for name in source)
    if min(missing.values()) < 0 or missing.total() > allowed:
        raise SDError(f"of {len(source)} tensors {len(source) - missing.total()} were written, under other names")
