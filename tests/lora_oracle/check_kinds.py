"""Hold the formulas of the kinds of LoRA against the libraries that define them: LyCORIS and PEFT.

Run by hand, where the packages of ``requirements.txt`` are installed::

    PYTHONPATH=tests/support python tests/lora_oracle/check_kinds.py

Each kind is built by the library on a small linear layer and on a convolution of 3x3, with random parameters. The
tensors are those that the library would write, the layer's weight is found by probing its forward pass (LyCORIS) or by
the library's merging (PEFT). What is printed is the greatest difference to the formula's weight, which must be small.
"""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import lora_formulas as formulas
import numpy as np
import peft
import peft.tuners.boft.layer
import torch
from lora_formulas import Array, Tensors
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.full import FullModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule
from peft import BOFTConfig, IA3Config, LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, get_peft_model
from torch import nn

LEAST = 1e-5
Row = tuple[str, float]


def linear() -> nn.Linear:
    return nn.Linear(48, 32)


def square() -> nn.Linear:
    return nn.Linear(32, 32)


def conv() -> nn.Conv2d:
    return nn.Conv2d(48, 32, 3, padding=1)


def point() -> nn.Conv2d:
    return nn.Conv2d(48, 32, 1)


def randomise(module: nn.Module, scale: float = 0.3) -> None:
    for parameter in module.parameters():
        parameter.data.copy_(torch.randn_like(parameter) * scale)


def probe(layer: nn.Module, forward: Callable[[torch.Tensor], torch.Tensor], bias: torch.Tensor | None) -> Array:
    """Find the weight that a layer has: the answers to impulses."""
    if isinstance(layer, nn.Linear):
        answer = forward(torch.eye(layer.in_features))
        return (answer - (0 if bias is None else bias)).T.numpy()
    assert isinstance(layer, nn.Conv2d)
    impulses = torch.zeros(layer.in_channels, layer.in_channels, 5, 5)
    impulses[range(layer.in_channels), range(layer.in_channels), 2, 2] = 1
    answer = forward(impulses) - (0 if bias is None else bias.reshape(1, -1, 1, 1))
    height = layer.kernel_size[0]
    edge = (5 - height) // 2
    kernel = answer[:, :, edge : edge + height, edge : edge + height].flip(2, 3)
    return kernel.permute(1, 0, 2, 3).numpy()


def difference(one: Array, other: Array) -> float:
    assert one.shape == other.shape, f"{one.shape} and {other.shape}"
    return float(np.abs(one.astype(np.float64) - other).max())


# LyCORIS.

Formula = Callable[[Array, Tensors], Array]


def plain(delta: Formula) -> Formula:
    return lambda weight, tensors: weight + delta(weight, tensors)


def with_dora(delta: Formula) -> Formula:
    def merged(weight: Array, tensors: Tensors) -> Array:
        magnitude = tensors["dora_scale"]
        return formulas.dora(
            weight, delta(weight, tensors), magnitude, on_input=formulas.is_on_input(magnitude, weight)
        )

    return merged


TUCKER: dict[str, Any] = {"use_tucker": True}
DORA: list[tuple[str, dict[str, Any]]] = [
    ("", {}),
    (" dora outputs", {"weight_decompose": True, "wd_on_out": True}),
    (" dora inputs", {"weight_decompose": True, "wd_on_out": False}),
]
BASE: dict[str, Any] = {"lora_dim": 4, "alpha": 3.0}
LYCORIS: list[tuple[str, type[Any], Callable[[], nn.Module], dict[str, Any], Formula]] = []
for layer in (linear, square, conv, point):
    kinds: list[tuple[str, type[Any], dict[str, Any], Formula]] = []
    for name, kind, delta in (("lora", LoConModule, formulas.lora), ("loha", LohaModule, formulas.loha)):
        kinds += [
            (name, kind, {}, delta),
            (name + " tucker", kind, TUCKER, delta),
            (name + " rs", kind, {"rs_lora": True}, delta),
            (name + " scalar", kind, {"use_scalar": True}, delta),
        ]
    for what, options in (
        ("", {"factor": 4}),
        (" w2 split", {"factor": 2}),
        (" both split", {"factor": 4, "decompose_both": True, "lora_dim": 1}),
        (" whole", {"factor": 4, "full_matrix": True}),
        (" w1 split", {"factor": 4, "decompose_both": True, "lora_dim": 1, "unbalanced_factorization": True}),
        (" tucker", {"factor": 2, "use_tucker": True, "lora_dim": 2}),
        (" rs", {"factor": 2, "rs_lora": True, "lora_dim": 2}),
        (" scalar", {"factor": 2, "use_scalar": True, "lora_dim": 2}),
    ):
        kinds.append((f"lokr{what}", LokrModule, options, formulas.lokr))
    for name, kind, options, delta in kinds:
        for decomposed, more in DORA:
            merged = with_dora(delta) if more else plain(delta)
            LYCORIS.append((name + decomposed, kind, layer, {**BASE, **options, **more}, merged))
    for name, kind, options, formula in (
        ("glora", GLoRAModule, {}, plain(formulas.glora)),
        ("oft", DiagOFTModule, {}, formulas.oft),
        ("oft constraint", DiagOFTModule, {"constraint": 0.02}, formulas.oft),
        ("oft rescale", DiagOFTModule, {"rescaled": True}, formulas.oft),
        ("boft", ButterflyOFTModule, {}, formulas.boft),
        ("boft constraint", ButterflyOFTModule, {"constraint": 0.02}, formulas.boft),
        ("boft rescale", ButterflyOFTModule, {"rescaled": True}, formulas.boft),
        ("ia3", IA3Module, {}, formulas.ia3),
        ("ia3 inputs", IA3Module, {"train_on_input": True}, formulas.ia3),
        ("full", FullModule, {}, lambda weight, tensors: weight + tensors["diff"]),
    ):
        LYCORIS.append((name, kind, layer, {**BASE, **options}, formula))


def lycoris_rows() -> Iterator[Row]:
    for name, kind, layer, options, formula in LYCORIS:
        base = layer()
        module = kind("module", base, multiplier=1.0, **options)
        randomise(module)
        if "scalar" in dict(module.named_parameters()):
            module.scalar.data.fill_(0.7)
        tensors = {key: value.detach().numpy() for key, value in module.state_dict().items()}
        if kind is FullModule:
            tensors = {"diff": module.weight.detach().numpy()}
            module.bias.data.zero_()
        weight = base.weight.detach().numpy().copy()
        module.org_forward = base.forward
        with torch.no_grad():
            true = probe(base, module.forward, base.bias)
        label = f"lycoris  {type(base).__name__} {tuple(weight.shape)} {name}"
        shapes = " ".join(f"{key}{list(value.shape)}" for key, value in tensors.items())
        yield f"{label}: {shapes}", difference(formula(weight, tensors), true)


def norm_rows() -> Iterator[Row]:
    for base in (nn.LayerNorm(16), nn.GroupNorm(4, 16)):
        randomise(base)
        module = NormModule("module", base)
        randomise(module)
        tensors = {key: value.detach().numpy() for key, value in module.state_dict().items()}
        weight, bias = module.get_merged_weight(0.5)
        found = base.weight.detach().numpy() + 0.5 * tensors["w_norm"]
        yield f"lycoris  {type(base).__name__} w_norm", difference(found, weight.detach().numpy())
        found = base.bias.detach().numpy() + 0.5 * tensors["b_norm"]
        yield f"lycoris  {type(base).__name__} b_norm", difference(found, bias.detach().numpy())


# PEFT.


class Net(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer


def peft_lora(scale: float) -> Formula:
    def merged(weight: Array, tensors: Tensors) -> Array:
        up, down = tensors["lora_B.weight"], tensors["lora_A.weight"]
        delta = scale * formulas.low_rank(up, down).reshape(weight.shape)
        magnitude = tensors.get("lora_magnitude_vector")
        return weight + delta if magnitude is None else formulas.dora(weight, delta, magnitude)

    return merged


def renamed(formula: Formula, alpha: float) -> Formula:
    return lambda weight, tensors: formula(weight, {**tensors, "alpha": np.array(alpha)})


def peft_kinds() -> Iterator[tuple[str, Callable[[], nn.Module], Any, Formula]]:
    for layer in (linear, square, conv, point):
        lora: dict[str, Any] = {"r": 4, "lora_alpha": 3, "target_modules": ["layer"], "init_lora_weights": False}
        yield "lora", layer, LoraConfig(**lora), peft_lora(3 / 4)
        yield "lora rs", layer, LoraConfig(**lora, use_rslora=True), peft_lora(3 / 4**0.5)
        yield "lora bias", layer, LoraConfig(**lora, lora_bias=True), peft_lora(3 / 4)
        yield "dora", layer, LoraConfig(**lora, use_dora=True), peft_lora(3 / 4)
        other: dict[str, Any] = {"target_modules": ["layer"], "init_weights": False}
        effective = {"use_effective_conv2d": True}
        yield "loha", layer, LoHaConfig(r=4, alpha=3, **other), renamed(plain(formulas.loha), 3)
        yield "loha tucker", layer, LoHaConfig(r=4, alpha=3, **other, **effective), renamed(plain(formulas.loha), 3)
        for what, options in (
            ("w2 split", {"decompose_factor": 2}),
            ("both split", {"decompose_factor": 4, "decompose_both": True, "r": 1}),
            ("whole", {"decompose_factor": 4, "r": 16}),
            ("tucker", {"decompose_factor": 2, "r": 2, **effective}),
        ):
            scale = 3 / options.get("r", 4)

            def lokr(weight: Array, tensors: Tensors, scale: float = scale) -> Array:
                return weight + formulas.lokr(weight, {**tensors, "alpha": np.array(3)}, full_scale=scale)

            yield f"lokr {what}", layer, LoKrConfig(**{"r": 4, "alpha": 3, **options, **other}), lokr
        oft: dict[str, Any] = {"oft_block_size": 8, **other}
        yield "oft", layer, OFTConfig(**oft), formulas.peft_oft
        yield "oft shared", layer, OFTConfig(**oft, block_share=True), formulas.peft_oft
        yield (
            "oft 3 terms", layer, OFTConfig(**oft, num_cayley_neumann_terms=3),
            lambda weight, tensors: formulas.peft_oft(weight, tensors, terms=3),
        )  # fmt: skip
        yield (
            "oft exact", layer, OFTConfig(**oft, use_cayley_neumann=False),
            lambda weight, tensors: formulas.peft_oft(weight, tensors, terms=0),
        )  # fmt: skip
        for factors in (1, 2, 3):
            config = BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=factors, **other)
            yield f"boft {factors} stages", layer, config, formulas.peft_boft
        for feed_forward in ([], ["layer"]):
            config = IA3Config(target_modules=["layer"], feedforward_modules=feed_forward, init_ia3_weights=False)
            yield (
                f"ia3{' inputs' if feed_forward else ''}", layer, config,
                lambda weight, tensors, inputs=bool(feed_forward): formulas.peft_ia3(weight, tensors, inputs),
            )  # fmt: skip


def block_diagonals(blocks: torch.Tensor) -> list[torch.Tensor]:
    """What PEFT has a CUDA kernel for, without which it has one stage only."""
    return [torch.stack([torch.block_diag(*stage) for stage in blocks])]


def peft_rows() -> Iterator[Row]:
    peft.tuners.boft.layer._FBD_CUDA = types.SimpleNamespace(forward=block_diagonals)
    peft.tuners.boft.layer.get_fbd_cuda = lambda: peft.tuners.boft.layer._FBD_CUDA
    for name, layer, config, formula in peft_kinds():
        base = layer()
        weight, bias = base.weight.detach().numpy().copy(), base.bias.detach().numpy().copy()
        model = get_peft_model(Net(base), config)
        for key, parameter in model.named_parameters():
            if "magnitude" in key:
                parameter.data *= 1 + 0.3 * torch.rand_like(parameter)
            elif parameter.requires_grad:
                parameter.data.copy_(torch.randn_like(parameter) * 0.3)
        state = peft.get_peft_model_state_dict(model)
        tensors = {key.removeprefix("base_model.model.layer."): value.numpy().copy() for key, value in state.items()}
        merged = model.merge_and_unload().layer
        shapes = " ".join(f"{key}{list(value.shape)}" for key, value in tensors.items())
        label = f"peft     {type(base).__name__} {weight.shape} {name}: {shapes}"
        yield label, difference(formula(weight, tensors), merged.weight.detach().numpy())
        true = merged.bias.detach().numpy()
        if "lora_B.bias" in tensors:
            yield "  its bias", difference(bias + 3 / 4 * tensors["lora_B.bias"], true)
        elif name == "ia3":
            yield "  its bias", difference(bias * tensors["ia3_l"].ravel(), true)
        else:
            yield "  its bias", difference(bias, true)


def main() -> int:
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    worst = 0.0
    for rows in (lycoris_rows(), norm_rows(), peft_rows()):
        for label, found in rows:
            worst = max(worst, found)
            print(f"{found:9.2e} {'' if found < LEAST else 'WRONG '}{label}")
    print(f"{worst:9.2e} at worst")
    return int(worst >= LEAST)


if __name__ == "__main__":
    sys.exit(main())
