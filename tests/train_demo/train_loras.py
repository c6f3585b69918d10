"""Train the LoRAs: each teaches the finished transformer one way of drawing, whatever the words say."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .corpus import Corpus, Vocabulary
from .export import Arrays
from .network import Transformer
from .train_transformer import BATCH, Places, flow_loss

STEPS = 300
FULL_STEPS = 5
RANK = 8
FACTOR = 16  # rows and columns of LoKr's first factor
RATE = 4e-3
ROOT = "diffusion_model."


class LowRank(nn.Module):
    """``W + up @ down`` (Hu and others, 2021)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        out, inp = weight.shape
        self.down = nn.Parameter(torch.randn(RANK, inp) * inp**-0.5)
        self.up = nn.Parameter(torch.zeros(out, RANK))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


class Kronecker(nn.Module):
    """LoKr: ``W + kron(w1, w2_a @ w2_b)`` (Yeh and others, 2023)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        out, inp = (size // FACTOR for size in weight.shape)
        self.w1 = nn.Parameter(torch.randn(FACTOR, FACTOR) * 0.25)
        self.w2_a = nn.Parameter(torch.zeros(out, 2 * RANK))
        self.w2_b = nn.Parameter(torch.randn(2 * RANK, inp) * inp**-0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + torch.kron(self.w1, self.w2_a @ self.w2_b)


def peft(module: str, part: LowRank) -> dict[str, Tensor]:
    """A LoRA as peft names it; without alpha its strength is one."""
    return {f"{ROOT}{module}.lora_A.weight": part.down, f"{ROOT}{module}.lora_B.weight": part.up}


def kohya(module: str, part: LowRank) -> dict[str, Tensor]:
    """A LoRA as kohya's scripts name it."""
    root = "lora_unet_" + module.replace(".", "_")
    return {
        f"{root}.lora_down.weight": part.down,
        f"{root}.lora_up.weight": part.up,
        f"{root}.alpha": torch.tensor(float(RANK)),
    }


def dotted(module: str, part: Kronecker) -> dict[str, Tensor]:
    """A LoKr whose parts are named as LyCORIS does, below the module's own name."""
    root = f"{ROOT}{module}"
    return {
        f"{root}.lokr_w1": part.w1,
        f"{root}.lokr_w2_a": part.w2_a,
        f"{root}.lokr_w2_b": part.w2_b,
        f"{root}.alpha": torch.tensor(2.0 * RANK),
    }


KINDS = {"outline": (LowRank, peft), "sticker": (Kronecker, dotted), "night": (LowRank, kohya)}


def targets(network: Transformer) -> dict[str, nn.Linear]:
    """The layers that LoRAs change: all within the blocks that images go through."""
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and "blocks" in name and ".txt_" not in name
    }


def train(style: str, network: Transformer, corpus: Corpus, vocabulary: Vocabulary, steps: int = STEPS) -> Arrays:
    """Train one on a corpus of its style.

    Returns
    -------
    dict of str to numpy.ndarray
        The file's tensors, half precision.
    """
    torch.manual_seed(0)
    kind, names = KINDS[style]
    network.requires_grad_(False)
    parts = {}
    for name, layer in targets(network).items():
        parts[name] = kind(layer.weight)
        parametrize.register_parametrization(layer, "weight", parts[name])
    parameters = [p for part in parts.values() for p in part.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.99), weight_decay=0.0)
    generator = torch.Generator().manual_seed(1)
    compiled = torch.compile(network, dynamic=False)
    started, seen = time.time(), 0.0
    for step in range(steps):
        places = Places.full(8) if step >= steps - FULL_STEPS else Places.short(8, generator)
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 20, 2 * (steps - step) / steps)
        loss = flow_loss(compiled, corpus, vocabulary, BATCH, places, generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        seen = loss.item() if not seen else 0.95 * seen + 0.05 * loss.item()
        if step % 50 == 49:
            print(f"{style} {step + 1}/{steps} loss {seen:.4f} {time.time() - started:.0f} s", flush=True)
    return {
        key: tensor.detach().half().numpy() for name, part in parts.items() for key, tensor in names(name, part).items()
    }
