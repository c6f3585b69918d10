"""What is set when a model is loaded acts as it says; that it acts as the same flag of sd-cli is in test_parity.

On a CPU, nothing to see: where weights and parts are kept (offload_to_cpu, clip_on_cpu, vae_on_cpu, control_net_on_cpu)
and max_vram; diffusion_conv_direct finds no convolution in a transformer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import has_field
from sdcli import Pixels
from tiny_model import TinyModel

from sdcffi import ContextParams, Engine, ImageParams, SampleParams, UnsupportedParameterError
from sdcffi.images.compare import compare

OpenEngine = Callable[..., Engine]

DRAW: dict[str, Any] = {"prompt": "a cat", "width": 64, "height": 32, "steps": 2, "cfg_scale": 1.0, "seed": 7}


@dataclass
class Drawn:
    """A picture, and the log from loading on."""

    pixels: Pixels
    log: list[str]

    def says(self, text: str) -> bool:
        return any(text in line for line in self.log)

    def size(self, part: str) -> float:
        """Megabytes of a part's weights."""
        (line,) = (line for line in self.log if "total params memory size" in line)
        return float(line.partition(f"{part} ")[2].partition("MB")[0])


@pytest.fixture
def draw(open_engine: OpenEngine, tiny_model: TinyModel) -> Callable[..., Drawn]:
    """Draws with an engine opened for it, in this process."""

    def draw(call: dict[str, Any] | None = None, model: TinyModel = tiny_model, **keywords: Any) -> Drawn:
        log: list[str] = []
        engine = open_engine(model, isolated=False, on_log=lambda line: log.append(line.text), **keywords)
        return Drawn(engine.generate(**{**DRAW, **(call or {})}).arrays[0].copy(), log)

    return draw


@pytest.fixture(scope="module")
def plain(tiny_model: TinyModel) -> Drawn:
    log: list[str] = []
    with Engine(
        **tiny_model.engine_arguments(),
        threads=1,
        backend="cpu",
        isolated=False,
        on_log=lambda line: log.append(line.text),
    ) as engine:
        return Drawn(engine.generate(**DRAW).arrays[0].copy(), log)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_mapped_weights_stay_in_their_file_which_an_adapter_does_not_change(
    open_engine: OpenEngine, tiny_model: TinyModel
) -> None:
    files = [tiny_model.diffusion_model, tiny_model.llm, tiny_model.taesd]
    before = [path.read_bytes() for path in files]
    engine = open_engine(tiny_model, mmap=True, lora_apply_mode="immediately")
    mapped = Path(f"/proc/{engine.pid}/maps").read_text()
    assert all(str(path) in mapped for path in files)
    pictures = [engine.generate(**DRAW, loras=loras).arrays[0].copy() for loras in ([], [tiny_model.lora], [])]
    copied = open_engine(tiny_model, lora_apply_mode="immediately")
    assert not any(str(path) in Path(f"/proc/{copied.pid}/maps").read_text() for path in files)
    expected = [copied.generate(**DRAW, loras=loras).arrays[0] for loras in ([], [tiny_model.lora], [])]
    assert all(np.array_equal(*pair) for pair in zip(pictures, expected, strict=True))
    assert not np.array_equal(pictures[0], pictures[1])
    assert [path.read_bytes() for path in files] == before


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(not has_field("sd_ctx_params_t", "vae_decode_only"), reason="a manager has the weights")
def test_mapped_weights_of_the_text_encoder_are_given_back_once_the_text_is_encoded(
    open_engine: OpenEngine, tiny_model: TinyModel
) -> None:
    engine = open_engine(tiny_model, mmap=True)
    engine.generate(**DRAW)
    resident = dict.fromkeys(map(str, (tiny_model.diffusion_model, tiny_model.llm)), 0)
    file = ""
    for line in Path(f"/proc/{engine.pid}/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            file = line.split()[-1]
        elif line.startswith("Rss:") and file in resident:
            resident[file] += int(line.split()[1])
    assert resident[str(tiny_model.diffusion_model)] > 100
    assert resident[str(tiny_model.llm)] < tiny_model.llm.stat().st_size / 1024 / 8, (
        "a quarter, if nothing is given back"
    )


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"mmap": True}, "using mmap for I/O"),
        ({"vae_conv_direct": True}, "Using Conv2d direct in the vae model"),
    ],
    ids=str,
)
def test_how_it_is_done_leaves_the_picture_as_it_is(
    changed: dict[str, Any], line: str, draw: Callable[..., Drawn], plain: Drawn
) -> None:
    drawn = draw(**changed)
    assert compare(drawn.pixels, plain.pixels).psnr > 50
    assert drawn.says(line)
    assert not plain.says(line)


@pytest.mark.parametrize(
    ("changed", "everywhere"),
    [({"fa": True}, True), pytest.param({"diffusion_fa": True}, False, marks=pytest.mark.slow)],
)
def test_flash_attention_which_the_cpu_has_anyway_leaves_the_picture_as_it_is(
    changed: dict[str, Any], everywhere: bool, draw: Callable[..., Drawn], plain: Drawn
) -> None:
    drawn = draw(**changed)
    assert compare(drawn.pixels, plain.pixels).psnr > 45
    assert drawn.says("Using flash attention in the diffusion model")
    assert any(line.endswith("Using flash attention") for line in drawn.log) is everywhere


def test_without_an_encoder_less_is_loaded_where_the_engine_can(draw: Callable[..., Drawn], plain: Drawn) -> None:
    context = ContextParams(vae_decode_only=True)
    if not has_field("sd_ctx_params_t", "vae_decode_only"):
        with pytest.raises(UnsupportedParameterError, match=r"cannot do vae_decode_only=True, .* the encoder is"):
            draw(context=context)
        return
    drawn = draw(context=context)
    assert drawn.size("vae") < 0.6 * plain.size("vae")
    assert np.array_equal(drawn.pixels, plain.pixels)


@pytest.mark.parametrize(
    ("keywords", "across", "down"),
    [
        ({"context": ContextParams(circular_x=True)}, True, False),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ({}, False, False),
                ({"circular": True}, True, True),
                ({"context": ContextParams(circular_y=True)}, False, True),
            )
        ),
    ],
    ids=["x", "none", "both", "y"],
)
def test_circular_pictures_meet_at_their_edges(
    keywords: dict[str, Any], across: bool, down: bool, open_engine: OpenEngine, tiny_model: TinyModel
) -> None:
    engine = open_engine(tiny_model, isolated=False, **keywords)
    pictures = np.stack(engine.generate(**{**DRAW, "height": 64, "batch_count": 2}).arrays)
    for axis, meet in ((2, across), (1, down)):
        likeness = np.corrcoef(pictures.take(0, axis).flat, pictures.take(-1, axis).flat)[0, 1]
        assert likeness > 0.6 if meet else likeness < 0.3


@pytest.mark.slow
def test_the_samplers_random_numbers_act_where_it_adds_noise(draw: Callable[..., Drawn], plain: Drawn) -> None:
    ancestral = {"sampler": "euler_a"}
    assert not np.array_equal(draw(ancestral, sampler_rng="cpu").pixels, draw(ancestral).pixels)
    assert np.array_equal(draw(sampler_rng="cpu").pixels, plain.pixels), "euler adds none"


def test_a_prediction_can_be_given(draw: Callable[..., Drawn], plain: Drawn) -> None:
    drawn = draw(prediction="v")
    assert drawn.says("running in v-prediction mode")
    assert not np.array_equal(drawn.pixels, plain.pixels)


@pytest.mark.slow
def test_the_flow_that_is_the_models_own_can_be_given(draw: Callable[..., Drawn], plain: Drawn) -> None:
    assert np.array_equal(draw(prediction="flux_flow").pixels, plain.pixels)


def test_another_flow_that_is_given_has_the_shift_of_its_kind(open_engine: OpenEngine, tiny_model: TinyModel) -> None:
    engine = open_engine(tiny_model, isolated=False, prediction="sd3_flow")
    drawn = [
        engine.generate(**DRAW, scheduler="discrete", params=ImageParams(sample_params=SampleParams(flow_shift=given)))
        .arrays[0]
        .copy()
        for given in (None, 3.0, 2.0)
    ]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_weights_quantised_while_loading_draw_as_the_quantised_file(
    draw: Callable[..., Drawn], models: dict[str, TinyModel], plain: Drawn
) -> None:
    while_loading = draw(type="q8_0")
    from_file = draw(model=models["q8_0"], tensor_type_rules="text_encoders=q8_0,tae=q8_0")
    assert np.array_equal(while_loading.pixels, from_file.pixels)
    assert while_loading.size("diffusion_model") < 0.6 * plain.size("diffusion_model")
    assert not np.array_equal(while_loading.pixels, plain.pixels)


def test_rules_quantise_the_tensors_that_they_name(
    draw: Callable[..., Drawn], models: dict[str, TinyModel], plain: Drawn
) -> None:
    ruled = draw(tensor_type_rules=r"model\.diffusion_model=q8_0")
    assert np.array_equal(ruled.pixels, draw(model=models["q8_0"]).pixels)
    assert ruled.size("diffusion_model") < 0.6 * plain.size("diffusion_model")
    assert ruled.size("text_encoders") == plain.size("text_encoders")
    some = draw(tensor_type_rules=r"double_blocks=q8_0")
    assert ruled.size("diffusion_model") < some.size("diffusion_model") < plain.size("diffusion_model")


def test_a_tiny_autoencoder_for_previews_only_needs_another_for_the_picture(
    draw: Callable[..., Drawn],
) -> None:
    with pytest.raises(ValueError, match="it also needs vae="):
        draw(context=ContextParams(tae_preview_only=True))
