"""Prompts of models without CLIP, or with more encoders: text stays text, and is cut where the authors cut it."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sd1_model
import text_shapes
import tiny_model
import transformer_shapes
from full_size import Shape, write_zeros

from sdcffi import EncoderTokens, Engine, PromptTokens


def flux_schnell() -> dict[str, Shape]:
    shapes = transformer_shapes.flux()
    return {name: shape for name, shape in shapes.items() if not name.startswith("guidance_in.")}


# The encoders of each family, and the transformer's shapes.
MODELS: dict[str, tuple[Callable[[], dict[str, Shape]], dict[str, dict[str, Shape]]]] = {
    "sd3": (transformer_shapes.sd3, {"clip_l": text_shapes.clip_l(), "t5xxl": text_shapes.t5xxl()}),
    "flux": (transformer_shapes.flux, {"clip_l": text_shapes.clip_l(), "t5xxl": text_shapes.t5xxl()}),
    "flux schnell": (flux_schnell, {"clip_l": text_shapes.clip_l(), "t5xxl": text_shapes.t5xxl()}),
    "chroma": (transformer_shapes.chroma, {"t5xxl": text_shapes.t5xxl()}),
    "wan": (transformer_shapes.wan, {"t5xxl": text_shapes.t5xxl(256_384)}),
    "ovis": (transformer_shapes.ovis, {"llm": text_shapes.qwen3(transformer_shapes.TEXT)}),
    "qwen_image": (transformer_shapes.qwen_image, {"llm": text_shapes.qwen2_vl()}),
    "z_image": (transformer_shapes.z_image, {"llm": text_shapes.qwen3(2560)}),
    "anima": (transformer_shapes.anima, {"llm": text_shapes.qwen3(1024)}),
    "ernie": (transformer_shapes.ernie, {"llm": text_shapes.ministral(transformer_shapes.TEXT)}),
}
# The most tokens of each encoder as the pipelines of diffusers 0.42 have it, and how many more their template has.
LIMITS: dict[str, dict[str, tuple[int | None, int]]] = {
    "sd3": {"clip_l": (77, 0), "t5xxl": (256, 0)},
    "flux": {"clip_l": (77, 0), "t5xxl": (512, 0)},
    "flux schnell": {"clip_l": (77, 0), "t5xxl": (256, 0)},
    "chroma": {"t5xxl": (512, 0)},
    "wan": {"t5xxl": (512, 0)},
    "ovis": {"llm": (256, 28)},
    "qwen_image": {"llm": (1024, 34)},
    "z_image": {"llm": (512, 0)},
    "anima": {"llm": (512, 0), "t5xxl": (512, 0)},
    "ernie": {"llm": (None, 0)},
}
SLOW = ("wan", "qwen_image", "anima", "ernie")  # large vocabularies
FAMILIES = pytest.mark.parametrize(
    "family", [pytest.param(family, marks=pytest.mark.slow if family in SLOW else ()) for family in MODELS]
)
NOTE = "this model has no weights in prompts: brackets, numbers and BREAK are taken as text"


@pytest.fixture(scope="module")
def engine_of() -> Iterator[Callable[[str], Engine]]:
    """A family's engine, of names and shapes only."""
    made: dict[str, Engine] = {}
    with tempfile.TemporaryDirectory() as directory:

        def engine_of(family: str) -> Engine:
            if family not in made:
                place = Path(directory) / family
                place.mkdir()
                made[family] = open_model(family, place)
            return made[family]

        yield engine_of
        for engine in made.values():
            engine.close()


def open_model(family: str, directory: Path) -> Engine:
    shapes, encoders = MODELS[family]
    files: dict[str, Any] = {key: write_zeros(text, directory / f"{key}.safetensors") for key, text in encoders.items()}
    diffusion = write_zeros(shapes(), directory / "diffusion.safetensors")
    vae = sd1_model.write_taesd(directory / "taesd.safetensors", 16)
    if family == "ernie":
        name = "x_embedder.proj.weight"
        files["model"] = write_zeros({f"model.diffusion_model.{name}": shapes()[name]}, directory / "width.safetensors")
    return Engine(
        diffusion_model=diffusion, **files, taesd=vae, backend="cpu", threads=1, load_weights=False, memory_check="off"
    )


def encoder_of(found: PromptTokens, name: str) -> EncoderTokens:
    return next(encoder for encoder in found.encoders if encoder.encoder == name)


def ids_of(found: PromptTokens) -> dict[str, tuple[int, ...]]:
    return {encoder.encoder: encoder.chunks[0].ids for encoder in found.encoders}


def text_of(encoder: EncoderTokens) -> str:
    return "".join(token.text for token in encoder.chunks[0].tokens)


@FAMILIES
def test_brackets_and_break_are_text_of_weight_1(family: str, engine_of: Callable[[str], Engine]) -> None:
    engine = engine_of(family)
    found = engine.tokens("(c) 2024 [x] BREAK (cat:1.3) dog")
    assert found.notes == (NOTE,)
    for encoder in found.encoders:
        (chunk,) = encoder.chunks
        assert {token.weight for token in chunk.tokens} == {1}
        text = re.sub(r"\s", "", text_of(encoder).lower())
        assert "(c)2024[x]break(cat:1.3)dog" in text


@FAMILIES
def test_a_plain_bracket_is_no_reason_for_a_warning(family: str, engine_of: Callable[[str], Engine]) -> None:
    assert engine_of(family).tokens("(c) 2024, a [cat] at 12:30").notes == ()


@FAMILIES
def test_a_text_is_cut_at_its_authors_limit_and_named(family: str, engine_of: Callable[[str], Engine]) -> None:
    words = [f"cat{number}" for number in range(700)]
    found = engine_of(family).tokens(" ".join(words))
    for name, (limit, template) in LIMITS[family].items():
        encoder = encoder_of(found, name)
        (chunk,) = encoder.chunks
        if limit is None:
            assert encoder.limit is None
            assert not encoder.cut
            assert len(chunk.tokens) > 2000
            continue
        assert encoder.limit == limit + template == len(chunk.tokens)
        assert any(name in note and f"takes {encoder.limit}" in note for note in found.notes)
        kept = re.sub(r"[\s\u2581]", "", text_of(encoder))
        cut = re.sub(r"[\s\u2581]", "", encoder.cut)
        if template or family == "z_image":  # the cut takes the template's end too
            cut = cut.partition("<|")[0]
            assert "".join(words) in kept + cut
        else:
            kept = kept.removeprefix("<|startoftext|>").removesuffix("</s>").removesuffix("<|endoftext|>")
            assert kept + cut == "".join(words)


@pytest.mark.parametrize("family", ["flux", "chroma"])
def test_a_character_that_t5_lacks_is_named_once(family: str, engine_of: Callable[[str], Engine]) -> None:
    found = engine_of(family).tokens("a cat 猫 with a 猫 and {brackets}")
    encoder = encoder_of(found, "t5xxl")
    assert "猫" in encoder.unknown
    assert encoder.unknown.count("猫") == 1
    assert [note for note in found.notes if "vocabulary of t5xxl" in note] == list(found.notes)


def test_the_template_and_the_prompt_are_one_text(engine_of: Callable[[str], Engine]) -> None:
    """A line feed at the prompt's start joins the template's, as where the whole is tokenized."""
    (encoder,) = engine_of("z_image").tokens("\n\ncat").encoders
    texts = [token.text for token in encoder.chunks[0].tokens]
    assert "\n\n\n" in texts


def test_generation_warns_once_of_what_tokens_notes(tmp_path: Path) -> None:
    model = tiny_model.write_model(tmp_path)
    call: dict[str, Any] = {"width": 64, "height": 64, "steps": 1, "seed": 1}
    prompt = "a (cat:1.3) " + "cat " * 600
    with Engine(**model.engine_arguments(), threads=1, backend="cpu") as engine:
        found = engine.tokens(prompt)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            engine.generate(prompt, negative_prompt="a (dog:1.3)", cfg_scale=2.0, **call)
        assert [str(item.message) for item in caught] == list(found.notes)
        assert found.notes[0] == NOTE
        assert "which takes 512" in found.notes[1]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            plain = engine.generate("a (c) 2024 cat", **call)
            assert engine.generate("a (c) 2024 cat", **call).arrays[0].tolist() == plain.arrays[0].tolist()
            assert engine.generate("a c 2024 cat", **call).arrays[0].tolist() != plain.arrays[0].tolist()
