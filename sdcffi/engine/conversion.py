"""`convert`: write a model file with other weight types."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .._bindings.requests import Conversion, Opening
from .._files import check_output, expanded, replacing
from .._machine.backends import CPU
from .._models.companions import strays
from .._models.files import ModelFile, read_file
from .._models.headers import Tensor
from .._models.places import file_at
from .._models.weight_types import IN_SAFETENSORS, check_rules, check_type, parse_rules
from .._process.calls import run_alone
from .._references import local_path
from .._warnings import warn_of_unused
from ..errors import SDError
from ..events import Listeners

if TYPE_CHECKING:
    from ..events import LogFunction, ProgressFunction
    from ..params.struct import StrPath

__all__ = ["check_writable", "convert", "source_tensors"]


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
    """Write a model file with other weight types.

    Parameters
    ----------
    input : path
        Model file, the index of one in parts, a directory with one, or a reference to one, as in `Engine`.
    output : path
        File to write: ``.gguf``, or ``.safetensors`` for f32, f16 and bf16. It is written under a temporary name and
        its header is checked: every tensor must be there, in the requested type, or in its own type if the engine keeps
        that. It keeps biases, norms, some small layers, and tensors that cannot be divided into the type's blocks. Then
        the file is moved to its name.
    type : str
        Weight type, such as ``"q8_0"``, ``"q4_0"``, ``"f16"``.
    vae : path, optional
        Autoencoder to include in the file, under names that begin with ``vae.``. None: none is added.
    tensor_type_rules : str, optional
        Weight types by tensor name: ``"regex=type,..."``. The first pattern that is found in a name applies. None:
        `type` for all.
    convert_name : bool
        True writes the engine's own tensor names. False keeps the file's.
    library, isolated : optional
        As in `Engine`.
    timeout : float, optional
        Time limit for the conversion, in seconds. None: no limit.
    on_log, on_progress : callable, optional
        Functions that are called with each `Log` and each `Progress`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong. No native code has run then.
    SDError
        If the engine cannot convert the file, or wrote something else than requested. No file is left then.
    """
    target = expanded(output, "output")
    type = check_type("type", type)
    tensor_type_rules = check_rules("tensor_type_rules", tensor_type_rules)
    if target.suffix not in (".gguf", ".safetensors"):
        raise ValueError(f"output must end in .gguf or .safetensors, not {target.name!r}")
    check_output(target)
    check_writable(target, type, tensor_type_rules)
    source = file_at("input", local_path(input, "input"))
    model = read_file("input", source)
    autoencoder = None if vae is None else read_file("vae", file_at("vae", local_path(vae, "vae")))
    for file in (model, autoencoder) if autoencoder else (model,):
        warn_of_unused(strays(file.tensors), str(file.path))
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
        _check_written(temporary, tensors, type, tensor_type_rules, renamed=convert_name)
    return target


_LONGEST_NAME = 127  # bytes; ggml truncates longer names (GGML_MAX_NAME is 128)
_KEPT_AS = {"F64": "F32", "I64": "I32", "F8_E4M3": "F16", "F8_E5M2": "F16"}  # the engine's reader converts these types

# Prefixes of the names that the engine leaves out: unused_tensors of model.cpp.
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
    *("embedding_manager", "denoiser.sigmas", "edm_vpred.sigma_min", "first_stage_model.bn."),
    "text_encoders.t5xxl.transformer.encoder.embed_tokens.weight",
    *("text_encoders.llm.output.weight", "text_encoders.llm.lm_head."),
)
_LEFT_OUT_BY_NEW_NAME = ("position_ids", "logit_scale")  # suffixes, if names are converted


def source_tensors(source: ModelFile, vae: ModelFile | None) -> dict[str, Tensor]:
    """Return the tensors of the input files, under the names that they keep.

    Parameters
    ----------
    source : ModelFile
        The model.
    vae : ModelFile or None
        The autoencoder to include. None: none is added.

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    ValueError
        If a name is too long to be kept.
    """
    tensors = dict(source.tensors)
    if vae:
        tensors |= {name if name.startswith("vae.") else f"vae.{name}": item for name, item in vae.tensors.items()}
    if too_long := next((name for name in tensors if len(name.encode()) > _LONGEST_NAME), None):
        raise ValueError(
            f"input: {source.path}: the name {too_long!r} has more than {_LONGEST_NAME} bytes, which ggml would"
            " truncate; rename the tensor"
        )
    return tensors


def check_writable(target: Path, type: str, rules: str | None) -> None:
    """Refuse weight types that the target's format cannot hold.

    Raises
    ------
    ValueError
        With the type and the legal ones.
    """
    if target.suffix == ".safetensors":
        for kind in [type, *(kind for _, kind in parse_rules(rules))]:
            if kind not in IN_SAFETENSORS:
                legal = ", ".join(IN_SAFETENSORS)
                raise ValueError(f"type {kind!r} needs a .gguf file; legal in .safetensors: {legal}")


def _check_written(path: Path, source: Mapping[str, Tensor], type: str, rules: str | None, *, renamed: bool) -> None:
    """Check the header of a written file: every tensor must be there, with its size, in the requested type or its own.

    The engine keeps the type of biases, some small layers, single rows, and tensors that cannot be divided into the
    type's blocks.

    Parameters
    ----------
    path : Path
        The written file.
    source : mapping of str to Tensor
        Tensors of the input.
    type : str
        Requested weight type.
    rules : str or None
        Weight types by tensor name.
    renamed : bool
        True compares only sizes, because the engine has changed the names.

    Raises
    ------
    SDError
        With the tensor that is wrong.
    """
    try:
        written = read_file("output", path).tensors
    except ValueError as error:
        raise SDError(f"the written file cannot be read again: {error}") from error
    if renamed:
        _check_counts(written.values(), source)
    else:
        _check_names(written, source)
    patterns = parse_rules(rules)
    reached = False
    for name, tensor in written.items():
        wanted = next((kind for pattern, kind in patterns if pattern.search(name)), type).upper()
        reached = reached or tensor.dtype == wanted
        kept = _kept(source.values() if renamed else [source[name]])
        if tensor.dtype != wanted and tensor.dtype not in kept:
            legal = " or ".join(sorted({wanted, *kept}))
            raise SDError(f"tensor {name!r} was written as {tensor.dtype}, not as {legal}")
    if not reached:
        raise SDError(
            f"no tensor could be written as {type}: the engine keeps biases, single rows, and tensors that do not"
            " divide into the type's blocks; use another type"
        )


def _kept(tensors: Iterable[Tensor]) -> set[str]:
    return {_KEPT_AS.get(tensor.dtype, tensor.dtype) for tensor in tensors}


def _check_names(written: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    missing = [name for name in source if name not in written and not name.startswith(_LEFT_OUT)]
    strange = [name for name in written if name not in source]
    if missing or strange:
        names = ", ".join([*missing, *strange][:3])
        raise SDError(f"the written file lacks {len(missing)} tensors and has {len(strange)} unexpected ones: {names}")
    for name, tensor in written.items():
        if math.prod(tensor.shape) != math.prod(source[name].shape):
            raise SDError(f"tensor {name!r} was written with shape {tensor.shape}, not {source[name].shape}")


def _check_counts(written: Iterable[Tensor], source: Mapping[str, Tensor]) -> None:
    missing = Counter(math.prod(tensor.shape) for tensor in source.values())
    sizes = [math.prod(tensor.shape) for tensor in written]
    missing.subtract(sizes)
    allowed = sum(name.startswith(_LEFT_OUT) or name.endswith(_LEFT_OUT_BY_NEW_NAME) for name in source)
    if min(missing.values()) < 0 or missing.total() > allowed:
        found = len(source) - (+missing).total()
        raise SDError(f"the written file has {len(sizes)} tensors; {found} match the input's {len(source)} by size")
