"""Check everything that building and generating need, and say for each thing what was found and what to do.

No check can stop the others: native code runs in child processes, and an exception in a check is its result.
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

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..inventory import Inventory
    from ..params.struct import StrPath

__all__ = ["Check", "examine"]

_BUILD = "python -m sdcffi build"
_PROBE_SECONDS = 60
_SIDE = 64
_ALIKE = 25.0  # dB: images of one model on two working devices are more alike than this
_PROBE = """\
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from sdcffi._machine import drivers
sys.stdout.write(json.dumps(getattr(drivers, sys.argv[2])()))
"""


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes
    ----------
    name : str
        ``"compiler"``, ``"toolkit cuda"``, ``"generate cpu:haswell"``, ...
    status : str
        ``"ok"``; ``"note"``: missing, but not needed for what was built or asked for; ``"failed"``.
    detail : str
        What was found.
    advice : str
        What to run or do; empty if there is nothing to do, or `detail` says it.
    """

    name: str
    status: str
    detail: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the attributes as a dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class _Case:
    """The subject of the checks: the build, or why there is none, and the backends that must work."""

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
    """Check tools, drivers and the native build, and generate a small image on each device and CPU variant.

    Parameters
    ----------
    library : path, optional
        The native build, as for `Engine`.
    backends : collection of str
        Names of backends that must work, besides those that are built.
    seconds : float
        Time limit for each image, in seconds.

    Yields
    ------
    Check
        Each result when it is there.
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
        yield Check(name, "failed", f"could not be checked: {type(error).__name__}: {error}")


# What building needs.


def _tools(case: _Case) -> Iterator[Check]:
    compiler: Compiler | None = None
    try:
        compiler = find_compiler()
        detail = f"{compiler.id} {compiler.version} for {compiler.target}, {compiler.cxx}"
        yield Check("compiler", "ok", detail)
    except BuildError as error:
        reason = error.message.splitlines()[0]
        yield Check("compiler", case.missing(case.build is None), reason, install_hints.CXX_COMPILER.command)
    for tool in (CMAKE, NINJA):
        try:
            yield Check(tool.name, "ok", str(tool.find()))
        except BuildError:
            yield Check(tool.name, "note", f"{tool.requirement} is not installed; a build downloads it from PyPI")
    for name in _of_interest(case):
        yield _toolkit(name, compiler, case)


def _of_interest(case: _Case) -> list[str]:
    usual = ("cuda", "vulkan", "metal") if sys.platform == "darwin" else ("cuda", "vulkan")
    return [name for name in GPUS if name in usual or case.needs(name) or GPUS[name].has_device()]


def _toolkit(name: str, compiler: Compiler | None, case: _Case) -> Check:
    needed = name in case.asked and name not in case.built
    if compiler is None:
        return Check(f"toolkit {name}", case.missing(needed), "cannot be checked without a compiler")
    toolkit = GPUS[name].toolkit(compiler)
    if not toolkit.missing:
        return Check(f"toolkit {name}", "ok", "everything that a build with it needs is here")
    what = "; ".join(missing.what for missing in toolkit.missing)
    return Check(
        f"toolkit {name}", case.missing(needed), what, "; ".join(missing.command for missing in toolkit.missing)
    )


# What generating needs of the system.


def _drivers(case: _Case) -> Iterator[Check]:
    for name in _of_interest(case):
        probe = {"cuda": _nvidia, "vulkan": _vulkan}.get(name)
        if probe:
            yield probe(case)
        elif GPUS[name].has_device():
            yield Check(f"driver {name}", "ok", "a device is here")
        else:
            yield Check(f"driver {name}", case.missing(case.needs(name)), "no device found")


def _nvidia(case: _Case) -> Check:
    supported = _probed("nvidia_driver")
    if supported is None:
        hint = install_hints.NVIDIA_DRIVER
        return Check("driver cuda", case.missing(case.needs("cuda")), hint.what, hint.command)
    seen = "nvidia-smi lists a GPU" if GPUS["cuda"].has_device() else "nvidia-smi lists no GPU, or is not installed"
    return Check("driver cuda", "ok", f"NVIDIA's driver supports CUDA {supported}; {seen}")


def _vulkan(case: _Case) -> Check:
    status = case.missing(case.needs("vulkan"))
    for found, hint in ((_probed("vulkan_loader"), install_hints.VULKAN_LOADER), (_probed("vulkan_drivers"), None)):
        if not found:
            hint = hint or install_hints.VULKAN_DRIVER
            return Check("driver vulkan", status, hint.what, hint.command)
    return Check(
        "driver vulkan", "ok", f"the loader is installed, and these drivers: {', '.join(_probed('vulkan_drivers'))}"
    )


def _probed(function: str) -> Any:
    """Call a function of `_machine.drivers` in its own process, because it loads drivers; None if that fails."""
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
            yield Check(
                f"backend {name}", "failed", "asked for with --backend, but not part of the native build", command
            )
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
            reason = error.message.partition(" Run: ")[0] if isinstance(error, SDError) else str(error)
            yield Check(f"file {name}", "failed", reason.strip(), build.reinstallation(name) or _BUILD)
    if not damaged:
        count, by = len(build.manifest["files"]), build.manifest.get("sdcffi")
        yield Check("files", "ok", f"{count} files in {build.directory} are unchanged since sdcffi {by} built them")


def _loaded(case: _Case) -> Iterator[Check]:
    from ..inventory import list_devices

    try:
        backend_choice("auto")
        choice = "auto"
    except ValueError as error:  # from the environment variable
        yield Check("choice", "failed", str(error))
        choice = "cpu"
    inventory = list_devices(case.library, backend=choice)
    if not inventory.devices:
        yield Check("library", "failed", inventory.problem, _advice(inventory.problem))
        return
    assert case.build is not None
    commit, left_out = case.build.manifest["upstream"]["commit"], case.build.manifest.get("left_out", {})
    yield Check("library", "ok", f"stable-diffusion.cpp {commit} loads; its structs have the declared layout")
    if left_out:
        yield Check("patches", "note", f"this engine was built without patches it needs: {', '.join(left_out)}", _BUILD)
    yield from _backends(inventory)
    yield from _generated(inventory, case)


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


def _generated(inventory: Inventory, case: _Case) -> Iterator[Check]:
    """Generate on each device and variant, each in its own process, and compare the images."""
    variants = [f"cpu:{variant.name}" for variant in inventory.variants if variant.name and variant.score]
    devices = [device.id for device in inventory.devices if device.backend != "cpu"]
    words = [*(variants or ["cpu"]), *devices]
    first: tuple[str, NDArray[np.uint8]] | None = None
    for word in words:
        started = time.perf_counter()
        try:
            image = _generate(word, case)
        except Exception as error:
            yield Check(f"generate {word}", "failed", *_failure(word, error))
            continue
        seconds = time.perf_counter() - started
        yield _judged(word, image, seconds, first)
        first = first or (word, image)


def _generate(word: str, case: _Case) -> NDArray[np.uint8]:
    from ..demo import demo_model
    from ..engine.engine import Engine

    arguments: dict[str, Any] = {**demo_model(), "library": case.library, "memory_check": "off"}
    with Engine(**arguments, backend=word, timeout=case.seconds) as engine:
        result = engine.generate(
            "a red circle", width=_SIDE, height=_SIDE, steps=1, cfg_scale=1.0, seed=7, timeout=case.seconds
        )
    return result.arrays[0].copy()


def _judged(word: str, image: NDArray[np.uint8], seconds: float, first: tuple[str, NDArray[np.uint8]] | None) -> Check:
    from ..images.compare import compare

    name, detail = f"generate {word}", f"{_SIDE}x{_SIDE} pixels in {seconds:.1f} s, including loading"
    if image.std() < 1:
        return Check(name, "failed", f"{detail}, but the image has only one colour", _elsewhere(word))
    if first is None:
        return Check(name, "ok", detail)
    psnr = compare(image, first[1]).psnr
    if psnr < _ALIKE:
        wrong = f"the image differs from that of {first[0]}: PSNR {psnr:.0f} dB"
        return Check(name, "failed", f"{detail}, but {wrong}", _elsewhere(word))
    likeness = "the same image as" if psnr == float("inf") else f"PSNR {psnr:.0f} dB to the image of"
    return Check(name, "ok", f"{detail}; {likeness} {first[0]}")


def _failure(word: str, error: Exception) -> tuple[str, str]:
    if isinstance(error, BackendUnavailableError):
        return error.message, ""
    reason = error.message if isinstance(error, SDError) else str(error)
    kind = "its process crashed" if isinstance(error, NativeCrashError) else type(error).__name__
    return f"{kind}: {reason}", _elsewhere(word)


def _elsewhere(word: str) -> str:
    if word.startswith("cpu"):
        return f"{_BUILD} --clean; if that does not help, report it"
    return f"update the driver of {BACKENDS[word.partition(':')[0]]}; until then, use backend='cpu'"
