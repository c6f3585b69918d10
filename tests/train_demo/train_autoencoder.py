"""Train the autoencoder: images to latents of about unit spread, and back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from . import drawings
from .network import Autoencoder

PICTURES = 8000
CROP = 64  # pixels
BATCH = 32
STEPS = 3000
RATE = 2e-3
NOISE = 0.08  # spread of what is added to the latents, so that near ones decode alike


def _some(seed: int) -> npt.NDArray[np.uint8]:
    """A hundred images in all styles; some of them in any colours, so that any image can be encoded."""
    rng = np.random.default_rng(seed)
    pictures = []
    for _ in range(100):
        scene = drawings.jittered(drawings.draw_scene(rng), rng)
        style = str(rng.choice(drawings.STYLES, p=[0.7, 0.1, 0.1, 0.1]))
        picture = drawings.render(scene, style=style, seed=int(rng.integers(2**31)))
        if rng.random() < 0.15:  # another palette: turn, mirror and stretch the cube of colours
            mix = rng.uniform(-0.3, 1.0, (3, 3))
            colours = (picture / 255 - 0.5) @ (mix / np.abs(mix).sum(0)) + rng.uniform(0.3, 0.7, 3)
            picture = np.rint(np.clip(colours, 0, 1) * 255).astype(np.uint8)
        pictures.append(picture)
    return np.stack(pictures)


def pictures() -> Tensor:
    """The training images, ``uint8 (PICTURES, 3, SIDE, SIDE)``."""
    with ProcessPoolExecutor() as pool:
        return torch.from_numpy(np.concatenate(list(pool.map(_some, range(PICTURES // 100))))).permute(0, 3, 1, 2)


def _crops(all_pictures: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of crops, each the liveliest of three."""
    span = drawings.SIDE - CROP + 1
    while True:
        which = torch.randint(0, len(all_pictures), (3 * BATCH,), generator=generator)
        top, left = torch.randint(0, span, (2, 3 * BATCH), generator=generator).tolist()
        crops = [
            all_pictures[n, :, y : y + CROP, x : x + CROP] for n, y, x in zip(which.tolist(), top, left, strict=True)
        ]
        tried = torch.stack(crops).float().div(255).view(3, BATCH, 3, CROP, CROP)
        best = tried.std((3, 4)).sum(2).argmax(0)
        yield tried[best, torch.arange(BATCH)].contiguous(memory_format=torch.channels_last)


def train(target: Path, steps: int = STEPS) -> Autoencoder:
    """Train, saving to (and going on from) a checkpoint."""
    torch.manual_seed(0)
    model = Autoencoder().to(memory_format=torch.channels_last)
    average = Autoencoder()
    average.load_state_dict(model.state_dict())
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=1e-4)
    generator = torch.Generator().manual_seed(1)
    first = 0
    if target.exists():
        saved = torch.load(target, weights_only=True)
        first = saved["step"]
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        generator.manual_seed(1 + first)
    if first >= steps:
        return average
    crops, started, seen = _crops(pictures(), generator), time.time(), 0.0

    def save(step: int) -> None:
        parts = {"model": model, "average": average, "optimiser": optimiser}
        torch.save({"step": step, **{name: part.state_dict() for name, part in parts.items()}}, target)

    for step in range(first, steps):
        optimiser.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / 100, 3 * (steps - step) / steps)
        optimiser.zero_grad(set_to_none=True)
        x = next(crops)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z = model.encoder(x).float()
            y = model.decoder(z + NOISE * torch.randn(z.shape, generator=generator))
        loss = F.l1_loss(y.float(), x) + F.mse_loss(y.float(), x)
        spread = z.std((0, 2, 3)), z.mean((0, 2, 3))
        pull = (spread[0] - 1).pow(2).mean() + spread[1].pow(2).mean() + F.relu(z.abs() - 2.5).pow(2).mean()
        (loss + 0.05 * pull).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            for a, b in zip(average.parameters(), model.parameters(), strict=True):
                a.lerp_(b, 0.005)
        seen = loss.item() if not seen else 0.98 * seen + 0.02 * loss.item()
        if step % 50 == 49:
            print(
                f"autoencoder {step + 1}/{steps} L1 {seen:.4f} pull {pull.item():.3f} {time.time() - started:.0f} s",
                flush=True,
            )
        if step % 500 == 499:
            save(step + 1)
    save(steps)
    return average
