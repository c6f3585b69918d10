"""SDXL's pooled text: OpenCLIP's matrix and its transpose are told apart, and an empty negative prompt is zeros.

Of the model only the way from the pooled text to the image has values. The text encoder's last norm has the weight 0,
so that what is projected is that norm's bias whatever the text, and numpy can project it instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
import sd1_model
import sdxl_model
import text_shapes
from full_size import write_zeros
from safetensors.numpy import load_file, save_file
from sdcli import THREADS, Pixels

from sdcffi import Engine, convert
from sdcffi.images.compare import compare

Values = npt.NDArray[Any]
OPEN = "conditioner.embedders.1.model."
_FIRST = "conditioner.embedders.0.transformer."
OWN = "cond_stage_model.1.transformer.text_model."  # the engine's names
FUSED = "encoder.layers.0.self_attn.in_proj.weight"
WIDTH = 64
RENAMED = {
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
}  # as transformers has them


# --- conversion ---


def original(matrix: Values) -> dict[str, Values]:
    fused = np.zeros((3 * WIDTH, WIDTH), np.float16)
    return {f"{OPEN}text_projection": matrix, f"{OPEN}transformer.resblocks.0.attn.in_proj_weight": fused}


FORMS: dict[str, Any] = {
    "original": original,
    "original in single precision": lambda matrix: original(matrix.astype(np.float32)),
    "linear layer in original names": lambda matrix: {
        **original(matrix),
        f"{OPEN}text_projection.weight": np.ascontiguousarray(matrix.T),
    },
    "diffusers": lambda matrix: {"te2.text_projection.weight": np.ascontiguousarray(matrix.T)},
    "SD3": lambda matrix: {"text_encoders.clip_g.transformer.text_projection.weight": np.ascontiguousarray(matrix.T)},
    "converted of the original": lambda matrix: {
        f"{OWN}text_projection": matrix,
        f"{OWN}{FUSED}": np.zeros((3 * WIDTH, WIDTH), np.float16),
    },
    "converted of diffusers": lambda matrix: {f"{OWN}text_projection": np.ascontiguousarray(matrix.T)},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_converted_file_has_a_linear_layer_s_weight_by_its_name(form: str, tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float16)
    tensors = FORMS[form](matrix)
    if form.startswith("linear"):
        del tensors[f"{OPEN}text_projection"]
    save_file(tensors, tmp_path / "in.safetensors")
    once = convert(
        tmp_path / "in.safetensors", tmp_path / "once.safetensors", type="f16", convert_name=True, isolated=False
    )
    twice = convert(once, tmp_path / "twice.safetensors", type="f16", convert_name=True, isolated=False)
    for path in (once, twice):
        ((name, written),) = ((name, value) for name, value in load_file(path).items() if "text_projection" in name)
        assert name.endswith(".transformer.text_projection.weight")
        assert np.array_equal(written, matrix.T)


def test_a_quantised_matrix_is_transposed_too(tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "in.gguf", "")
    for name, value in original(matrix).items():
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quantize(value.astype(np.float32), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path = convert(tmp_path / "in.gguf", tmp_path / "out.safetensors", type="f32", convert_name=True, isolated=False)
    (written,) = (value for name, value in load_file(path).items() if "text_projection" in name)
    assert np.abs(written - matrix.T).max() < 0.03


def test_names_that_are_kept_keep_the_matrix(tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float16)
    save_file(original(matrix), tmp_path / "in.safetensors")
    path = convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", type="f16", isolated=False)
    assert np.array_equal(load_file(path)[f"{OPEN}text_projection"], matrix)


# --- images ---

BIAS, MATRIX = (
    np.random.default_rng(3).standard_normal(shape).astype(np.float16).astype(np.float32)
    for shape in ((1280,), (1280, 1280))
)
MATRIX /= np.float32(32)  # exact in half precision
PROJECTED = (BIAS @ MATRIX).astype(np.float32)


def way_to_the_image(tensors: Mapping[str, tuple[int, ...]]) -> dict[str, Values]:
    """The U-Net's path from the pooled text through its last block."""
    rng, unet = np.random.default_rng(0), sd1_model.UNET
    block = f"{unet}output_blocks.8.0."
    gains = {
        **{f"{unet}label_emb.0.{i}.weight": 8.0 for i in (0, 2)},
        f"{block}emb_layers.1.weight": 4.0,
        **{f"{block}{part}.weight": 1.0 for part in ("in_layers.2", "out_layers.3", "skip_connection")},
        **{f"{unet}{part}.weight": 1.0 for part in ("out.2", "input_blocks.0.0")},
    }
    values: dict[str, Values] = {}
    for name, gain in gains.items():
        shape = tensors[name]
        values[name] = rng.standard_normal(shape, np.float32) * np.float32(gain / np.sqrt(np.prod(shape[1:])))
    norms = (f"{block}in_layers.0", f"{block}out_layers.0", f"{unet}out.0")
    return {**values, **{f"{norm}.weight": np.ones(tensors[f"{norm}.weight"]) for norm in norms}}


def checkpoint(path: Path, values: Mapping[str, Values], names: str = "original") -> Path:
    """SDXL with these values in its second text encoder, in the original's names, diffusers' or the engine's own."""
    tensors = dict(sdxl_model.vega().tensors)
    if names != "original":
        prefix = "te2." if names == "diffusers" else "cond_stage_model.1.transformer."
        tensors = {name: shape for name, shape in tensors.items() if not name.startswith(OPEN)}
        tensors |= {prefix + name: shape for name, shape in text_shapes.clip_g().items()}
        own = {"text_projection.weight": "text_model.text_projection"} if names == "engine" else {}
        if own:
            del tensors[f"{prefix}text_projection.weight"]
            tensors[f"{prefix}text_model.text_projection"] = (1280, 1280)
        encoder = {prefix + own.get(RENAMED[name], RENAMED[name]): value for name, value in values.items()}
    else:
        encoder = {OPEN + name: value for name, value in values.items()}
    return write_zeros(tensors, path, way_to_the_image(tensors) | encoder)


def directory(path: Path, values: Mapping[str, Values]) -> Path:
    """The checkpoint in diffusers' names, as diffusers saves it: a file for each network."""
    layout = sdxl_model.vega()
    image = way_to_the_image(layout.tensors)
    encoders = {
        "text_encoder": {
            name.removeprefix(_FIRST): shape for name, shape in layout.tensors.items() if name.startswith(_FIRST)
        },
        "text_encoder_2": text_shapes.clip_g(),
    }
    second = {RENAMED[name]: value for name, value in values.items()}
    for part, tensors in encoders.items():
        (path / part).mkdir(parents=True)
        write_zeros(tensors, path / part / "model.safetensors", second if part == "text_encoder_2" else {})
    (path / "unet").mkdir()
    names = {
        f"{sd1_model.UNET}{module.original}.{kind}": f"{module.name}.{kind}"
        for module in layout.modules
        for kind in ("weight", "bias")
        if module.part == "unet"
    }
    unet = {names[name]: shape for name, shape in layout.tensors.items() if name in names}
    drawn = {names[name]: value for name, value in image.items()}
    write_zeros(unet, path / "unet" / "diffusion_pytorch_model.safetensors", drawn)
    return path


def generate(model: Path, taesd: Path, *calls: Mapping[str, Any]) -> list[Pixels]:
    call = {"prompt": "a cat", "width": 64, "height": 64, "steps": 1, "cfg_scale": 1.0, "seed": 1}
    with Engine(model=model, taesd=taesd, threads=THREADS, backend="cpu") as engine:
        return [engine.generate(**{**call, **other}).arrays[0].copy() for other in calls]


@pytest.fixture(scope="module")
def taesd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sd1_model.write_taesd(tmp_path_factory.mktemp("taesd") / "taesd.safetensors")


@pytest.fixture(scope="module")
def expected(taesd: Path, tmp_path_factory: pytest.TempPathFactory) -> Pixels:
    """The image for what numpy projected: the matrix is 1, which is its own transpose."""
    given: dict[str, Values] = {"ln_final.bias": PROJECTED, "text_projection": np.eye(1280)}
    return generate(checkpoint(tmp_path_factory.mktemp("sdxl") / "one.safetensors", given), taesd, {})[0]


@pytest.mark.slow
@pytest.mark.parametrize("names", ["original", "diffusers", "engine", "directory"])
def test_the_pooled_text_is_projected_as_numpy_does(names: str, expected: Pixels, taesd: Path, tmp_path: Path) -> None:
    matrix = MATRIX if names == "original" else MATRIX.T
    values = {"ln_final.bias": BIAS, "text_projection": matrix}
    if names == "directory":
        model = directory(tmp_path / "model", values)
    else:
        model = checkpoint(tmp_path / "model.safetensors", values, names)
    (made,) = generate(model, taesd, {})
    assert made.std() > 10
    assert compare(made, expected).psnr > 50


@pytest.mark.slow
def test_without_a_negative_prompt_the_pooled_part_is_zeros_too(taesd: Path, tmp_path: Path) -> None:
    """Only the positions where the texts "" and "a cat" end have values, so that the pooled text of "cat" is zeros."""
    positions = np.zeros((77, 1280), np.float32)
    positions[[1, 3]] = np.random.default_rng(4).standard_normal((2, 1280))
    values: dict[str, Values] = {
        "ln_final.weight": np.ones(1280),
        "positional_embedding": positions,
        "text_projection": MATRIX,
    }
    model = checkpoint(tmp_path / "model.safetensors", values)
    guided = {"cfg_scale": 4.0}
    empty, zeros, other = generate(
        model, taesd, *({**guided, "negative_prompt": text} for text in ("", "cat", "a cat"))
    )
    assert np.array_equal(empty, zeros)
    assert not np.array_equal(empty, other)
