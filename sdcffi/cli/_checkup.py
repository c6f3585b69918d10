"""Go through everything that building and computing need, and say of each thing how it is and what to do about it.

Nothing that is examined can end the examination: what is native runs in child processes, and what a check raises is
its outcome.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .._build.backends import GPUS
from .._build.compilers import Compiler, find_compiler
from .._build.tools import CMAKE, NINJA
from .._machine import install_hints
from .._machine.backends import BACKENDS, backend_choice
from .._machine.builds import NativeBuild, locate
from ..errors import BackendUnavailableError, BuildError, NativeCrashError, SDError
from ..events import Listeners

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..inventory import Inventory
    from ..params.struct import StrPath

__all__ = ["Check", "examine"]

_BUILD = "python -m sdcffi build"
_PROBE_SECONDS = 60
_SIDE = 64
_ALIKE = 25.0  # dB: pictures of one model on two devices are nearer, of a broken one they are not
_PROBE = """\
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from sdcffi._machine import drivers
sys.stdout.write(json.dumps(getattr(drivers, sys.argv[2])()))
"""


@dataclass(frozen=True)
class Check:
    """What a look at one thing found.

    Attributes
    ----------
    name : str
        ``"compiler"``, ``"toolkit cuda"``, ``"draw cpu:haswell"``, ...
    status : str
        ``"ok"``; ``"note"``: not there, and not needed by what was built and asked for; ``"failed"``.
    detail : str
        What was found.
    advice : str
        What to run or do; empty where nothing is to be done, or `detail` tells it.
    """

    name: str
    status: str
    detail: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        """Give the attributes as a dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class _Case:
    """What is examined: the build, or why there is none, and the backends that must work."""

    library: StrPath | None
    asked: tuple[str, ...]
    seconds: float
    build: NativeBuild | None
    without: str

    @property
    def built(self) -> Collection[str]:
        return self.build.backends if self.build else ()

    def needs(self, backend: str) -> bool:
        return backend in self.asked or backend in self.built

    def missing(self, needed: bool) -> str:
        return "failed" if needed else "note"


def examine(library: StrPath | None = None, backends: Collection[str] = (), seconds: float = 600.0) -> Iterator[Check]:
    """Examine tools, drivers, the native build, and draw a tiny picture on each device and CPU variant.

    Parameters
    ----------
    library : path, optional
        The native build, as for `Engine`.
    backends : collection of str
        Names of backends that must work, besides those that are built.
    seconds : float
        That each picture may take.

    Yields
    ------
    Check
        One after another, as they are made.
    """
    try:
        build, without = locate(library), ""
    except SDError as error:
        build, without = None, error.message
    case = _Case(library, tuple(backends), seconds, build, without)
    for name, section in {
        "compiler": _tools,
        "drivers": _drivers,
        "native build": _native,
    }.items():
        yield from _surviving(name, section, case)


def _surviving(name: str, section: Callable[[_Case], Iterator[Check]], case: _Case) -> Iterator[Check]:
    try:
        yield from section(case)
    except Exception as error:
        yield Check(name, "failed", f"could not be examined: {type(error).__name__}: {error}")


# What building needs.


def _tools(case: _Case) -> Iterator[Check]:
    compiler: Compiler | None = None
    try:
        compiler = find_compiler()
        detail = f"{compiler.id} {compiler.version} for {compiler.target}, {compiler.cxx}"
        yield Check("compiler", "ok", detail)
    except BuildError as error:
        said = error.message.splitlines()[0]
        yield Check("compiler", case.missing(case.build is None), said, install_hints.CXX_COMPILER.command)
    for tool in (CMAKE, NINJA):
        try:
            yield Check(tool.name, "ok", str(tool.find()))
        except BuildError:
            yield Check(tool.name, "note", f"no {tool.requirement} here; a build fetches it from PyPI")
    for name in _of_interest(case):
        yield _toolkit(name, compiler, case)


def _of_interest(case: _Case) -> list[str]:
    usual = ("cuda", "vulkan", "metal") if sys.platform == "darwin" else ("cuda", "vulkan")
    return [name for name in GPUS if name in usual or case.needs(name) or GPUS[name].has_device()]


def _toolkit(name: str, compiler: Compiler | None, case: _Case) -> Check:
    needed = name in case.asked and name not in case.built
    if compiler is None:
        return Check(f"toolkit {name}", case.missing(needed), "cannot be looked for without a compiler")
    toolkit = GPUS[name].toolkit(compiler)
    if not toolkit.missing:
        return Check(f"toolkit {name}", "ok", "all that a build with it needs is here")
    what = "; ".join(missing.what for missing in toolkit.missing)
    return Check(
        f"toolkit {name}", case.missing(needed), what, "; ".join(missing.command for missing in toolkit.missing)
    )


# What computing needs of the system.


def _drivers(case: _Case) -> Iterator[Check]:
    for name in _of_interest(case):
        probe = {"cuda": _nvidia, "vulkan": _vulkan}.get(name)
        if probe:
            yield probe(case)
        elif GPUS[name].has_device():
            yield Check(f"driver {name}", "ok", "a device is here")
        else:
            yield Check(f"driver {name}", case.missing(case.needs(name)), "no device seen")


def _nvidia(case: _Case) -> Check:
    supported = _probed("nvidia_driver")
    if supported is None:
        hint = install_hints.NVIDIA_DRIVER
        return Check("driver cuda", case.missing(case.needs("cuda")), hint.what, hint.command)
    seen = "nvidia-smi lists a GPU" if GPUS["cuda"].has_device() else "nvidia-smi lists no GPU, or is not here"
    return Check("driver cuda", "ok", f"NVIDIA's driver supports CUDA {supported}; {seen}")


def _vulkan(case: _Case) -> Check:
    status = case.missing(case.needs("vulkan"))
    for found, hint in ((_probed("vulkan_loader"), install_hints.VULKAN_LOADER), (_probed("vulkan_drivers"), None)):
        if not found:
            hint = hint or install_hints.VULKAN_DRIVER
            return Check("driver vulkan", status, hint.what, hint.command)
    return Check("driver vulkan", "ok", f"the loader is here, and drivers: {', '.join(_probed('vulkan_drivers'))}")


def _probed(function: str) -> Any:
    """Call a function of `_machine.drivers` in a process of its own, since it loads drivers; None where that fails."""
    command = [sys.executable, "-c", _PROBE, json.dumps(sys.path), function]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=True)
        return json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


# What was built.


def _native(case: _Case) -> Iterator[Check]:
    for name in case.asked:
        if case.build is not None and name not in (*case.built, *case.build.refused):
            command = f"{_BUILD} --backend {','.join([*sorted(case.built), name])}"
            yield Check(f"backend {name}", "failed", "asked for, but not part of the native build", command)
    if case.build is None:
        yield Check("native build", "failed", case.without, _BUILD)
        return
    yield from _files(case.build)
    yield from _surviving("library", _loaded, case)


def _files(build: NativeBuild) -> Iterator[Check]:
    damaged = 0
    for name in build.manifest["files"]:
        try:
            build.verify(build.directory / name)
        except (SDError, OSError) as error:
            damaged += 1
            said = error.message.partition(" Run: ")[0] if isinstance(error, SDError) else str(error)
            yield Check(f"file {name}", "failed", said.strip(), build.reinstallation(name) or _BUILD)
    if not damaged:
        count, by = len(build.manifest["files"]), build.manifest.get("sdcffi")
        yield Check("files", "ok", f"{count} files in {build.directory}, as they were built by sdcffi {by}")


def _loaded(case: _Case) -> Iterator[Check]:
    from ..inventory import take_inventory

    try:
        backend_choice("auto")
        choice = "auto"
    except ValueError as error:  # of the environment variable
        yield Check("choice", "failed", str(error))
        choice = "cpu"
    inventory, _ = take_inventory(case.library, choice, Listeners())
    if not inventory.devices:
        yield Check("library", "failed", inventory.problem, _advice(inventory.problem))
        return
    assert case.build is not None
    commit = case.build.manifest["upstream"]["commit"]
    yield Check("library", "ok", f"stable-diffusion.cpp {commit} loads; its structs are laid out as declared")
    yield from _backends(inventory)
    yield from _drawn(inventory, case)


def _backends(inventory: Inventory) -> Iterator[Check]:
    for backend in inventory.backends:
        if backend.built and backend.problem:
            yield Check(f"backend {backend.name}", "failed", backend.problem, _advice(backend.problem))
        elif backend.built:
            found = ", ".join(f"{device.id} ({device.description})" for device in backend.devices)
            yield Check(f"backend {backend.name}", "ok", found)
        elif backend.problem:
            yield Check(f"backend {backend.name}", "note", backend.problem)
    for variant in inventory.variants:
        if variant.name is not None and not variant.score:
            status = "failed" if variant.missing else "note"
            yield Check(f"variant cpu:{variant.name}", status, variant.state, _BUILD if variant.missing else "")
    if inventory.device:
        yield Check("choice", "ok", f"{inventory.device.id}: {inventory.device.reason}")
    else:
        yield Check("choice", "failed", inventory.problem, _advice(inventory.problem))


def _advice(problem: str) -> str:
    return "" if "Run: " in problem or _BUILD in problem else f"{_BUILD} --clean"


def _drawn(inventory: Inventory, case: _Case) -> Iterator[Check]:
    """Draw on each device and variant, each in a process of its own, and compare the pictures."""
    variants = [f"cpu:{variant.name}" for variant in inventory.variants if variant.name and variant.score]
    devices = [device.id for device in inventory.devices if device.backend != "cpu"]
    words = [*(variants or ["cpu"]), *devices]
    first: tuple[str, NDArray[np.uint8]] | None = None
    for word in words:
        started = time.perf_counter()
        try:
            picture = _draw(word, case)
        except Exception as error:
            yield Check(f"draw {word}", "failed", *_failure(word, error))
            continue
        seconds = time.perf_counter() - started
        yield _judged(word, picture, seconds, first)
        first = first or (word, picture)


def _draw(word: str, case: _Case) -> NDArray[np.uint8]:
    from ..demo import demo_model
    from ..engine.engine import Engine

    arguments: dict[str, Any] = {**demo_model(), "library": case.library, "memory_check": "off"}
    with Engine(**arguments, backend=word, timeout=case.seconds) as engine:
        drawn = engine.generate(
            "a red circle", width=_SIDE, height=_SIDE, steps=1, cfg_scale=1.0, seed=7, timeout=case.seconds
        )
    return drawn.arrays[0].copy()


def _judged(
    word: str, picture: NDArray[np.uint8], seconds: float, first: tuple[str, NDArray[np.uint8]] | None
) -> Check:
    from ..images.compare import compare

    told = f"{_SIDE}x{_SIDE} pixels in {seconds:.1f} s with loading"
    if picture.std() < 1:
        return Check(f"draw {word}", "failed", f"{told}, but the picture is plain", _elsewhere(word))
    if first is None:
        return Check(f"draw {word}", "ok", told)
    psnr = compare(picture, first[1]).psnr
    likeness = f"the picture of {first[0]}" if psnr == float("inf") else f"{psnr:.0f} dB from that of {first[0]}"
    if psnr < _ALIKE:
        return Check(f"draw {word}", "failed", f"{told}, but the picture is another one: {likeness}", _elsewhere(word))
    return Check(f"draw {word}", "ok", f"{told}; {likeness}")


def _failure(word: str, error: Exception) -> tuple[str, str]:
    if isinstance(error, BackendUnavailableError):
        return error.message, ""
    said = error.message if isinstance(error, SDError) else str(error)
    kind = "its process crashed" if isinstance(error, NativeCrashError) else type(error).__name__
    return f"{kind}: {said}", _elsewhere(word)


def _elsewhere(word: str) -> str:
    if word.startswith("cpu"):
        return f"{_BUILD} --clean, and if that does not help, report it"
    return f"update the driver of {BACKENDS[word.partition(':')[0]]}; until then use backend='cpu'"
