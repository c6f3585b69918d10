"""Choosing what to compute on: the words, the decision, and that the engine really computes there."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engines import name_of
from gpus import add_plugin, copied, with_stubs
from sdcli import Pixels
from tiny_model import TinyModel
from upscaling_networks import random_weights, write_network

from sdcffi import BackendUnavailableError, Engine, GenerationError, NativeCrashError, Upscaler
from sdcffi._build.backends import GPUS
from sdcffi._machine import drivers as _drivers
from sdcffi._machine.backends import BACKENDS, PREFERENCE, BackendChoice, backend_choice
from sdcffi._machine.builds import MANIFEST, locate, read_build
from sdcffi._machine.devices import Device, Variant, chosen_device, chosen_variant, numbered
from sdcffi._machine.drivers import why_no_device, why_not_loaded

DRAW: dict[str, Any] = {"prompt": "a cat", "width": 64, "height": 64, "steps": 1, "cfg_scale": 1.0, "seed": 7}
GIB = 1 << 30

# --- the words ---


@pytest.mark.parametrize(
    ("word", "choice"),
    [
        ("auto", BackendChoice("auto")),
        ("cpu", BackendChoice("cpu")),
        ("cpu:haswell", BackendChoice("cpu", variant="haswell")),
        ("cpu:armv8.2_1", BackendChoice("cpu", variant="armv8.2_1")),
        ("cuda", BackendChoice("cuda")),
        ("cuda:1", BackendChoice("cuda", index=1)),
        ("metal:0", BackendChoice("metal", index=0)),
    ],
)
def test_words_that_choose_a_backend(word: str, choice: BackendChoice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SDCFFI_BACKEND", raising=False)
    assert backend_choice(word) == choice
    assert str(choice) == word


@pytest.mark.parametrize(
    "word", ["", "gpu", "GPU", "cpu:", "cpu:../x", "cuda:", "cuda:x", "cuda:-1", "cuda:1:2", "auto:1", "cuda:\u0663"]
)
def test_other_words_are_refused_with_the_legal_ones(word: str, tiny_model: TinyModel) -> None:
    with pytest.raises(ValueError, match=r"backend must be auto, one of cpu, cuda, .*cuda:1.*cpu:haswell; not "):
        Engine(**tiny_model.engine_arguments(), backend=word)


def test_the_environment_takes_the_place_of_auto_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDCFFI_BACKEND", "vulkan:2")
    assert backend_choice("auto") == BackendChoice("vulkan", index=2, origin="SDCFFI_BACKEND")
    assert backend_choice("cpu") == BackendChoice("cpu")
    monkeypatch.setenv("SDCFFI_BACKEND", "gpu")
    with pytest.raises(ValueError, match=r"^SDCFFI_BACKEND must be .*; not 'gpu'"):
        backend_choice("auto")


def test_a_backend_that_is_no_string_is_a_type_error(tiny_model: TinyModel) -> None:
    with pytest.raises(TypeError, match="backend must be a string, not 1"):
        Engine(**tiny_model.engine_arguments(), backend=1)  # type: ignore[arg-type]


def test_every_backend_that_can_be_built_can_be_asked_for_and_has_a_rank() -> None:
    assert set(BACKENDS) == {"cpu", *GPUS}
    assert set(PREFERENCE) == set(GPUS)


# --- the decision, among devices that are not here ---


def device(backend: str, kind: str = "gpu", gibibytes: int = 8) -> Device:
    return Device(f"{backend}-{gibibytes}", f"a card of {gibibytes} GiB", backend, kind, 0, gibibytes * GIB)


CPU = device("cpu", "cpu", 32)


@pytest.mark.parametrize(
    ("found", "chosen"),
    [
        ([CPU], CPU),
        ([CPU, device("vulkan")], device("vulkan")),
        ([CPU, device("vulkan", "igpu", 64), device("vulkan", "gpu", 2)], device("vulkan", "gpu", 2)),
        ([CPU, device("vulkan", "gpu", 24), device("cuda", "gpu", 8)], device("cuda", "gpu", 8)),
        ([CPU, device("cuda", "igpu", 64), device("vulkan", "gpu", 8)], device("vulkan", "gpu", 8)),
        ([CPU, device("cuda", "gpu", 8), device("cuda", "gpu", 24)], device("cuda", "gpu", 24)),
        ([CPU, device("cuda", "accel", 8)], CPU),
    ],
)
def test_auto_takes_the_best_gpu_else_the_cpu(found: list[Device], chosen: Device) -> None:
    assert chosen_device(BackendChoice("auto"), found, {}).name == chosen.name


def test_of_equal_cards_the_first_is_taken_though_a_screen_takes_some_memory() -> None:
    cards = numbered(
        [Device(f"CUDA{n}", "a card", "cuda", "gpu", 0, 24 * GIB - taken) for n, taken in enumerate((10**8, 0))]
    )
    assert chosen_device(BackendChoice("auto"), cards, {}).id == "cuda:0"


def test_a_device_is_known_by_its_number_within_its_backend() -> None:
    found = numbered([CPU, device("vulkan"), device("cuda"), device("cuda", "gpu", 4)])
    assert [item.id for item in found] == ["cpu", "vulkan:0", "cuda:0", "cuda:1"]
    chosen = chosen_device(BackendChoice("cuda", index=1), found, {})
    assert (chosen.id, chosen.reason) == ("cuda:1", "cuda:1 was asked for")
    with pytest.raises(BackendUnavailableError, match=r"'cuda:2': there is no such device; use one of cuda:0 \(a card"):
        chosen_device(BackendChoice("cuda", index=2), found, {})


def test_the_reason_tells_why_no_gpu_was_taken() -> None:
    reason = chosen_device(BackendChoice("auto"), [CPU], {"cuda": "backend 'cuda' has no driver"}).reason
    assert reason == "auto: no GPU: backend 'cuda' has no driver; the CPU"
    assert chosen_device(BackendChoice("auto"), [CPU], {}).reason == "auto: no GPU backend in this build; the CPU"
    choice = BackendChoice("cpu", origin="SDCFFI_BACKEND")
    assert chosen_device(choice, [CPU], {}).reason == "cpu was asked for by SDCFFI_BACKEND"


VARIANTS = [Variant("x64", "x64.so", 1), Variant("zen4", "zen4.so", 0), Variant("haswell", "haswell.so", 64)]


def test_the_cpu_variant_with_the_highest_score_is_taken_unless_one_is_asked_for() -> None:
    assert chosen_variant(VARIANTS, None).name == "haswell"
    assert chosen_variant(VARIANTS, "x64").name == "x64"
    assert chosen_device(BackendChoice("auto"), [CPU], {}, VARIANTS).reason.endswith(
        "the best of 2 CPU variants that run here"
    )


@pytest.mark.parametrize(
    ("variants", "asked", "said"),
    [
        (VARIANTS, "zen4", r"'cpu:zen4' needs CPU instructions that this processor lacks.*haswell, x64"),
        (VARIANTS, "zen5", r"'cpu:zen5' is not built.*haswell, x64, zen4.*build --cpu portable"),
        ([Variant(None, "cpu.so", 1)], "zen4", r"has no CPU variants.*build --cpu portable"),
        ([Variant("zen4", "zen4.so", 0, missing=True)], "zen4", r"zen4\.so is missing.*build --cpu portable"),
        ([Variant("zen4", "zen4.so", 0)], None, r"no CPU variant of this build runs on this machine: zen4\.so"),
    ],
)
def test_a_cpu_variant_that_cannot_be_had_is_refused(variants: list[Variant], asked: str | None, said: str) -> None:
    with pytest.raises(BackendUnavailableError, match=said):
        chosen_variant(variants, asked)


# --- why a backend is not there ---


@pytest.mark.parametrize(
    ("driver", "log", "said"),
    [
        (None, (), "no NVIDIA driver.*Run: "),
        (
            "12.4",
            ("error: ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient for CUDA runtime",),
            r"driver is too old: it supports CUDA up to 12\.4 \(CUDA driver version is insufficient.*Run: ",
        ),
        (
            "13.0",
            ("error: ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected",),
            r"driver, which supports CUDA 13\.0, lists no device: no CUDA-capable device is detected$",
        ),
    ],
)
def test_why_there_is_no_cuda_device(
    driver: str | None, log: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_drivers, "nvidia_driver", lambda: driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    reason = why_no_device("cuda", log)
    assert re.search(said, reason), reason
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert why_no_device("cuda", log).endswith("(with CUDA_VISIBLE_DEVICES='-1')")


@pytest.mark.parametrize(
    ("loader", "drivers", "said"),
    [
        (False, [], "no Vulkan loader"),
        (True, [], "no Vulkan driver"),
        (True, ["lvp_icd"], r"installed Vulkan drivers \(lvp_icd\) have no GPU"),
    ],
)
def test_why_there_is_no_vulkan_device(
    loader: bool, drivers: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_drivers, "vulkan_loader", lambda: loader)
    monkeypatch.setattr(_drivers, "vulkan_drivers", lambda: drivers)
    assert re.search(said, why_no_device("vulkan", ()))


def test_vulkan_drivers_are_the_files_that_the_loader_would_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia_icd.json").write_text("{}")
    monkeypatch.setenv("VK_DRIVER_FILES", f"{tmp_path / 'nvidia_icd.json'}{os.pathsep}{tmp_path / 'none.json'}")
    assert _drivers.vulkan_drivers() == ["nvidia_icd"]


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("libcuda.so.1: cannot open shared object file: No such file", "no NVIDIA driver"),
        ("libcublas.so.13: cannot open shared object file: No such file", "no libraries of CUDA"),
        ("libvulkan.so.1: cannot open shared object file: No such file", "no Vulkan loader"),
        ("Library not loaded: @rpath/libvulkan.1.dylib", "no Vulkan loader"),
        ("libsomething.so.1: cannot open shared object file: No such file", ""),
        ("libggml-cuda.so: file too short", ""),
    ],
)
def test_what_brings_a_library_that_a_plugin_lacks(said: str, advice: str) -> None:
    assert why_not_loaded(said).startswith(advice) if advice else why_not_loaded(said) == ""


# --- the engine, on GPUs that are the CPU underneath ---

Work = Callable[[], list[str]]
Draw = Callable[..., tuple[Device, Pixels]]


@pytest.fixture(scope="module")
def gpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the build with plug-ins for CUDA and Vulkan."""
    return with_stubs(tmp_path_factory.mktemp("gpus") / "native", "cuda", "vulkan")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    """Two cards of CUDA's and two of Vulkan's; gives what was begun and computed on them since the last call."""
    log = tmp_path / "work.log"
    log.touch()
    monkeypatch.setenv("STUB_CUDA", "gpu:8,gpu:24")
    monkeypatch.setenv("STUB_Vulkan", "igpu:16,gpu:8")
    monkeypatch.setenv("STUB_LOG", str(log))

    def work() -> list[str]:
        lines = sorted(set(log.read_text().splitlines()))
        log.write_text("")
        return lines

    return work


@pytest.fixture
def draw(gpus: Path, tiny_model: TinyModel) -> Draw:
    """Opens an engine on the copied build and draws; gives its device and the picture."""

    def draw(backend: str, **keywords: Any) -> tuple[Device, Pixels]:
        arguments = {**tiny_model.engine_arguments(), "threads": 1, "library": gpus, **keywords}
        with Engine(**arguments, backend=backend) as engine:
            result = engine.generate(**DRAW)
            record = result.record(0)
            assert (record.backend, record.device) == (engine.device.backend, engine.device.name)
            return engine.device, result.arrays[0].copy()

    return draw


@pytest.mark.parametrize(
    ("backend", "chosen", "name"),
    [
        ("auto", "cuda:1", "CUDA1"),
        ("cuda", "cuda:1", "CUDA1"),
        ("cuda:0", "cuda:0", "CUDA0"),
        ("cuda:1", "cuda:1", "CUDA1"),
        ("vulkan", "vulkan:1", "Vulkan1"),
        ("vulkan:0", "vulkan:0", "Vulkan0"),
    ],
)
def test_the_engine_computes_on_the_device_that_was_chosen_and_on_no_other(
    backend: str, chosen: str, name: str, work: Work, draw: Draw
) -> None:
    found, picture = draw(backend)
    assert (found.id, found.name) == (chosen, name)
    assert work() == [f"compute {name}", f"init {name}"]
    assert picture.std() > 10


def test_weights_that_a_gpu_cannot_multiply_by_are_an_error_and_the_engine_goes_on(
    work: Work, gpus: Path, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_CANNOT", "q4_0")
    arguments = {**tiny_model.engine_arguments(), "threads": 1, "library": gpus, "backend": "cuda:0"}
    with Engine(**arguments, type="q4_0") as engine:
        pid = engine.pid
        if name_of(locate()) != "2026-05":  # it computes such products on the CPU
            assert engine.generate(**DRAW).arrays[0].std() > 10
            return
        with pytest.raises(GenerationError, match="CUDA0 cannot compute MUL_MAT of q4_0 and f32; give the weights"):
            engine.generate(**DRAW)
        assert engine.pid == pid


@pytest.mark.parametrize(("given", "kept"), [(None, {"32F": "1"}), ("16F", {"16F": "1"}), ("32F", {"32F": "1"})])
def test_cuda_adds_up_in_single_precision_unless_the_environment_says_how(
    given: str | None, kept: dict[str, str], work: Work, gpus: Path, tiny_model: TinyModel
) -> None:
    prefix = "GGML_CUDA_FORCE_CUBLAS_COMPUTE_"
    arguments = {name: str(path) for name, path in tiny_model.engine_arguments().items()}
    program = (
        "import os, sdcffi\n"
        f"with sdcffi.Engine(**{arguments!r}, library={str(gpus)!r}, backend='cuda:0', isolated=False): pass\n"
        f"print({{name[{len(prefix)}:]: os.environ[name] for name in os.environ if name.startswith({prefix!r})}})\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(prefix)}
    environment |= {prefix + given: "1"} if given else {}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == kept
    assert work() == ["init CUDA0"]


def test_the_cpu_alone_computes_where_it_was_asked_for(work: Work, draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    assert draw("cpu")[0].id == "cpu"
    monkeypatch.setenv("SDCFFI_BACKEND", "cpu")
    assert draw("auto")[0].reason == "cpu was asked for by SDCFFI_BACKEND"
    assert work() == []


def test_the_engines_own_variable_does_not_move_it_elsewhere(
    work: Work, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SD_VK_DEVICE", "1")
    assert draw("vulkan:0")[0].id == "vulkan:0"
    assert work() == ["compute Vulkan0", "init Vulkan0"]


def test_engines_of_one_process_compute_on_different_devices(
    gpus: Path, work: Work, tiny_model: TinyModel, tmp_path: Path
) -> None:
    code = (
        "import json, sys; from sdcffi import Engine\n"
        "model, draw, library = json.loads(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]\n"
        "def opened(backend):\n"
        "    return Engine(**model, library=library, backend=backend, threads=1, isolated=False)\n"
        "engines = [opened(backend) for backend in ('cuda:0', 'vulkan:0', 'cpu', 'cuda:1', 'cuda:0')]\n"
        "assert [e.device.id for e in engines] == ['cuda:0', 'vulkan:0', 'cpu', 'cuda:1', 'cuda:0']\n"
        "def drawn(engine):\n"
        "    open(sys.argv[4], 'w').close()\n"
        "    engine.generate(**draw)\n"
        "    return {line.split()[1] for line in open(sys.argv[4])}\n"
        "assert [drawn(e) for e in engines] == [{'CUDA0'}, {'Vulkan0'}, set(), {'CUDA1'}, {'CUDA0'}]\n"
        "from sdcffi._bindings.library import load\n"
        "from sdcffi._bindings.plugins import plugins_of\n"
        "names = [device.name for device in plugins_of(load()).devices()]\n"
        "assert sorted(names) == ['CPU', 'CUDA0', 'CUDA1', 'Vulkan0', 'Vulkan1'], names\n"
        "assert [d.index for d in plugins_of(load()).devices() if d.name == 'CUDA1'] == [1]\n"
    )
    model = json.dumps({name: str(path) for name, path in tiny_model.engine_arguments().items()})
    run = subprocess.run(
        [sys.executable, "-c", code, model, json.dumps(DRAW), str(gpus), os.environ["STUB_LOG"]],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("keywords", "placed"),
    [
        ({}, "text_encoders VRAM, diffusion_model VRAM, vae VRAM"),
        ({"clip_on_cpu": True}, "text_encoders RAM, diffusion_model VRAM, vae VRAM"),
        ({"vae_on_cpu": True}, "text_encoders VRAM, diffusion_model VRAM, vae RAM"),
        ({"clip_on_cpu": True, "vae_on_cpu": True}, "text_encoders RAM, diffusion_model VRAM, vae RAM"),
    ],
)
def test_parts_are_placed_on_the_cpu_where_that_is_asked_for(
    keywords: dict[str, Any], placed: str, work: Work, draw: Draw
) -> None:
    lines: list[str] = []
    found, _ = draw("cuda:1", on_log=lambda record: lines.append(record.text), **keywords)
    assert found.id == "cuda:1"
    told = next(line for line in lines if "total params memory size" in line)
    parts = re.findall(r"(text_encoders|diffusion_model|vae) [\d.]+MB\((\w+)\)", told)
    assert ", ".join(map(" ".join, parts)) == placed


def test_an_upscaler_computes_on_the_device_that_was_chosen(gpus: Path, work: Work, tmp_path: Path) -> None:
    network = write_network(tmp_path / "x2.safetensors", random_weights(2))
    with Upscaler(network, library=gpus, backend="vulkan:0", threads=1) as upscaler:
        upscaler.upscale(np.zeros((16, 16, 3), np.uint8))
        assert upscaler.device.id == "vulkan:0"
    assert work() == ["compute Vulkan0", "init Vulkan0"]


def test_a_backend_without_a_device_is_refused_and_passed_over_by_auto(
    work: Work, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_CUDA", "")
    with pytest.raises(BackendUnavailableError, match=r"'cuda' is loaded but has no device here: .*NVIDIA"):
        draw("cuda")
    found, _ = draw("auto")
    assert found.id == "vulkan:1"
    assert "not usable: backend 'cuda' is loaded but has no device here" in found.reason
    monkeypatch.setenv("STUB_Vulkan", "")
    found, _ = draw("auto")
    assert found.id == "cpu"
    assert "auto: no GPU: backend 'cuda' is loaded" in found.reason


def test_a_plugin_that_is_missing_or_not_a_library_is_refused_and_passed_over_by_auto(
    gpus: Path, work: Work, draw: Draw, tmp_path: Path
) -> None:
    broken = copied(tmp_path / "broken", read_build(gpus))
    (broken / "libggml-cuda.so").unlink()
    (tmp_path / "libggml-vulkan.so").write_bytes(b"no library")
    add_plugin(broken, "vulkan", tmp_path / "libggml-vulkan.so")
    with pytest.raises(BackendUnavailableError, match=r"'cuda': the library .*cuda.so is missing.*sdcffi build"):
        draw("cuda", library=broken)
    with pytest.raises(BackendUnavailableError, match=r"'vulkan' .* cannot be loaded here: .*file too short") as caught:
        draw("vulkan", library=broken)
    assert any("file too short" in line for line in caught.value.log)
    found, _ = draw("auto", library=broken)
    assert found.id == "cpu"
    assert "libggml-cuda.so is missing" in found.reason
    assert "file too short" in found.reason


def test_the_process_of_a_device_that_crashes_is_told_of(
    work: Work, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_CRASH", "CUDA0")
    with pytest.raises(NativeCrashError):
        draw("cuda:0")
    assert draw("cuda:1")[0].id == "cuda:1"


def test_a_build_for_another_processor_says_which_instructions_it_needs(tiny_model: TinyModel, tmp_path: Path) -> None:
    directory, source, plugin = copied(tmp_path / "native"), tmp_path / "cpu.c", tmp_path / "libggml-cpu.so"
    manifest = json.loads((directory / MANIFEST).read_text("utf-8"))
    manifest["options"] |= {"GGML_AVX512_BF16": "ON", "GGML_AVX2": "OFF", "GGML_CPU_ARM_ARCH": ""}
    (directory / MANIFEST).write_text(json.dumps(manifest), "utf-8")
    source.write_text("int ggml_backend_score(void) { return 0; }\nvoid *ggml_backend_init(void) { return 0; }\n")
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    subprocess.run([compiler, "-shared", "-fPIC", str(source), "-o", str(plugin)], check=True)
    add_plugin(directory, "cpu", plugin)
    with pytest.raises(BackendUnavailableError, match=r"lacks instructions that it needs \(.*AVX512_BF16") as caught:
        Engine(**tiny_model.engine_arguments(), library=directory)
    assert "--cpu portable" in caught.value.message
    assert "AVX2," not in caught.value.message
