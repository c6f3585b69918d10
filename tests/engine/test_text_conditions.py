"""What language models make of a prompt, against numpy's: padding, rotary positions, the layouts of files.

The prompts' tokens are those of Hugging Face's `tokenizers`, with the vocabularies that the models' authors published.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import text_shapes
import transformer_shapes
import wan_model
from conditions import text_conditions
from families import ernie, ovis, z_image
from full_size import write_zeros
from language_models import Rotation, llama_cpp_rows, states
from safetensors.numpy import load_file
from sparse import Shape, opened_tensor, random_rows, write_random
from tiny_model import write_model

Array = npt.NDArray[Any]
DATA = Path(__file__).parents[1] / "data"
PROMPT = "a cat on a red chair"
CAT = [1097, 7990, 1408, 1261, 4804, 13971]  # the prompt, in Mistral's tokens
TOKENS = json.loads((DATA / "prompt_tokens.json").read_text("utf-8"))
OVIS, FLUX2, Z_IMAGE = TOKENS["ovis"], TOKENS["flux2 dev"], TOKENS["z_image"]
LONG = 70  # times the prompt: 421 tokens, far enough for YaRN to tell
MISTRAL, MINISTRAL = Rotation(1e9), Rotation(1e6, factor=16)


def error_db(found: Array, expected: Array) -> float:
    """Signal to error, in dB."""
    return float(10 * np.log10((expected**2).sum() / ((found - expected) ** 2).sum()))


def flux2_dev(directory: Path) -> dict[str, Path]:
    shapes = transformer_shapes.flux2(transformer_shapes.TEXT, guided=True, single=48).beginning(
        "model.diffusion_model."
    )
    return {
        "diffusion_model": write_random(shapes, directory / "flux2.safetensors"),
        "llm": write_random(text_shapes.ministral(transformer_shapes.TEXT), directory / "mistral.safetensors"),
        "taesd": write_model(directory).taesd,
    }


def as_llama_cpp(path: Path, target: Path) -> Path:
    """A language model of Mistral's in the names and the layout of llama.cpp."""
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "model.layers.": "blk.",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    file = wan_model.Weights(0)
    for name, values in load_file(path).items():
        if ".q_proj" in name or ".k_proj" in name:
            values = llama_cpp_rows(values, len(values) // 128)
        for old, new in names.items():
            name = name.replace(old, new)
        file.tensors[name] = np.ascontiguousarray(values)
    return file.write(target)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Mapping[str, Any]]:
    made: dict[str, Mapping[str, Any]] = {}
    write = {"ovis": lambda at: ovis(at).engine, "ernie": lambda at: ernie(at).engine, "flux2 dev": flux2_dev}

    def files(family: str) -> Mapping[str, Any]:
        if family not in made:
            made[family] = write[family](tmp_path_factory.mktemp("model"))
        return made[family]

    return files


def test_ovis_has_no_states_of_padding(files: Callable[[str], Mapping[str, Any]]) -> None:
    (found,) = text_conditions(files("ovis"), [PROMPT])
    expected = np.zeros((256, transformer_shapes.TEXT))
    expected[: len(OVIS) - 28] = states(load_file(files("ovis")["llm"]), np.array(OVIS), Rotation(1e6))[28:]
    assert found.shape == expected.shape
    assert error_db(found, expected) > 55


def dense(name: str, shape: Shape, rng: np.random.Generator) -> Array:
    values = np.zeros(shape, np.float16)
    for first, rows in random_rows(name, shape, rng):
        values[first : first + len(rows)] = rows
    return values


@pytest.mark.slow
def test_z_image_has_the_states_before_the_last_layer(tmp_path: Path) -> None:
    """Of Qwen3's 36 layers the first and the last have values; its template leaves room for thoughts."""
    shapes, rng = text_shapes.qwen3(2560, layers=36), np.random.default_rng(0)
    kept = ("model.layers.0.", "model.layers.35.", "model.norm.")
    values = {name: dense(name, shape, rng) for name, shape in shapes.items() if name.startswith(kept)}
    llm, embedding = tmp_path / "qwen3.safetensors", "model.embed_tokens.weight"
    write_zeros(shapes, llm, values)
    tokens, places = np.unique(Z_IMAGE, return_inverse=True)
    values[embedding] = rng.standard_normal((len(tokens), 2560)).astype(np.float16)
    with opened_tensor(llm, embedding) as table:
        table[tokens] = values[embedding]
    (found,) = text_conditions({**z_image(tmp_path).engine, "llm": llm}, [PROMPT])
    first = {name: value for name, value in values.items() if ".35." not in name}
    expected = states(first, places, Rotation(1e6), normed=False)
    assert found.shape == expected.shape
    assert error_db(found, expected) > 55


@pytest.mark.parametrize("layout", ["Hugging Face", "llama.cpp"])
def test_flux2_dev_is_padded_before_the_text(
    layout: str, files: Callable[[str], Mapping[str, Any]], tmp_path: Path
) -> None:
    given = dict(files("flux2 dev"))
    tokens = np.array([11] * (512 - len(FLUX2)) + FLUX2)
    expected = states(load_file(given["llm"]), tokens, MISTRAL, epsilon=1e-5, mask=tokens != 11)
    if layout == "llama.cpp":
        given["llm"] = as_llama_cpp(given["llm"], tmp_path / "mistral.gguf")
    (found,) = text_conditions(given, [PROMPT])
    assert found.shape == expected.shape
    assert error_db(found[-len(FLUX2) :], expected[-len(FLUX2) :]) > 55
    assert error_db(found, expected) > 55


@pytest.mark.parametrize("layout", ["Hugging Face", "llama.cpp"])
def test_ernie_turns_by_yarn(layout: str, files: Callable[[str], Mapping[str, Any]], tmp_path: Path) -> None:
    given = dict(files("ernie"))
    tokens = np.array([1, *CAT, *(CAT[3:4] + CAT[1:]) * (LONG - 1)])
    expected = states(load_file(given["llm"]), tokens, MINISTRAL, epsilon=1e-5)
    if layout == "llama.cpp":
        given["llm"] = as_llama_cpp(given["llm"], tmp_path / "ministral.gguf")
    (found,) = text_conditions(given, [" ".join([PROMPT] * LONG)])
    assert found.shape == expected.shape
    assert error_db(found, expected) > 55
