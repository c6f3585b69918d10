"""Train the transformer: rectified flow from noise to latents, guided by captions."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .corpus import SHORT, Corpus, Vocabulary
from .muon import Muon
from .network import TEXT_TOKENS, Autoencoder, Transformer, patched, rotation, unpatched

WIDTH, DOUBLE, SINGLE = 256, 1, 4
STEPS = 4200
FULL_STEPS = 40  # the last ones see all of the engine's 512 text tokens
BATCH = 64
LARGE_EVERY = 9  # one batch of so many is of large images
FILLING = 8  # tokens that stand for the rest of the filling
DROPPED = 0.1  # share of captions left out, so that guidance has something to lead away from
SHIFT = math.exp(1.89)  # of the engine's schedule for this kind, at 12 steps and 64 tokens
RATE, ADAM_RATE, EMBEDDING_RATE = 0.005, 6e-4, 2e-3


@dataclass
class Places:
    """Rotary angles and attention bias for a batch: all text tokens, or `SHORT` and a few that stand for the rest."""

    turn: tuple[Tensor, Tensor]
    bias: Tensor | None
    text: int

    @classmethod
    def short(cls, rows: int, generator: torch.Generator | None = None) -> Places:
        """The filling's places are drawn anew each time, so that their sum is right on average."""
        rest = TEXT_TOKENS - SHORT
        places = torch.randperm(rest, generator=generator)[:FILLING].sort().values + SHORT
        turn = rotation(torch.cat((torch.arange(SHORT), places)), rows, rows)
        bias = torch.zeros(SHORT + FILLING + rows * rows)
        bias[SHORT : SHORT + FILLING] = math.log(rest / FILLING)
        return cls((turn[0].bfloat16(), turn[1].bfloat16()), bias.bfloat16()[None, None, None], SHORT + FILLING)

    @classmethod
    def full(cls, rows: int) -> Places:
        turn = rotation(torch.arange(TEXT_TOKENS), rows, rows)
        return cls((turn[0].bfloat16(), turn[1].bfloat16()), None, TEXT_TOKENS)


def noise_levels(count: int, generator: torch.Generator) -> Tensor:
    """Where the engine's schedule spends its steps, and a fifth of them evenly."""
    t = torch.rand(count, generator=generator)
    shifted = SHIFT * t / (1 + (SHIFT - 1) * t)
    return torch.where(torch.rand(count, generator=generator) < 0.2, t, shifted)


def flow_loss(
    network: nn.Module, corpus: Corpus, vocabulary: Vocabulary, batch: int, places: Places, generator: torch.Generator
) -> Tensor:
    """Mean squared error of the velocity on a batch by chance."""
    which = torch.randint(0, len(corpus.latents), (batch,), generator=generator).tolist()
    x = patched(corpus.latents[which].float())
    words = torch.randint(0, len(corpus.captions[0]), (batch,), generator=generator).tolist()
    dropped = (torch.rand(batch, generator=generator) < DROPPED).tolist()
    captions = ["" if d else corpus.captions[n][w] for n, w, d in zip(which, words, dropped, strict=True)]
    t = noise_levels(batch, generator)
    noise = torch.randn(x.shape, generator=generator)
    noisy = x + t[:, None, None] * (noise - x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        velocity = network(noisy, t, vocabulary.rows(captions, places.text), places.turn, places.bias)
    return (velocity.float() - (noise - x)).pow(2).mean()


@torch.no_grad()
def sample(
    network: nn.Module,
    vocabulary: Vocabulary,
    prompts: list[str],
    rows: int,
    steps: int,
    guidance: float,
    seed: int = 0,
) -> Tensor:
    """Draw latents as the engine does: Euler steps over its schedule."""
    generator, places = torch.Generator().manual_seed(seed), Places.short(rows, torch.Generator().manual_seed(0))
    ids = vocabulary.rows(prompts + [""] * len(prompts), places.text)
    t = torch.linspace(1, 0.001, steps)
    sigmas = torch.cat((SHIFT * t / (1 + (SHIFT - 1) * t), torch.zeros(1)))
    x = torch.randn(len(prompts), rows * rows, network.img_in.in_features, generator=generator)
    for now, then in itertools.pairwise(sigmas):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            v = network(torch.cat((x, x)), now.expand(len(ids)), ids, places.turn, places.bias).float()
        with_text, without = v.chunk(2)
        x = x + (then - now) * (without + guidance * (with_text - without))
    return unpatched(x, rows)


class Trainer:
    """A network, its running average and its optimisers, saved and gone on from as one."""

    def __init__(self, network: Transformer, target: Path, steps: int) -> None:
        self.network, self.target, self.steps, self.step = network, target, steps, 0
        self.average = {name: p.detach().clone() for name, p in network.named_parameters()}
        matrices = [p for name, p in network.named_parameters() if "blocks" in name and p.ndim == 2]
        inside = {id(p) for p in matrices} | {id(network.embedding.weight)}
        others = [p for p in network.parameters() if id(p) not in inside]
        self.optimisers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=RATE, decay=0.1),
            torch.optim.AdamW(
                [{"params": others, "lr": ADAM_RATE}, {"params": [network.embedding.weight], "lr": EMBEDDING_RATE}],
                betas=(0.9, 0.98),
                weight_decay=0.0,
            ),
        ]
        self._rates = [[group["lr"] for group in optimiser.param_groups] for optimiser in self.optimisers]
        if target.exists():
            saved = torch.load(target, weights_only=True)
            self.step, self.average = saved["step"], saved["average"]
            network.load_state_dict(saved["network"])
            for optimiser, state in zip(self.optimisers, saved["optimisers"], strict=True):
                optimiser.load_state_dict({**state, "param_groups": optimiser.state_dict()["param_groups"]})

    def save(self) -> None:
        part = self.target.with_suffix(".part")
        torch.save(
            {
                "step": self.step,
                "network": self.network.state_dict(),
                "average": self.average,
                "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            },
            part,
        )
        part.replace(self.target)

    def update(self, loss: Tensor) -> None:
        """One step downhill; the rate rises for a hundred steps and falls over the last third."""
        loss.backward()
        share = min(1.0, (self.step + 1) / 100, 3 * (self.steps - self.step) / self.steps)
        for optimiser, rates in zip(self.optimisers, self._rates, strict=True):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * share
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        keep = min(0.998, self.step / (self.step + 10))
        with torch.no_grad():
            for name, p in self.network.named_parameters():
                self.average[name].lerp_(p, 1 - keep)

    def averaged(self) -> Transformer:
        """A network of the averaged weights."""
        network = Transformer(WIDTH, DOUBLE, SINGLE, self.network.embedding.num_embeddings)
        network.load_state_dict(self.average)
        return network.eval()


def train(
    target: Path, small: Corpus, large: Corpus, vocabulary: Vocabulary, autoencoder: Autoencoder, steps: int = STEPS
) -> Transformer:
    """Train, saving to (and going on from) a checkpoint."""
    torch.manual_seed(0)
    trainer = Trainer(Transformer(WIDTH, DOUBLE, SINGLE, len(vocabulary.ids)), target, steps)
    network = torch.compile(trainer.network, dynamic=False)
    generator = torch.Generator().manual_seed(1 + trainer.step)
    started, seen = time.time(), 0.0
    while trainer.step < steps:
        large_one = trainer.step % LARGE_EVERY == 0
        rows = 16 if large_one else 8
        full = trainer.step >= steps - FULL_STEPS
        places = Places.full(rows) if full else Places.short(rows, generator)
        batch = BATCH // 3 if large_one else BATCH
        loss = flow_loss(network, large if large_one else small, vocabulary, batch, places, generator)
        trainer.update(loss)
        if not large_one:
            seen = loss.item() if not seen else 0.98 * seen + 0.02 * loss.item()
        if trainer.step % 100 == 0:
            print(f"transformer {trainer.step}/{steps} loss {seen:.4f} {time.time() - started:.0f} s", flush=True)
        if trainer.step % 250 == 0:
            trainer.save()
            preview(trainer.averaged(), autoencoder, vocabulary, target.with_suffix(f".{trainer.step}.png"))
    trainer.save()
    return trainer.averaged()


PREVIEW = [
    "a red circle on a blue background",
    "a yellow star on a black background",
    "a green heart on white",
    "a small purple square at the top left on an orange background",
    "a large white crescent on a turquoise background",
    "a pink triangle on red and white stripes",
    "a black ring at the right on a gradient from blue to yellow",
    "a red heart to the left of a blue diamond on a yellow background",
]


def preview(network: Transformer, autoencoder: Autoencoder, vocabulary: Vocabulary, target: Path) -> None:
    """Draw some prompts, to look at: without guidance above, with it below."""
    from PIL import Image

    rows = []
    for guidance in (1.0, 3.0):
        latents = sample(network, vocabulary, PREVIEW, 8, 12, guidance)
        with torch.no_grad():
            pictures = autoencoder.decoder(latents).clamp(0, 1)
        rows.append(torch.cat(list(pictures), 2))
    sheet = torch.cat(rows, 1).permute(1, 2, 0).mul(255).round().byte().numpy()
    Image.fromarray(sheet).save(target)
