"""Fuzzing with a fixed seed through the isolated engine, in a process of its own, which stands for the host.

    export PYTHONPATH=tests/models
    python tests/support/fuzzing.py {parameters,engines,loras,parts,conversions} [--count N] [--seed N] [--only CASE]

Each case draws from a generator of its own, so that ``--only`` repeats one. A line for each case that went wrong, then
a summary as JSON. It starts children that serve one engine after another (`Lasting`): a crash may be an earlier case's
doing, ``--only`` reports.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import re
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fuzz_files
import fuzz_parameters
import numpy as np
from fuzz_parameters import Unmade, made
from tiny_model import TinyModel, write_model

from sdcffi import Engine, Hires, LoraError, NativeCrashError, NativeError, Result, SDError, convert
from sdcffi._process import calls as _calls
from sdcffi._process.messages import Failed, Operation
from sdcffi._process.worker import Worker
from sdcffi.errors import CancelledError, GenerationTimeoutError

LIMIT = 30.0  # seconds for a case, on a busy machine; a prompt of thousands of tokens takes some
MEMORY = 12 << 30  # bytes of address space, so that no case takes the machine's
SMALL: dict[str, Any] = {"width": 32, "height": 32, "steps": 1, "cfg_scale": 1.0, "seed": 7}
# Messages of TypeErrors that Python made, not we.
ACCIDENTAL = re.compile(r"not supported between|unsupported operand|object is not|has no attribute|be interpreted")
# Legal values that do not go together.
TOGETHER = re.compile(
    r"mask_image|ref_images|needs init_image|at least 2|cache\.|hires|custom_sigmas|unexpected keyword|no model to load"
    r"|without weights|does not exist|slg|lora|aspect ratios|pixels, the result"
)


class Lasting(Worker):
    """A child that outlives its engine, so that a case does not cost an interpreter's start."""

    MOST_USES = 100

    def __init__(self) -> None:
        super().__init__()
        self._engaged = self._spoiled = False
        self._last: Operation | None = None
        self._uses = 0

    @property
    def alive(self) -> bool:
        return self._engaged and super().alive

    def open(self) -> None:
        if not super().alive:
            super().open()
            self._uses = 0
        self._engaged, self._spoiled, self._last = True, False, None
        self._uses += 1

    def prepare(self, name: str, arguments: tuple[Any, ...]) -> Operation:
        self._note()
        self._last = super().prepare(name, arguments)
        return self._last

    def _note(self) -> None:
        outcome = self._last and self._last.outcome
        self._spoiled |= isinstance(outcome, Failed) and isinstance(outcome.error, NativeError)

    @property
    def _busy(self) -> bool:
        return self._last is not None and self._last.outcome is None

    def close(self) -> None:
        was_engaged, self._engaged = self._engaged, False
        self._note()
        if was_engaged and super().alive and not (self._busy or self._spoiled) and self._uses < self.MOST_USES:
            closing = self.prepare("close", ())
            closing.start()
            closing.wait(LIMIT)
            self._note()
            if not self._busy and not self._spoiled:
                return
        super().close()

    def end(self) -> None:
        """End the child."""
        self._engaged = False
        super().close()


class Accepted(Exception):
    """Not refused, though it should have been."""


def outcome(case: Callable[[], object]) -> tuple[str, str]:
    """Run a case; what became of it in a word, and its message."""
    started = time.monotonic()
    kind, text = _outcome(case)
    if time.monotonic() - started > LIMIT + _calls.GRACE:
        return "hang", f"{time.monotonic() - started:.0f} seconds: {text}"
    return kind, text


def _outcome(case: Callable[[], object]) -> tuple[str, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case()
    except NativeCrashError as error:
        return "crash", " ".join(str(error).split())[:400]
    except (GenerationTimeoutError, CancelledError) as error:
        return "hang", error.message
    except NativeError as error:
        return "native exception", error.message[:400]
    except LoraError as error:
        return "refused", error.message
    except SDError as error:
        return "native refusal", error.message
    except (TypeError, ValueError) as error:
        if ACCIDENTAL.search(str(error)) and "raise " not in (traceback.extract_tb(error.__traceback__)[-1].line or ""):
            return "defect", "".join(traceback.format_exception(error))[-1500:]
        return "refused", str(error)
    except Accepted as error:
        return "silently accepted", str(error)
    except Exception as error:
        return "defect", "".join(traceback.format_exception(error))[-1500:]
    return "accepted", ""


def check_picture(result: Result) -> None:
    """An image that is all white is what NaN becomes."""
    for array in result.arrays:
        if array.shape[2] != 3 or (array == 255).all():
            raise Accepted(f"an image of shape {array.shape}, from {array.min()} to {array.max()}")


# Cases: what each kind of fuzzing does with one generator.

Case = Callable[[random.Random], tuple[Callable[[], object], str]]


@contextmanager
def parameters(model: TinyModel, _directory: Path) -> Iterator[Case]:
    """Calls of `generate`, on one engine."""
    with Engine(**model.engine_arguments(), threads=1, backend="cpu", on_preview=repr) as engine:

        def case(rng: random.Random) -> tuple[Callable[[], object], str]:
            badness = rng.choice([0.0, 0.4, 0.6, 0.9])
            values, legal, bad = fuzz_parameters.drawn(fuzz_parameters.CALL, rng, rng.choice([1, 1, 2, 3, 6]), badness)
            given = {"prompt": "a cat", **SMALL, "steps": 2, "timeout": LIMIT, **values}
            params = values.get("params")
            if isinstance(params, Unmade) and params.values.get("sample_params") and "steps" not in values:
                given["steps"] = None

            def act() -> None:
                check_picture(engine.generate(**{name: made(value) for name, value in given.items()}))

            return judged(act, legal, bad), shown(values)

        yield case


def judged(act: Callable[[], object], legal: bool, bad: bool) -> Callable[[], object]:
    """The same, with the expectation that the values bring."""

    def judge() -> None:
        try:
            act()
        except (NativeCrashError, GenerationTimeoutError):
            raise
        except (TypeError, ValueError, SDError) as error:
            if legal and not TOGETHER.search(str(error)):
                raise AssertionError(f"legal values were refused: {error}") from error
            raise
        if bad:
            raise Accepted("a bad value was taken")

    return judge


def shown(values: dict[str, Any]) -> str:
    """Values in short."""
    with np.printoptions(threshold=4):
        return ", ".join(
            f"{key}={f'array{item.shape}{item.dtype}' if isinstance(item, np.ndarray) else repr(item)[:300]}"
            for key, item in values.items()
        )


@contextmanager
def engines(model: TinyModel, _directory: Path) -> Iterator[Case]:
    """Keywords of `Engine`; what opens also generates."""

    def case(rng: random.Random) -> tuple[Callable[[], object], str]:
        values, legal, bad = fuzz_parameters.drawn(
            fuzz_parameters.ENGINE, rng, rng.choice([1, 1, 2, 3]), rng.choice([0.0, 0.3, 0.5])
        )
        given = {**model.engine_arguments(), "threads": 1, "backend": "cpu", "timeout": LIMIT, **values}

        def act() -> None:
            with Engine(**{name: made(value) for name, value in given.items()}) as engine:
                if given.get("load_weights", True):
                    check_picture(engine.generate("a cat", **SMALL, timeout=LIMIT))

        return judged(act, legal, bad), shown(values)

    yield case


@contextmanager
def loras(model: TinyModel, directory: Path) -> Iterator[Case]:
    """LoRA files: what they would do, and every fourth is generated with."""
    content = fuzz_files.read_content(model.lora)
    with Engine(**model.engine_arguments(), threads=1, backend="cpu", lora_cache=0) as engine:

        def case(rng: random.Random) -> tuple[Callable[[], object], str]:
            path = written(content, directory, rng)
            if rng.random() < 0.75:
                return lambda: engine.check_loras([path], timeout=LIMIT), str(path)
            mode = {"strict": rng.random() < 0.5, "timeout": LIMIT}
            return lambda: engine.generate("a cat", **SMALL, loras=[path], **mode), str(path)

        yield case


def written(content: fuzz_files.Content, directory: Path, rng: random.Random) -> Path:
    """A broken file, under a name that is not used again: readings are remembered by name and time."""
    ending = rng.choice([".safetensors", ".gguf"])
    if ending == ".gguf" and rng.random() < 0.4:
        content = fuzz_files.quantised(content, rng.choice(["Q8_0", "Q4_0"]))
    for old in directory.iterdir():
        old.unlink()
    path = directory / f"{rng.getrandbits(64):x}{ending}"
    path.write_bytes(fuzz_files.broken(content, ending, rng))
    return path


@contextmanager
def parts(model: TinyModel, directory: Path) -> Iterator[Case]:
    """Parts of the model, each in its own and sometimes in another's place; what loads also generates."""
    contents = {name: fuzz_files.read_content(path) for name, path in model.engine_arguments().items()}
    slots = ["diffusion_model", "taesd", "llm", "model", "vae", "control_net", "embeddings", "upscaler"]

    def case(rng: random.Random) -> tuple[Callable[[], object], str]:
        name = rng.choices(list(contents), [6, 1, 4])[0]
        slot = name if rng.random() < 0.8 else rng.choice(slots)
        path = written(contents[name], directory, rng)
        draw, given = dict(SMALL), {**model.engine_arguments(), "threads": 1, "backend": "cpu", "timeout": LIMIT}
        if slot == "upscaler":
            draw["hires"] = Hires(upscaler="Model", model_path=path)
        else:
            given[slot] = {"word": path} if slot == "embeddings" else path
        if slot == "model":
            del given["diffusion_model"]

        def act() -> None:
            with Engine(**{name: made(value) for name, value in given.items()}) as engine:
                engine.generate("a cat", **draw, timeout=LIMIT)

        return act, f"{slot}={path}"

    yield case


@contextmanager
def conversions(model: TinyModel, directory: Path) -> Iterator[Case]:
    """Files converted to each type."""
    contents = [fuzz_files.read_content(path) for path in (model.diffusion_model, model.taesd, model.lora)]
    with tempfile.TemporaryDirectory() as output:

        def case(rng: random.Random) -> tuple[Callable[[], object], str]:
            path = written(rng.choice(contents), directory, rng)
            options = {
                "type": rng.choice(["f32", "f16", "bf16", "q8_0", "q4_0", "q4_K", "tq1_0", "mxfp4", "i32", "q9"]),
                "tensor_type_rules": rng.choice([None, None, None, "img=q8_0", "[=f16", "x=%n", "a=q8_1"]),
                "convert_name": rng.random() < 0.3,
                "vae": rng.choice([None, None, path]),
            }
            target = Path(output) / rng.choice(["a.gguf", "a.gguf", "a.safetensors", "a.bin"])
            return lambda: convert(path, target, timeout=LIMIT, **options), f"{path}, {target}, {shown(options)}"

        yield case


KINDS = {kind.__name__: kind for kind in (parameters, engines, loras, parts, conversions)}
LASTING = {"engines", "parts", "conversions"}


def left_behind() -> dict[str, int]:
    """What this process holds that a case may have leaked."""
    gc.collect()
    maps = Path("/proc/self/maps").read_text()
    return {
        "processes": len(Path("/proc/self/task").joinpath(str(os.getpid()), "children").read_text().split()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "shared mappings": maps.count("memfd:sdcffi"),
        "named segments": len([name for name in os.listdir("/dev/shm") if "sdcffi" in name or "psm_" in name]),
    }


def run(kind: str, seed: int, numbers: list[int], *, alone: bool) -> dict[str, Any]:
    """Run cases and count what became of them; one alone is kept and reported."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    before = left_behind()
    lasting = Lasting()
    if kind in LASTING:
        _calls.Worker = lambda: lasting  # type: ignore[misc, assignment]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as root:
        (directory := Path(root) / "broken").mkdir()
        with KINDS[kind](write_model(Path(root) / "model"), directory) as case:
            for number in numbers:
                act, what = case(random.Random(f"{seed}/{kind}/{number}"))
                print(f"case {number}", file=sys.stderr, flush=True)  # the last one is what a dead host died of
                if alone:
                    keep(directory)
                word, text = outcome(act)
                counts[word] += 1
                if word not in ("accepted", "refused", "native refusal"):
                    wrong.append(f"{kind} {number}: {word}: {text} [{what}]")
                    print(wrong[-1], flush=True)
                elif alone:
                    print(f"{word}: {text} [{what}]")
            if kind in LASTING:
                lasting.end()
    after = left_behind()
    left = {what: after[what] - before[what] for what in after}
    seconds = round(time.monotonic() - started, 1)
    return {"counts": dict(counts), "wrong": wrong, "left": left, "seconds": seconds}


def keep(directory: Path) -> None:
    """Copy a single case's file to where it can be looked at."""
    for path in directory.iterdir():
        Path(f"case{path.suffix}").write_bytes(path.read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/support/fuzzing.py")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", type=int, default=None)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    alone = options.only is not None
    numbers = [options.only] if alone else list(range(options.count))
    print(json.dumps(run(options.kind, options.seed, numbers, alone=alone)))


if __name__ == "__main__":
    main()
