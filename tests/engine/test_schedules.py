"""Noise levels are those of the authors' programs: each spacing over each kind of model, and each family's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sd1_model
from families import FAMILIES, SD2
from full_size import Layout, open_clip, unet
from native_sampling import RefusedError, context_of, names, prediction, schedule
from reference_schedules import (
    GITS,
    SPACINGS,
    Table,
    edm_table,
    empirical_mu,
    evenly,
    flow_table,
    linear_mu,
    own_levels,
    published_ays,
    published_gits,
    sd_table,
    shifted,
    spaced,
)
from shift_models import SHIFTED

from sdcffi import Engine, ImageParams, SampleParams

STEPS = (1, 2, 5, 12, 30)
SIZES = ((1024, 1024), (512, 768), (2048, 1536))
WAN_SIZES = ((832, 480), (480, 832), (1280, 720), (720, 1280))
# A prediction of the engine's, and its table. A shift that is given is an exponent for flux_flow.
TABLES = {
    "eps": (sd_table(), None),
    "v": (sd_table(), None),
    "edm_v": (edm_table(), None),
    "sd3_flow": (flow_table(3.0, 1000), 3.0),
    "flux_flow": (flow_table(float(np.exp(1.15)), 10_000), 1.15),
}
QUICK = ("flux", "ovis", "flux2")  # under a second
FAMILY_NAMES = ("sd3", "flux", "chroma", "ovis", "flux2", "qwen_image", "z_image", "anima", "ernie", "wan_t2v")
REFUSED = {
    "eps": {"flux", "flux2", "ltx2", "logit_normal"},
    "edm_v": {"flux", "flux2", "ltx2", "logit_normal", "ays", "gits"},
    "flow": {"ays", "gits"},
}


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A small model of Stable Diffusion 1's kind for each prediction."""
    place = tmp_path_factory.mktemp("sd1")
    files = {
        "model": sd1_model.write(sd1_model.small().tensors, place / "small.safetensors"),
        "taesd": sd1_model.write_taesd(place / "taesd.safetensors"),
    }
    with ExitStack() as stack:
        yield {name: stack.enter_context(context_of(files, prediction=name)) for name in TABLES}


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("kind", TABLES)
def test_a_spacing_is_that_of_its_author(spacing: str, kind: str, contexts: dict[str, Any]) -> None:
    table, shift = TABLES[kind]
    for steps in STEPS:
        found = schedule(contexts[kind], spacing, steps, flow_shift=shift)
        assert np.allclose(found, [*_expected(spacing, steps, table), 0.0], rtol=2e-5, atol=1e-7), steps


def _expected(spacing: str, steps: int, table: Table) -> Any:
    if table.at_time and spacing == "discrete":
        return [table.at_time(t) for t in evenly(steps)]
    return spaced(spacing, steps, table)


@pytest.mark.parametrize("kind", ["eps", "v"])
def test_ays_and_gits_have_the_levels_that_were_published(kind: str, contexts: dict[str, Any]) -> None:
    """Between them too: AYS publishes ten steps, GITS up to twenty."""
    for steps in (1, 2, 7, 10, 13, 20, 30):
        assert np.allclose(schedule(contexts[kind], "ays", steps), [*published_ays("sd1", steps), 0.0], rtol=5e-5)
    for steps in (*GITS, 21, 30):
        assert np.allclose(schedule(contexts[kind], "gits", steps), [*published_gits(steps), 0.0], rtol=5e-5), steps


@pytest.mark.slow
def test_ays_has_other_levels_for_sdxl_and_none_for_stable_diffusion_2(tmp_path: Path) -> None:
    with context_of(dict(FAMILIES["sdxl"](tmp_path).engine)) as context:
        for steps in (1, 2, 7, 10, 13, 20, 30):
            assert np.allclose(schedule(context, "ays", steps), [*published_ays("sdxl", steps), 0.0], rtol=5e-5)
    layout = Layout()
    open_clip(layout.named("text_encoder", "cond_stage_model.model."), 1024, 24)
    unet(layout, SD2)
    taesd = sd1_model.write_taesd(tmp_path / "taesd.safetensors")
    second = {"model": layout.write(tmp_path / "sd2.safetensors"), "taesd": taesd}
    with context_of(second) as context, pytest.raises(RefusedError, match="ays with 10 steps gives no noise levels"):
        schedule(context, "ays", 10)


@pytest.mark.parametrize("kind", ["eps", "edm_v", "sd3_flow", "flux_flow"])
def test_every_spacing_is_computed_or_refused(kind: str, contexts: dict[str, Any]) -> None:
    said = prediction(contexts[kind])
    assert said == ("flow" if kind.endswith("flow") else kind)
    for spacing in names("scheduler_t"):
        if spacing in REFUSED[said]:
            with pytest.raises(
                RefusedError, match=f"the scheduler {spacing} has no noise levels for a model of {said}"
            ):
                schedule(contexts[kind], spacing, 8)
            continue
        found = schedule(contexts[kind], spacing, 8)
        assert (len(found), found[-1]) == (9, 0.0)
        assert np.all(np.diff(found) < 0)


def test_beta_keeps_its_steps_apart_where_rounding_would_merge_them(contexts: dict[str, Any]) -> None:
    found = schedule(contexts["eps"], "beta", 200)
    assert (len(found), bool(np.all(np.diff(found) < 0))) == (201, True)


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILY_NAMES]
)
def test_the_default_is_the_familys_own(family: str, tmp_path: Path) -> None:
    model = FAMILIES[family](tmp_path)
    with context_of(dict(model.engine)) as context:
        for size in SIZES:
            for steps in (1, 4, 28):
                expected = [*own_levels(family, steps, *size), 0.0]
                for scheduler in (None, "discrete"):
                    found = schedule(context, scheduler, steps, size)
                    assert np.allclose(found, expected, rtol=3e-5), (size, steps, scheduler)


@pytest.mark.parametrize("kind", [pytest.param(name, marks=pytest.mark.slow) for name in SHIFTED])
def test_the_default_is_that_of_the_kind_of_model(kind: str, tmp_path: Path) -> None:
    """FLUX.1 schnell, and what Wan's models are made for, which their files show."""
    with context_of(dict(SHIFTED[kind](tmp_path))) as context:
        for size in (*SIZES, *WAN_SIZES):
            for steps in (1, 4, 28):
                found = schedule(context, None, steps, size)
                assert np.allclose(found, [*own_levels(kind, steps, *size), 0.0], rtol=3e-5), (size, steps)


def test_a_shift_that_is_given_rules(tmp_path: Path) -> None:
    with context_of(dict(FAMILIES["flux2"](tmp_path).engine)) as context:
        found = schedule(context, None, 10, flow_shift=0.5)
        assert np.allclose(found[:-1], shifted(float(np.exp(0.5)), evenly(10)), rtol=2e-5)


def test_the_schedules_of_flux_by_name_follow_the_size(tmp_path: Path) -> None:
    if not {"flux", "flux2"} <= set(names("scheduler_t")):
        pytest.skip("this engine does not name them")
    model = FAMILIES["flux"](tmp_path)
    with context_of(dict(model.engine)) as context:
        for name, mu in (("flux", linear_mu(32 * 48)), ("flux2", empirical_mu(32 * 48, 9))):
            found = schedule(context, name, 9, (512, 768), flow_shift=3.0)
            assert np.allclose(found[:-1], shifted(float(np.exp(mu)), evenly(9)), rtol=2e-5)


def test_more_noise_levels_than_steps_are_counted_from_an_image_too(shared: Engine) -> None:
    levels = ImageParams(sample_params=SampleParams(custom_sigmas=[1.0, 0.8, 0.6, 0.5, 0.3, 0.2, 0.0]))
    image = np.random.default_rng(4).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    call: dict[str, Any] = {
        "width": 64,
        "height": 64,
        "seed": 5,
        "cfg_scale": 1.0,
        "init_image": image,
        "strength": 0.5,
    }
    few, right = (shared.generate("a cat", steps=steps, params=levels, **call).arrays[0] for steps in (2, 6))
    assert np.array_equal(few, right)
