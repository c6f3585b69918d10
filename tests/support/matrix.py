"""The backend matrix: what is generated on every backend and CPU variant, and the table of the results.

`test_matrix` has a test for each row; here are the rows, the cases, and the options and the table of pytest.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sdcli import Pixels
from tables import table
from tiny_model import TinyModel
from train_demo.drawings import Ground, single
from train_demo.measure import judge

from sdcffi import Engine, Upscaler
from sdcffi._build.backends import GPUS
from sdcffi._files import replacing
from sdcffi.demo import SETTINGS, demo_model
from sdcffi.images.compare import compare

X86 = (
    *("x64", "sse42", "sandybridge", "ivybridge", "piledriver", "haswell", "alderlake", "skylakex", "cannonlake"),
    *("cascadelake", "icelake", "cooperlake", "zen4", "sapphirerapids"),
)
ARM = ("armv8.0_1", "armv8.2_1", "armv8.2_2", "armv8.2_3", "armv8.6_1", "armv8.6_2", "armv9.2_1", "armv9.2_2")
_APPLE = ("apple_m1", "apple_m2_m3", "apple_m4")
_VARIANTS = {"x86_64": X86, "AMD64": X86, "aarch64": ARM, "arm64": _APPLE}

VARIANTS = _VARIANTS.get(platform.machine(), ())
"""The variants of a portable build for this kind of processor, the plainest first; what it has is checked."""

ROWS = ("cpu", *(f"cpu:{name}" for name in VARIANTS), *GPUS)
"""``"cpu"`` is the package's own build; all others are compared with the plainest variant."""

DRAW: dict[str, Any] = {"prompt": "a cat", "width": 64, "height": 64, "steps": 2, "cfg_scale": 1.0, "seed": 7}
PROMPT, SCENE = "a green circle on a blue background", single("circle", "green", Ground("plain", ("blue",)))

Case = Callable[["Drawer"], list[Pixels]]


@dataclass(frozen=True)
class Models:
    """What generates the images."""

    by_type: Mapping[str, TinyModel]
    network: Path


@dataclass(frozen=True)
class Drawer:
    """Generates the cases on a backend of a build."""

    models: Models
    library: Path
    word: str

    def engine(self, weights: str = "f16", **keywords: Any) -> Engine:
        arguments = self.models.by_type[weights].engine_arguments()
        return Engine(**{**arguments, "library": self.library, "backend": self.word, "threads": 2, **keywords})


# --- the cases: each gives images that are the same wherever they are generated ---


def _drawn(engine: Engine, **more: Any) -> list[Pixels]:
    return [pixels.copy() for pixels in engine.generate(**{**DRAW, **more}).arrays]


def _typed(weights: str) -> Case:
    def case(drawer: Drawer) -> list[Pixels]:
        with drawer.engine(weights) as engine:
            return _drawn(engine)

    return case


def _image_to_image(drawer: Drawer) -> list[Pixels]:
    start = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    with drawer.engine() as engine:
        return _drawn(engine, init_image=start, strength=0.6)


def _lora(mode: str) -> Case:
    def case(drawer: Drawer) -> list[Pixels]:
        with drawer.engine("q8_0", lora_apply_mode=mode) as engine:
            without = _drawn(engine)
            result = engine.generate(**DRAW, loras=[drawer.models.by_type["q8_0"].lora])
            with_it = [pixels.copy() for pixels in result.arrays]
        assert result.loras[0].applied == result.loras[0].total > 0
        assert compare(without[0], with_it[0]).psnr < 40, "the LoRA changes nothing"
        return with_it

    return case


def _batch(drawer: Drawer) -> list[Pixels]:
    with drawer.engine() as engine:
        pictures = _drawn(engine, batch_count=2)
    assert len(pictures) == 2
    assert not np.array_equal(*pictures)
    return pictures


def _upscaled(drawer: Drawer) -> list[Pixels]:
    small = np.random.default_rng(3).integers(0, 256, (24, 32, 3), np.uint8)
    with Upscaler(drawer.models.network, library=drawer.library, backend=drawer.word, threads=2) as upscaler:
        return [upscaler.upscale(small).array.copy()]


def _again(drawer: Drawer) -> list[Pixels]:
    """Twice by one engine, and once more when it was closed and opened again."""
    with drawer.engine() as engine:
        pictures = _drawn(engine) + _drawn(engine)
    with drawer.engine() as engine:
        pictures += _drawn(engine)
    if drawer.word.startswith("cpu"):
        assert all(np.array_equal(pixels, pictures[0]) for pixels in pictures), "not the same bit for bit"
    return pictures


def _two_at_once(drawer: Drawer) -> list[Pixels]:
    with drawer.engine() as one, drawer.engine() as other, ThreadPoolExecutor() as pool:
        first, second = pool.map(_drawn, (one, other))
    return first + second


def _words(drawer: Drawer) -> list[Pixels]:
    """The trained model generates what the prompt says."""
    with Engine(**demo_model(), library=drawer.library, backend=drawer.word, threads=2) as engine:
        pictures = [engine.generate(PROMPT, seed=42, **SETTINGS).arrays[0].copy()]
    verdict = judge(pictures[0], SCENE)
    assert verdict.right, verdict
    return pictures


CASES: dict[str, Case] = {
    "f16": _typed("f16"),
    "q8_0": _typed("q8_0"),
    "q4_0": _typed("q4_0"),
    "image to image": _image_to_image,
    "LoRA at_runtime": _lora("at_runtime"),
    "LoRA immediately": _lora("immediately"),
    "batch": _batch,
    "upscale": _upscaled,
    "again, reopened": _again,
    "two engines": _two_at_once,
    "words": _words,
}
_TITLES = {"words": "checked prompts"}
SMALL = ("f16", "upscale")
"""What a software device is asked for: it compiles its shaders for minutes."""

CPU_BOUND = 45.0
GPU_BOUNDS = {"f16": 40.0, "q8_0": 40.0, "q4_0": 35.0}
"""dB. A GPU's own kernels round activations to 8 bits before quantised weights, and sum in another order.

Seen: an H200 54, 53 and 48 dB, Mesa's llvmpipe 46 dB in f16.
"""


def bound(word: str, case: str) -> float:
    """How like the plainest CPU's an image must be, in dB."""
    if word.startswith("cpu"):
        return CPU_BOUND
    return GPU_BOUNDS.get(case, GPU_BOUNDS["q8_0" if case.startswith("LoRA") or case == "words" else "f16"])


# --- a row of the table ---


@dataclass
class Row:
    """What came of one backend or variant."""

    word: str
    device: str = ""
    reason: str = ""
    failed: bool = False
    psnr: dict[str, float | None] = field(default_factory=dict)  # None: equal
    seconds: dict[str, float] = field(default_factory=dict)


def drawn_row(row: Row, drawer: Drawer, reference: Callable[[str], list[Pixels]], cases: tuple[str, ...]) -> list[str]:
    """Generate the cases into a row, and give what went wrong."""
    wrong = []
    for name in cases:
        started = time.perf_counter()
        try:
            pictures = CASES[name](drawer)
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__}: {error}")
            continue
        row.seconds[name] = round(time.perf_counter() - started, 2)
        psnr = min(compare(*both).psnr for both in zip(pictures, reference(name), strict=True))
        row.psnr[name] = None if psnr == float("inf") else round(psnr, 1)
        if psnr < bound(row.word, name):
            wrong.append(f"{name}: {psnr:.1f} dB from the plainest CPU's image, of {bound(row.word, name)} at least")
    row.failed, row.reason = bool(wrong), "; ".join(wrong)
    return wrong


def only_its_driver_crashed(row: Row, wrong: list[str]) -> bool:
    """Whether all that went wrong in the row of a software device are crashes, and an image was right.

    Mesa 22.3.6 corrupts memory in the autoencoder of 9 of 10 runs, whichever kernels ggml is told to use. A crash on a
    real device is ours, and so is a wrong image on any.
    """
    return bool(wrong and row.psnr) and all(": NativeCrashError: " in line for line in wrong)


# --- pytest's options, and its table at the end ---

_PROPERTY = "backend matrix"


def add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("backend matrix")
    group.addoption(
        "--require-backend",
        action="append",
        default=[],
        choices=ROWS,
        metavar="NAME",
        help="fail where this backend or CPU variant (cuda, cpu:haswell, ...) cannot be had; may be repeated",
    )
    group.addoption("--backend-table", type=Path, metavar="STEM", help="write the matrix to STEM.json and STEM.md")


def record(request: pytest.FixtureRequest, row: Row) -> None:
    """Hand a row to the table: it travels with the test's report, from other processes too."""
    request.node.user_properties.append((_PROPERTY, asdict(row)))


def _rows(terminalreporter: Any) -> Iterator[Row]:
    reports = [report for kind in ("passed", "failed", "skipped") for report in terminalreporter.getreports(kind)]
    found = {
        value["word"]: Row(**value)
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == _PROPERTY and report.when == "call"
    }
    yield from (found[word] for word in ROWS if word in found)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = list(_rows(terminalreporter))
    if not rows:
        return
    terminalreporter.section("backend matrix")
    for row in rows:
        terminalreporter.write_line(f"{row.word}: {_told(row)}")
    if stem := config.getoption("--backend-table"):
        content = {"date": date.today().isoformat(), "machine": _machine(), "rows": [asdict(row) for row in rows]}
        for path, text in (
            (stem.with_suffix(".json"), json.dumps(content, indent=1) + "\n"),
            (stem.with_suffix(".md"), markdown(rows)),
        ):
            with replacing(path) as temporary:
                temporary.write_text(text, "utf-8")
            terminalreporter.write_line(f"written: {path}")


def _told(row: Row) -> str:
    likeness = ", ".join(f"{name} {_cell(row, name)}" for name in row.psnr)
    return " - ".join(part for part in (row.device, "FAILED" if row.failed else "", likeness, row.reason) if part)


def _cell(row: Row, case: str) -> str:
    if case not in row.psnr:
        return ""
    psnr = row.psnr[case]
    return "equal" if psnr is None else f"{psnr:.0f} dB"


def _machine() -> str:
    return f"{platform.system()} {platform.machine()}"


def markdown(rows: list[Row]) -> str:
    """The table for the documentation: rows that were run, and why the others were not."""
    drawn, absent = [row for row in rows if row.psnr], [row for row in rows if not row.psnr]
    head = ["backend", "device", *(_TITLES.get(name, name) for name in CASES), "seconds (f16)", "remarks"]
    lines = [
        "# Backend matrix",
        "",
        "This page has what the same cases gave on every backend and CPU variant.",
        "[Backends](backends.md#the-same-image-everywhere) describes the cases.",
        "",
        "```sh",
        "python -m pytest -m backend --backend-table my-machine   # writes such a page: my-machine.md",
        "```",
        "",
        f"{date.today().isoformat()}, {_machine()}. PSNR against the images of `cpu:{VARIANTS[0]}`; equal means bit for"
        " bit. Seconds include loading, on two threads.",
        "",
        table(head, [_line(row) for row in drawn]),
    ]
    if absent:
        lines += ["", table(["backend", "why it was not run"], [[f"`{r.word}`", r.reason] for r in absent])]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> list[str]:
    seconds = f"{row.seconds['f16']:.1f}" if "f16" in row.seconds else ""
    return [f"`{row.word}`", row.device, *(_cell(row, name) for name in CASES), seconds, row.reason]
