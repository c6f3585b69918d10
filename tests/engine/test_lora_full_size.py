"""LoRA key layouts at full size: every tensor counts as applied on the empty Stable Diffusion 1.5 and SDXL checkpoints.

The weights are zeros (`full_size`), so these tests are about names and shapes. The case that the project was started
for stands at the end: SDXL in Q8_0 with an adapter on all attention projections and norm differences, in both modes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import full_size
import pytest
from full_size import Layout, Module, Shape, write_zeros
from sdcli import THREADS

from sdcffi import Engine, Log, Result

pytestmark = pytest.mark.slow

MODES = ["at_runtime", "immediately"]
RANK = 4
DRAW: dict[str, Any] = {"prompt": "", "width": 64, "height": 64, "steps": 1, "seed": 1, "cfg_scale": 1.0}

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")
RESNET = ("conv1", "conv2", "conv_shortcut", "time_emb_proj")
PROJECTION = ("proj_in", "proj_out")
SAMPLING = ("samplers.0.conv",)
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
NORMS = ("norm1", "norm2", "norm3", ".norm")
KOHYA_TEXT = {"text_encoder": "te1", "text_encoder_2": "te2"}

Load = Callable[[str, str], "Loaded"]
Naming = Callable[[Module], str]
Files = dict[str, Shape]


# How programs call a module, up to what the kind of adapter appends.


def peft(module: Module) -> str:
    return f"{module.part}.{module.name}"


def kohya(module: Module) -> str:
    part = KOHYA_TEXT.get(module.part, module.part)
    return f"lora_{part}_{module.name.replace('.', '_')}"


def kohya_sd1(module: Module) -> str:
    return kohya(module).replace("lora_te1_", "lora_te_")


def kohya_original(module: Module) -> str:
    """kohya's scripts for SDXL: the U-Net by the checkpoint's names, the text encoders as ever."""
    if module.part != "unet":
        return kohya(module)
    return f"lora_unet_{module.original.replace('.', '_')}"


def lycoris(module: Module) -> str:
    return kohya_sd1(module).replace("lora_", "lycoris_", 1)


def diffusion_model(module: Module) -> str:
    return f"diffusion_model.{module.original}"


def processor(module: Module) -> str:
    """diffusers before it took peft: the attention's processor holds the adapter."""
    parent, _, leaf = module.name.removesuffix(".0").rpartition(".")
    return f"unet.{parent}.processor.{leaf}_lora"


# What the kinds of adapter append, with the shapes.


def low_rank(root: str, shape: Shape, down: str, up: str, *, alpha: bool = True) -> Files:
    out, inp, *kernel = shape
    files: Files = {f"{root}{down}": (RANK, inp, *kernel), f"{root}{up}": (out, RANK, *(1 for _ in kernel))}
    return files | ({f"{root}.alpha": ()} if alpha else {})


def peft_pair(root: str, shape: Shape) -> Files:
    return low_rank(root, shape, ".lora_A.weight", ".lora_B.weight", alpha=False)


def kohya_pair(root: str, shape: Shape) -> Files:
    return low_rank(root, shape, ".lora_down.weight", ".lora_up.weight")


def processor_pair(root: str, shape: Shape) -> Files:
    return low_rank(root, shape, ".down.weight", ".up.weight", alpha=False)


def locon_with_mid(root: str, shape: Shape) -> Files:
    """Tucker's form, where the kernel stands in the middle."""
    out, inp, *kernel = shape
    files: Files = {f"{root}.lora_down.weight": (RANK, inp, *(1 for _ in kernel))}
    files |= {f"{root}.lora_up.weight": (out, RANK, *(1 for _ in kernel)), f"{root}.alpha": ()}
    return files | ({f"{root}.lora_mid.weight": (RANK, RANK, *kernel)} if kernel and kernel[0] > 1 else {})


def loha(root: str, shape: Shape) -> Files:
    out, columns = shape[0], _columns(shape)
    files: Files = {f"{root}.alpha": ()}
    for n in (1, 2):
        files |= {f"{root}.hada_w{n}_a": (out, RANK), f"{root}.hada_w{n}_b": (RANK, columns)}
    return files


def lokr(root: str, shape: Shape) -> Files:
    out, inp, *kernel = shape
    return {f"{root}.lokr_w1": (4, 4), f"{root}.lokr_w2": (out // 4, inp // 4, *kernel), f"{root}.alpha": ()}


def lokr_split(root: str, shape: Shape) -> Files:
    out, columns = shape[0], _columns(shape)
    factor = {f"{root}.lokr_w2_a": (out // 4, RANK), f"{root}.lokr_w2_b": (RANK, columns // 4)}
    return {f"{root}.lokr_w1": (4, 4), **factor, f"{root}.alpha": ()}


def differences(root: str, shape: Shape) -> Files:
    return {f"{root}.diff": shape, f"{root}.diff_b": shape[:1]}


def _columns(shape: Shape) -> int:
    columns = 1
    for size in shape[1:]:
        columns *= size
    return columns


def adapter(modules: Iterable[Module], naming: Naming, kind: Callable[[str, Shape], Files]) -> Files:
    tensors: Files = {}
    for module in modules:
        tensors |= kind(naming(module), module.shape)
    return tensors


@dataclass(frozen=True)
class Loaded:
    layout: Layout
    engine: Engine
    log: list[Log]

    def select(self, *endings: str, parts: Sequence[str] = ("unet",)) -> list[Module]:
        return [module for part in parts for module in self.layout.select(part, *endings)]

    def generate(self, tensors: Files, path: Path) -> Result:
        return self.engine.generate(**DRAW, loras=[write_zeros(tensors, path)])


CHECKPOINTS: dict[str, tuple[Callable[[], Layout], dict[str, Any]]] = {
    "sd1": (full_size.sd1, {}),
    "sdxl": (full_size.sdxl, {"type": "q8_0"}),
}


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    """Loads a checkpoint in an apply mode; one engine is open at a time, and kept until another is due."""
    opened: dict[tuple[str, str], Loaded] = {}
    directory = tmp_path_factory.mktemp("checkpoints")

    def load(name: str, mode: str) -> Loaded:
        if (name, mode) not in opened:
            for loaded in opened.values():
                loaded.engine.close()
            opened.clear()
            make, keywords = CHECKPOINTS[name]
            layout, log = make(), list[Log]()
            path = layout.write(directory / f"{name}.safetensors")
            keywords = {"threads": THREADS, "backend": "cpu", "lora_apply_mode": mode, **keywords}
            opened[name, mode] = Loaded(layout, Engine(path, on_log=log.append, **keywords), log)
        return opened[name, mode]

    yield load
    for loaded in opened.values():
        loaded.engine.close()


def assert_all_applied(result: Result, tensors: Files) -> None:
    (report,) = result.loras
    assert report.skipped == ()
    assert report.misfits == ()
    assert report.applied == report.total == len(tensors)


ALL_UNET = (*ATTENTION, *FEED_FORWARD, *RESNET, *PROJECTION, *SAMPLING)
SD1_LAYOUTS: dict[str, tuple[Naming, Callable[[str, Shape], Files], tuple[str, ...], tuple[str, ...]]] = {
    "kohya": (kohya_sd1, kohya_pair, ALL_UNET, TEXT),
    "kohya-te1": (kohya, kohya_pair, ATTENTION, TEXT),
    "peft": (peft, peft_pair, ALL_UNET, TEXT),
    "processor": (processor, processor_pair, ATTENTION, ()),
    "original": (diffusion_model, kohya_pair, ATTENTION + FEED_FORWARD, ()),
    "lycoris": (lycoris, kohya_pair, ALL_UNET, TEXT),
    "locon-mid": (kohya_sd1, locon_with_mid, ALL_UNET, TEXT),
    "loha": (lycoris, loha, ALL_UNET, TEXT),
    "lokr": (lycoris, lokr, ALL_UNET, TEXT),
    "lokr-split": (lycoris, lokr_split, ALL_UNET, TEXT),
    "differences": (peft, differences, NORMS + RESNET, ("layer_norm1",)),
}


# Merging takes longer, and both modes find tensors by the same names: there, a few layouts stand for all.
SD1_CASES = [("at_runtime", layout) for layout in SD1_LAYOUTS]
SD1_CASES += [("immediately", layout) for layout in ("kohya", "locon-mid", "lokr-split", "differences")]


@pytest.mark.parametrize(("mode", "layout"), SD1_CASES)
def test_every_tensor_is_applied_on_stable_diffusion_1(mode: str, layout: str, load: Load, tmp_path: Path) -> None:
    sd1 = load("sd1", mode)
    naming, kind, unet, text = SD1_LAYOUTS[layout]
    modules = sd1.select(*unet) + (sd1.select(*text, parts=["text_encoder"]) if text else [])
    tensors = adapter(modules, naming, kind)
    assert_all_applied(sd1.generate(tensors, tmp_path / f"{layout}.safetensors"), tensors)


SDXL_LAYOUTS: dict[str, tuple[Naming, Callable[[str, Shape], Files]]] = {
    "kohya": (kohya, kohya_pair),
    "kohya-original": (kohya_original, kohya_pair),
    "peft": (peft, peft_pair),
}


@pytest.mark.parametrize("layout", SDXL_LAYOUTS)
def test_every_tensor_is_applied_on_sdxl(layout: str, load: Load, tmp_path: Path) -> None:
    naming, kind = SDXL_LAYOUTS[layout]
    sdxl = load("sdxl", "at_runtime")
    modules = sdxl.select(*ATTENTION, "conv2") + sdxl.select(*TEXT, parts=["text_encoder", "text_encoder_2"])
    tensors = adapter(modules, naming, kind)
    assert_all_applied(sdxl.generate(tensors, tmp_path / f"{layout}.safetensors"), tensors)


@pytest.mark.parametrize("mode", MODES)
def test_res_adapter_on_quantised_sdxl_draws(mode: str, load: Load, tmp_path: Path) -> None:
    """Issue 364 of stable-diffusion.cpp: pairs on every attention projection, and differences of the norms."""
    sdxl = load("sdxl", mode)
    assert any("Version: SDXL" in line.text for line in sdxl.log)
    tensors = adapter(sdxl.select(*ATTENTION), peft, peft_pair)
    tensors |= adapter(sdxl.select("norm1", "norm2"), peft, differences)
    result = sdxl.generate(tensors, tmp_path / "res-adapter.safetensors")
    assert result.arrays[0].shape == (64, 64, 3)
    assert_all_applied(result, tensors)
    assert set(result.loras[0].types) == {"f32", "q8_0"}
