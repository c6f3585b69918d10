"""Plans: each module gets its places and strength, and no tensor is lost without a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from torch_files import write_torch

from sdcffi import Lora, LoraError
from sdcffi._models.lora_file import read_lora
from sdcffi._models.lora_plan import plan_lora
from sdcffi.params.lora_plan import LoraPlan, Place

Q = Place("model.diffusion_model.qkv.weight", rows=6)
EMBEDDING = Place("text_encoders.llm.model.embed_tokens.weight")


class Model:
    """Stands for `Names`: a model with two layers, one of which has a bias."""

    def find(self, module: str) -> tuple[Place, ...] | None:
        return {"x.to_q": (Q,), "lora_unet_q": (Q,), "x.embed": (EMBEDDING,)}.get(module)

    def find_bias(self, module: str) -> tuple[Place, ...] | None:
        return (Place("model.diffusion_model.qkv.bias", rows=6),) if module == "x.to_q" else None

    def explain(self, module: str) -> str:
        return f"{module} is of another model"


def pair(module: str) -> dict[str, Any]:
    return {
        f"{module}.lora_A.weight": np.ones((4, 8), np.float32),
        f"{module}.lora_B.weight": np.ones((6, 4), np.float32),
        f"{module}.alpha": np.array(2, np.float32),
    }


def plan(folder: Path, tensors: dict[str, Any], **keywords: Any) -> LoraPlan:
    save_file(tensors, folder / "a.safetensors")
    path = folder / "a.safetensors"
    return plan_lora(read_lora(path), Model(), Lora(path, **keywords))


def test_a_module_gets_places_scale_and_the_file_s_names(tmp_path: Path) -> None:
    found = plan(tmp_path, pair("x.to_q"), is_high_noise=True)
    (module,) = found.modules
    assert (module.name, module.kind, module.places, module.scale, module.strength) == ("x.to_q", "lora", (Q,), 0.5, 1)
    assert module.tensors == {"down": "x.to_q.lora_A.weight", "up": "x.to_q.lora_B.weight"}
    assert module.rows == {"down": 4, "up": 6}
    assert (found.total, found.left_out, found.is_high_noise) == (3, (), True)
    assert found.path == str((tmp_path / "a.safetensors").resolve())


def test_every_tensor_is_used_or_left_out_with_a_reason(tmp_path: Path) -> None:
    more = {"x.to_q.lora_B.bias": np.ones(6, np.float32), "stray.unheard_of": np.ones(2, np.float32)}
    tensors = {**pair("x.to_q"), **pair("y.other"), **more}
    found = plan(tmp_path, tensors)
    used = [name for module in found.modules for name in module.used]
    left_out = dict(found.left_out)
    assert sorted([*used, *left_out]) == sorted(tensors)
    assert left_out["y.other.alpha"] == left_out["y.other.lora_A.weight"] == "y.other is of another model"
    assert "unknown kind" in left_out["stray.unheard_of"]


def test_a_bias_goes_to_the_bias(tmp_path: Path) -> None:
    bias = {"x.to_q.lora_B.bias": np.ones(6, np.float32)}
    _, module = plan(tmp_path, {**pair("x.to_q"), **bias}).modules
    assert (module.kind, module.places[0].weight, module.scale) == ("diff", "model.diffusion_model.qkv.bias", 0.5)


def test_a_bias_of_a_layer_without_one_is_left_out(tmp_path: Path) -> None:
    found = plan(tmp_path, {"lora_unet_q.diff_b": np.ones(6, np.float32)})
    assert found.left_out == (("lora_unet_q.diff_b", "the model's layer has no bias"),)


def test_an_embedding_is_transposed(tmp_path: Path) -> None:
    tensors = {"x.embed.lora_embedding_A": np.ones((4, 10)), "x.embed.lora_embedding_B": np.ones((8, 4))}
    (module,) = plan(tmp_path, {name: value.astype(np.float32) for name, value in tensors.items()}).modules
    assert module.places == (Place(EMBEDDING.weight, transposed=True),)


def test_oft_of_kohya_has_its_own_prefix(tmp_path: Path) -> None:
    (module,) = plan(tmp_path, {"oft_unet_q.oft_blocks": np.ones((3, 2, 2), np.float32)}).modules
    assert (module.name, module.places) == ("oft_unet_q", (Q,))


def test_strengths_of_parts_reach_the_modules(tmp_path: Path) -> None:
    found = plan(tmp_path, {**pair("x.to_q"), **pair("x.embed")}, weights={"unet": 0.5, "te": 2})
    assert {module.name: module.strength for module in found.modules} == {"x.to_q": 0.5, "x.embed": 2.0}
    with pytest.raises(ValueError, match=r"no layer of the LoRA is in 'nothing' of unet"):
        plan(tmp_path, pair("x.to_q"), weights={"unet": {"nothing": 0.5}})


def test_a_file_of_pytorch_is_planned_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(LoraError, match=r"not of torch\.save"):
        plan_lora(read_lora(tmp_path / "a.pt"), Model(), Lora(tmp_path / "a.pt"))
    write_torch({"x.to_q.diff": np.ones((6, 8), np.float32)}, tmp_path / "a.pt")
    assert plan_lora(read_lora(tmp_path / "a.pt"), Model(), Lora(tmp_path / "a.pt")).modules[0].kind == "diff"
