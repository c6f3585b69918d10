"""Estimates of memory against what the engine logged of its buffers, and against limits of the system."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import full_size
import numpy as np
import pytest
from engine_defaults import IMAGE
from header_files import write
from tiny_model import TinyModel

from sdcffi._checks import memory as memory_check
from sdcffi._checks.memory import MemoryCheck
from sdcffi._machine.devices import Device
from sdcffi._machine.limits import _linux, free_memory
from sdcffi._models import memory
from sdcffi._models.files import Model, read_model
from sdcffi._models.memory import compute_bytes, weight_bytes
from sdcffi.errors import OutOfMemoryError
from sdcffi.params.context import ContextParams
from sdcffi.params.image import Hires, ImageParams
from sdcffi.params.sampling import Tiling

MIB = 1 << 20


@pytest.fixture
def demo(tiny_model: TinyModel) -> ContextParams:
    return ContextParams(**{f"{slot}_path": path for slot, path in tiny_model.engine_arguments().items()})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> ContextParams:
    return ContextParams(model_path=full_size.sd1().write(tmp_path_factory.mktemp("sd1") / "sd1.safetensors"))


def test_weights_are_what_the_engine_logs(demo: ContextParams, sd1: ContextParams) -> None:
    assert weight_bytes(read_model(demo), demo) / MIB == pytest.approx(28.13, rel=0.02)
    assert weight_bytes(read_model(sd1), sd1) / MIB == pytest.approx(2035.00, rel=0.02)


def test_rules_are_matched_for_a_limited_time(demo: ContextParams, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ruled = read_model(demo), replace(demo, tensor_type_rules="attn=q8_0")
    assert weight_bytes(model, ruled) < weight_bytes(model, demo)
    monkeypatch.setattr(memory, "_LONGEST_MATCHING", -1.0)
    assert weight_bytes(model, ruled) == weight_bytes(model, demo)


# Largest buffers that the engine logged: unet 559.62 MB and vae 704.06 MB at 512x512, and so on.
@pytest.mark.parametrize(("side", "logged"), [(256, 176.02), (512, 704.06)])
def test_computing_stable_diffusion_is_near_what_the_engine_logs(side: int, logged: float, sd1: ContextParams) -> None:
    needed = compute_bytes(read_model(sd1), ImageParams(width=side, height=side), sd1)
    assert needed
    assert 1 / 1.5 < needed / MIB / logged < 1.5


def test_denoising_is_near_what_the_engine_logs(demo: ContextParams) -> None:
    model = read_model(demo)
    for side, logged in ((64, 5.57), (256, 8.50)):
        assert 1 / 1.5 < memory._transformer(model, side, side, 0) / MIB / logged < 1.5


@pytest.mark.parametrize(("side", "logged"), [(64, 25.25), (256, 56.13), (512, 224.50)])
def test_computing_the_tiny_model_is_near_what_the_engine_logs(side: int, logged: float, demo: ContextParams) -> None:
    needed = compute_bytes(read_model(demo), ImageParams(width=side, height=side), demo)
    assert needed
    assert 1 / 1.5 < needed / MIB / logged < 1.5


def test_computing_follows_the_parameters(sd1: ContextParams) -> None:
    model = read_model(sd1)

    def needed(**fields: object) -> int:
        return compute_bytes(model, IMAGE.updated(ImageParams(width=1024, height=1024, **fields)), sd1) or 0  # type: ignore[arg-type]

    assert compute_bytes(model, IMAGE, sd1) == compute_bytes(model, ImageParams(width=512, height=449), sd1)
    assert needed(vae_tiling_params=Tiling()) < needed(hires=Hires()) / 4
    assert needed(hires=Hires()) == compute_bytes(model, ImageParams(width=2048, height=2048), sd1)
    assert needed(hires=Hires(target_width=1024)) == needed()
    assert needed(batch_count=100) - needed() == 99 * 15 * 1024**2
    assert compute_bytes(Model(), ImageParams(), sd1) is None


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, 3 * 64 * 4 + 64 * 4 + 32 * 4),
        ({"wtype": "f16"}, 3 * 64 * 2 + 64 * 4 + 32 * 2),
        ({"wtype": "q8_0"}, 3 * 2 * 34 + 64 * 4 + 32 * 4),
        ({"wtype": "q4_K"}, 3 * 64 * 4 + 64 * 4 + 32 * 4),  # no block of 256 fits a row
        ({"wtype": "q8_0", "tensor_type_rules": "blocks=f16,other=q4_0"}, 3 * 64 * 2 + 64 * 4 + 32 * 2),
        ({"tensor_type_rules": "other=f16"}, 3 * 64 * 4 + 64 * 4 + 32 * 4),
    ],
)
def test_weights_are_counted_in_the_type_they_get(fields: dict[str, str], size: int, tmp_path: Path) -> None:
    shapes = {"blocks.0.weight": (3, 64), "blocks.0.bias": (64,), "blocks.0.norm.weight": (32,)}
    path = write(tmp_path / "a.safetensors", shapes, np.float32)
    params = ContextParams(model_path=path, **fields)  # type: ignore[arg-type]
    assert weight_bytes(read_model(params), params) == size


def system(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:  2048 kB\n"}, 2 * MIB),
        (
            {
                "proc/self/cgroup": "0::/user/app\n",
                "sys/fs/cgroup/user/app/memory.max": "max\n",
                "sys/fs/cgroup/user/memory.max": "5000\n",
                "sys/fs/cgroup/user/memory.current": "3000\n",
                "sys/fs/cgroup/user/memory.stat": "anon 7\ninactive_file 500\n",
            },
            2500,
        ),
        (
            {
                "proc/self/cgroup": "9:cpu:/x\n4:memory:/docker/gone\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "5000\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "6000\n",
            },
            0,
        ),
        ({"proc/self/cgroup": "0::/\n"}, None),
    ],
)
def test_limits_of_linux_are_read(files: dict[str, str], free: int | None, tmp_path: Path) -> None:
    assert min(_linux(system(tmp_path, files)), default=None) == free


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS only limits on Linux")
def test_a_limit_of_address_space_counts() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30));"
        "from sdcffi._machine.limits import free_memory; print(free_memory())"
    )
    free = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 0 < free < 3 << 30


def test_this_system_tells_its_free_memory() -> None:
    free = free_memory()
    assert free is None or 10 * MIB < free < 1 << 50


CPU = Device("CPU", "a processor", "cpu", "cpu", 0, 0)


def test_too_little_memory_is_a_warning_or_an_error(demo: ContextParams, monkeypatch: pytest.MonkeyPatch) -> None:
    model = read_model(demo)
    picture = ImageParams(width=2048, height=2048)
    said = "the image would need about [0-9,]+ MiB of memory, and 50 MiB are free"
    monkeypatch.setattr(memory_check, "free_memory", lambda: 50 * MIB)
    monkeypatch.setattr(memory_check, "free_swap", lambda: None)
    for mode in ("warn", "strict", "off"):
        MemoryCheck(mode, model, demo).check_weights(CPU)  # 28 MiB
    MemoryCheck("off", model, demo).check_image(picture, CPU)
    with pytest.warns(UserWarning, match=said):
        MemoryCheck("warn", model, demo).check_image(picture, CPU)
    with pytest.raises(OutOfMemoryError, match=said):
        MemoryCheck("strict", model, demo).check_image(picture, CPU)
    with pytest.raises(ValueError, match="memory_check must be one of warn, strict, off, not 'loud'"):
        MemoryCheck("loud", model, demo)
    monkeypatch.setattr(memory_check, "free_memory", lambda: None)
    MemoryCheck("strict", model, demo).check_image(picture, CPU)


def test_what_is_certain_not_to_fit_is_refused_before_it_is_tried(
    demo: ContextParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = read_model(demo)
    needed = compute_bytes(model, picture := ImageParams(width=2048, height=2048), demo)
    assert needed
    monkeypatch.setattr(memory_check, "free_memory", lambda: int(needed / 1.5) - 50 * MIB)
    monkeypatch.setattr(memory_check, "free_swap", lambda: 0)
    with pytest.raises(OutOfMemoryError, match=r"the image would need .* or pass memory_check='off' to try it"):
        MemoryCheck("warn", model, demo).check_image(picture, CPU)
    MemoryCheck("off", model, demo).check_image(picture, CPU)
    for swap in (60 * MIB, None):
        monkeypatch.setattr(memory_check, "free_swap", lambda swap=swap: swap)
        with pytest.warns(UserWarning, match="the image would need"):
            MemoryCheck("warn", model, demo).check_image(picture, CPU)


def test_a_gpus_own_memory_counts_where_it_is_to_hold_all_weights(
    demo: ContextParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = read_model(demo)
    small = Device("CUDA0", "a GPU", "cuda", "gpu", 10 * MIB, 10 * MIB)
    monkeypatch.setattr(memory_check, "free_memory", lambda: 0)
    with pytest.raises(OutOfMemoryError, match="the weights would need about 28 MiB of memory, and 10 MiB are free"):
        MemoryCheck("strict", model, demo).check_weights(small)
    MemoryCheck("strict", model, demo).check_weights(replace(small, memory_free=100 * MIB))
    MemoryCheck("strict", model, replace(demo, offload_params_to_cpu=True)).check_weights(small)
    MemoryCheck("strict", model, demo).check_image(ImageParams(width=2048, height=2048), small)
