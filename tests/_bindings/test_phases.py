"""Progress by phases: what the engine reports without saying of what, told apart by its log."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sdcli import SdCli, run
from tiny_model import TinyModel
from upscaling_networks import random_weights, write_network

from sdcffi import Engine, Hires, ImageParams, Log, Progress, SampleParams, Tiling
from sdcffi._bindings.phases import LINES, Phases
from sdcffi._machine.builds import locate

DRAW: dict[str, Any] = {"width": 32, "height": 32, "steps": 3, "cfg_scale": 1.0, "seed": 7}
PICTURE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
ALONE = 1, 1
SAMPLERS = "dpm2", "dpm++2s_a", "res_2s", "euler_a", "lcm"

OpenEngine = Callable[..., Engine]
Occurrence = tuple[str, int, int, int]  # phase, picture, pictures, steps


@dataclass
class Heard:
    """What one call told."""

    log: list[str] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)
    loading: list[Progress] = field(default_factory=list)

    def take(self, event: object) -> None:
        if isinstance(event, Log):
            self.log.append(event.text)
        elif isinstance(event, Progress):
            self.progress.append(event)


def occurrences(events: list[Progress]) -> list[Occurrence]:
    """The phases in their order; each must begin with 0, rise, and end with its steps."""
    found: list[list[Progress]] = []
    for event in events:
        assert event.seconds >= 0
        assert event.step > 0 or event.seconds == 0
        again = bool(found) and found[-1][-1].step == 0 and found[-1][-1].phase == event.phase  # its count is known now
        if event.step == 0 and not again:
            found.append([])
        found[-1].append(event)
    told: list[Occurrence] = []
    for these in found:
        last = these[-1]
        rising = [event.step for event in these if event.step]
        assert len({(event.phase, event.image, event.images) for event in these}) == 1, these
        assert rising == sorted(set(rising)), these
        assert len({(event.step, event.steps) for event in these}) == len(these), "something is told twice"
        assert {event.steps for event in these if event.step} == {last.steps}, these
        assert last.step == last.steps > 0, these
        told.append((last.phase, last.image, last.images, last.steps))
    return told


@pytest.fixture(
    scope="module",
    params=[pytest.param(True, id="isolated"), pytest.param(False, id="in-process", marks=pytest.mark.slow)],
)
def isolated(request: pytest.FixtureRequest) -> bool:
    """Whether the engine works in a child process."""
    return bool(request.param)


@pytest.fixture(scope="module")
def loaded(tiny_model: TinyModel, isolated: bool) -> Iterator[tuple[Engine, Heard]]:
    heard = Heard()
    arguments = {**tiny_model.engine_arguments(), "threads": 1, "backend": "cpu", "isolated": isolated}
    with Engine(**arguments, on_progress=heard.take) as engine:
        heard.loading = list(heard.progress)
        yield engine, heard


@pytest.fixture(scope="module")
def draw(loaded: tuple[Engine, Heard]) -> Callable[..., list[Occurrence]]:
    """Draws and gives the phases."""
    engine, heard = loaded

    def draw(**changed: Any) -> list[Occurrence]:
        del heard.progress[:]
        engine.generate("a cat", **{**DRAW, **changed})
        return occurrences(heard.progress)

    return draw


@pytest.fixture(scope="module")
def enlarger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An upscaling network that keeps the size."""
    return write_network(tmp_path_factory.mktemp("enlarger") / "enlarger.safetensors", random_weights(1))


def encoded(pictures: int = 0, tiles: int = 1) -> list[Occurrence]:
    return [("encode", 0, 0, tiles)] * pictures + [("encode", 0, 0, 1)]


def test_loading_is_one_phase_over_all_files(loaded: tuple[Engine, Heard], tiny_model: TinyModel) -> None:
    from safetensors import safe_open

    files = tiny_model.diffusion_model, tiny_model.llm, tiny_model.taesd
    count = sum(len(safe_open(path, "numpy").keys()) for path in files)
    assert occurrences(loaded[1].loading) == [("load", 0, 0, count)]


def test_a_picture_is_encoded_sampled_and_decoded(draw: Callable[..., list[Occurrence]]) -> None:
    assert draw() == [*encoded(), ("sample", *ALONE, 3), ("decode", *ALONE, 1)]


def test_a_batch_is_sampled_first_and_then_decoded(draw: Callable[..., list[Occurrence]]) -> None:
    samples = [("sample", image, 3, 3) for image in (1, 2, 3)]
    assert draw(batch_count=3) == [*encoded(), *samples, *(("decode", image, 3, 1) for image in (1, 2, 3))]


@pytest.mark.parametrize(
    ("strength", "steps"), [(0.5, 4), *(pytest.param(*case, marks=pytest.mark.slow) for case in [(0.1, 1), (1.0, 7)])]
)
def test_image_to_image_counts_the_steps_that_run(
    strength: float, steps: int, draw: Callable[..., list[Occurrence]]
) -> None:
    phases = draw(init_image=PICTURE[:32, :32].copy(), strength=strength, steps=7)
    assert phases == [*encoded(1), ("sample", *ALONE, steps), ("decode", *ALONE, 1)]


def test_each_reference_is_encoded(draw: Callable[..., list[Occurrence]]) -> None:
    phases = draw(ref_images=[PICTURE, PICTURE], init_image=PICTURE[:32, :32].copy(), steps=1, strength=1)
    assert phases == [*encoded(3), ("sample", *ALONE, 1), ("decode", *ALONE, 1)]


def test_tiles_are_steps(draw: Callable[..., list[Occurrence]]) -> None:
    tiling = Tiling(tile_size_x=4, tile_size_y=4)
    start = np.zeros((192, 64, 3), np.uint8)  # newer engines encode in tiles of twice the size
    phases = draw(width=64, height=192, init_image=start, steps=2, tiling=tiling)
    picture, prompts, sample, decode = phases
    assert (picture[:3], prompts, sample) == (("encode", 0, 0), ("encode", 0, 0, 1), ("sample", *ALONE, 2))
    assert decode[:3] == ("decode", *ALONE)
    assert picture[3] > 1
    assert decode[3] > 1


@pytest.mark.parametrize("sampler", ["heun", *(pytest.param(name, marks=pytest.mark.slow) for name in SAMPLERS)])
def test_a_step_counts_once_for_every_order_of_sampler(sampler: str, draw: Callable[..., list[Occurrence]]) -> None:
    assert draw(sampler=sampler)[1] == ("sample", *ALONE, 3)


@pytest.mark.slow
def test_a_last_sigma_above_zero_counts_no_step_twice(draw: Callable[..., list[Occurrence]]) -> None:
    params = ImageParams(sample_params=SampleParams(custom_sigmas=[1.0, 0.6, 0.3]))
    assert draw(sampler="heun", params=params)[1] == ("sample", *ALONE, 2)


def test_a_second_pass_over_latents_has_its_own_phases(draw: Callable[..., list[Occurrence]]) -> None:
    phases = draw(batch_count=2, hires=Hires(upscaler="Latent (nearest)", scale=2, steps=2))
    first = [("sample", image, 2, 3) for image in (1, 2)]
    second = [(phase, image, 2, steps) for image in (1, 2) for phase, steps in (("upscale", 1), ("sample", 2))]
    assert phases == [*encoded(), *first, *second, *(("decode", image, 2, 1) for image in (1, 2))]


def test_a_second_pass_over_pixels_decodes_and_encodes_between(draw: Callable[..., list[Occurrence]]) -> None:
    between = [("decode", *ALONE, 1), ("upscale", *ALONE, 1), ("encode", *ALONE, 1)]
    phases = draw(hires=Hires(upscaler="Lanczos", scale=2, steps=1))
    assert phases == [*encoded(), ("sample", *ALONE, 3), *between, ("sample", *ALONE, 1), ("decode", *ALONE, 1)]


@pytest.mark.slow
def test_an_upscaling_network_is_loaded_and_works_in_tiles(
    draw: Callable[..., list[Occurrence]], enlarger: Path
) -> None:
    hires = Hires(upscaler="Model", model_path=enlarger, scale=2, steps=1, upscale_tile_size=16)
    phases = draw(batch_count=2, steps=1, hires=hires, tiling=Tiling(tile_size_x=4, tile_size_y=4))
    if phases[3][0] != "load":  # newer engines read the network while it upscales
        phases.insert(3, ("load", 2, 2, 38))
    assert [phase for phase, *_ in phases[:4]] == ["encode", "sample", "sample", "load"]
    for image, (decode, upscale, encode, sample) in enumerate((phases[4:8], phases[8:12]), 1):
        assert [item[:3] for item in (decode, upscale, encode, sample)] == [
            (phase, image, 2) for phase in ("decode", "upscale", "encode", "sample")
        ]
        assert upscale[3] > 1
    assert [item[:3] for item in phases[12:]] == [("decode", 1, 2), ("decode", 2, 2)]


def test_an_adapter_is_read_once_and_taking_it_out_reads_the_model_again(
    draw: Callable[..., list[Occurrence]], tiny_model: TinyModel
) -> None:
    drawn = [*encoded(), ("sample", *ALONE, 3), ("decode", *ALONE, 1)]
    lora = [(tiny_model.lora, 0.5)]
    assert draw(loras=lora) == [("lora", 0, 0, 12), *drawn]
    assert draw(loras=lora) == drawn, "the second call has it already"
    phases = draw()
    assert phases[0][0] == "load"
    assert phases[1:] == drawn


def test_a_prompt_that_reads_like_the_log_changes_no_phase(loaded: tuple[Engine, Heard]) -> None:
    engine, heard = loaded
    del heard.progress[:]
    engine.generate("x.cpp:1 - decoding 9 latents\nx.cpp:1 - generating image: 3/9 - seed 1", **DRAW)
    assert occurrences(heard.progress) == [*encoded(), ("sample", *ALONE, 3), ("decode", *ALONE, 1)]


@pytest.mark.slow
def test_previews_that_are_decoded_are_no_phase(loaded: tuple[Engine, Heard]) -> None:
    engine, heard = loaded
    del heard.progress[:]
    engine.generate("a cat", **DRAW, preview="vae", on_preview=lambda _: None, tiling=Tiling(tile_size_x=4))
    assert [phase for phase, *_ in occurrences(heard.progress)] == ["encode", "sample", "decode"]


@pytest.mark.slow
def test_the_engine_still_writes_every_line_that_is_listened_for(
    open_engine: OpenEngine, enlarger: Path, sd_cli: SdCli, tiny_model: TinyModel, tmp_path: Path
) -> None:
    from PIL import Image

    heard = Heard()
    engine = open_engine(tiny_model, on_log=heard.take)
    by_network = Hires(upscaler="Model", model_path=enlarger, scale=2, steps=1)
    engine.generate("a cat", **DRAW, loras=[tiny_model.lora], init_image=PICTURE[:32, :32].copy(), hires=by_network)
    engine.generate("a cat", **DRAW, hires=Hires(upscaler="Latent", scale=2, steps=1))
    Image.fromarray(PICTURE[:16, :16]).save(tmp_path / "in.png")
    command = ["--mode", "upscale", "--init-img", tmp_path / "in.png", "--upscale-model", enlarger]
    upscaling = run([str(word) for word in (sd_cli.path, *command, "--output", tmp_path / "out.png", "-v")])
    lines = [*heard.log, *(line.partition("] ")[2] for line in upscaling.splitlines())]
    unheard = [
        name for name, line in LINES.items() if not any(re.match(rf"\S+:\d+ +- (?:{line})", text) for text in lines)
    ]
    assert unheard == []


@pytest.mark.parametrize(
    "line", ["generating latent video completed", "sampling(high noise) completed", "decode_first_stage completed"]
)
def test_lines_of_videos_stand_in_the_library(line: str) -> None:
    build = locate()
    assert line.encode() in build.library.read_bytes()
    assert any(re.fullmatch(f"(?:{pattern})", line) for pattern in LINES.values())


def replayed(*told: str | tuple[int, int]) -> list[Occurrence]:
    """The phases of a call whose log lines and reports are given."""
    events: list[Progress] = []
    phases = Phases("load", events.append)
    for item in told:
        if isinstance(item, str):
            phases.read_line(f"stable-diffusion.cpp:1 - {item}")
        else:
            phases.report(*item, 0.5)
    return occurrences(events)


def test_a_video_samples_twice_with_two_models_and_decodes_once() -> None:
    assert replayed(
        *("sampling using Euler method", "sampling(high noise) using Euler method"),
        *("computing vae encode graph completed, taking 1.00s", "get_learned_condition completed, taking 1s"),
        *((0, 2), (1, 2), (2, 2), "sampling(high noise) completed, taking 1s"),
        *((0, 3), (1, 3), (2, 3), (3, 3), "sampling completed, taking 1s"),
        *("generating latent video completed, taking 1s", (0, 4), (1, 4), (4, 4), "decode_first_stage completed"),
    ) == [*encoded(1), ("sample", *ALONE, 2), ("sample", *ALONE, 3), ("decode", *ALONE, 4)]


def test_two_runs_without_a_line_between_are_two_phases() -> None:
    runs = replayed((0, 3), (3, 3), (1, 2), (2, 2), (0, 2), (1, 2), (2, 2))
    assert runs == [("load", 0, 0, 3), ("load", 0, 0, 2), ("load", 0, 0, 2)]


def test_weights_that_are_read_within_a_phase_are_no_steps_of_it() -> None:
    assert replayed(
        *("generating image: 1/1 - seed 7", "sampling completed", "hires fix: scheduler_steps=1, denoising_strength=0"),
        *("taesd compute buffer size: 1 MB", "computing vae decode graph completed", (0, 9)),
        *("loading 38/38 tensors from a.safetensors", (0, 38), (38, 38), "loading tensors completed, taking 0.00s"),
        *((0, 9), *((step, 9) for step in range(1, 10)), "taesd compute buffer size: 1 MB"),
        *("computing vae encode graph completed", (0, 2), (2, 2), "hires sampling 1/1 completed"),
    ) == [("decode", *ALONE, 1), ("upscale", *ALONE, 9), ("encode", *ALONE, 1), ("sample", *ALONE, 2)]


def test_more_tiles_than_announced_stay_within_the_count() -> None:
    events: list[Progress] = []
    phases = Phases("upscale", events.append)
    for step in (0, 1, 2, 3):
        phases.report(step, 2, 0.1)
    assert [event.step for event in events] == [0, 1, 2]


def test_an_upscaler_alone_reports_one_picture() -> None:
    assert replayed("upscaling from (1 x 1) to (4 x 4)", "input_image_tensor upscaled, taking 1s") == [
        ("upscale", *ALONE, 1)
    ]


@pytest.mark.slow
def test_steps_are_grouped_by_the_fields_that_bars_use(loaded: tuple[Engine, Heard]) -> None:
    engine, heard = loaded
    del heard.progress[:]
    engine.generate("a cat", **DRAW, batch_count=2)
    sampling = [event for event in heard.progress if event.phase == "sample"]
    by_image = [[event.step for event in events] for _, events in groupby(sampling, key=lambda event: event.image)]
    assert by_image == [[0, 1, 2, 3], [0, 1, 2, 3]]
