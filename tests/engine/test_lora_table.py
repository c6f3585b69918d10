"""LoRAs of each style on each family's small model generate the image of the model merged in numpy, in both modes.

A file has a difference for every kind of layer, of all kinds in turn. `tests/_models/test_lora_rows` holds the plans
of all styles and kinds to the same data without an engine.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from families import FAMILIES
from lora_family import DATA, Subject, generate
from lora_images import MODES, psnr
from lora_styles import STYLES, Style
from lora_table import write_style
from sdcli import Pixels

from sdcffi import Engine

pytestmark = pytest.mark.slow

LEAST = 55.0  # dB against the model merged in numpy
# These small models make more of rounding: SD 3's image is at 48.5 dB where the merged weights move by up to one step
# of their half precision. Measured are 50.8 and 51.4, 52.8 and 53.8, 52.1 (at run time; merged 74.0).
LEAST_OF = {"sd3": 48.0, "z_image": 50.0, "chroma": 50.0}
MOST_NONE = 30.0  # dB against no LoRA
MIXED = ("lora", "loha", "lokr", "dora", "diff")
# Of the differences, as part of a weight's norm: less where the model makes much of rounding errors.
STRENGTH = {"sd3": 0.02, "z_image": 0.02, "qwen_image": 0.06}
USUAL = 0.25
QUICK = ("flux", "flux2", "ovis", "ernie")  # in all styles; the others in those below, one for each mode
FEW = {"at_runtime": ("diffusers",), "immediately": ("kohya_diffusers",)}
SOME = {"at_runtime": ("diffusers", "kohya"), "immediately": ("kohya_diffusers", "comfyui")}
NOT_SO_QUICK = ("sd1", "sd2", "qwen_image", "anima")


def styles(family: str, mode: str) -> list[Style]:
    if family in QUICK:
        return [style for style in STYLES.values() if DATA[family] in style.families]
    return [STYLES[name] for name in (SOME if family in NOT_SO_QUICK else FEW)[mode]]


@pytest.fixture(scope="module", params=FAMILIES)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """A family's small model, which is removed afterwards: some are of gigabytes, with holes."""
    directory = tmp_path_factory.mktemp(request.param)
    yield Subject(request.param, directory)
    for path in directory.iterdir():
        path.unlink()


@pytest.fixture(scope="module", params=MODES)
def opened(request: pytest.FixtureRequest, subject: Subject) -> Iterator[tuple[str, Engine]]:
    # The references first, as two models do not fit in the memory of small machines.
    for style in styles(subject.family, request.param):
        reference(subject, style)
    with subject.engine(request.param) as engine:
        if "none" not in subject.images:
            subject.images["none"] = generate(subject.model, engine)[0]
        yield request.param, engine


def reference(subject: Subject, style: Style) -> Pixels:
    if style.uses not in subject.images:
        subject.images[style.uses] = subject.merged(subject.changed(style, MIXED, STRENGTH.get(subject.family, USUAL)))
    return subject.images[style.uses]


def test_styles_generate_as_the_merged_model(subject: Subject, opened: tuple[str, Engine], tmp_path: Path) -> None:
    mode, engine = opened
    wrong: list[str] = []
    strength = STRENGTH.get(subject.family, USUAL)
    for style in styles(subject.family, mode):
        changed = subject.changed(style, MIXED, strength)
        path, total = write_style(changed, style, DATA[subject.family], tmp_path / f"{style}.safetensors")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            image, (report,) = generate(subject.model, engine, path)
        merged = reference(subject, style)
        near, base = psnr(image, merged), psnr(merged, subject.images["none"])
        print(f"{subject.family} {mode} {style}: {near:.1f} dB, without {base:.1f}, {report.applied}/{report.total}")
        if (
            near < LEAST_OF.get(subject.family, LEAST)
            or base > MOST_NONE
            or (report.applied, report.total, report.skipped) != (total, total, ())
        ):
            wrong.append(f"{style}: {near:.1f} dB, without {base:.1f}, {report}")
    assert not wrong, "\n".join(wrong)
