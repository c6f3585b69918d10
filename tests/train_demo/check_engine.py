"""Check that `network` computes what the engine does: ``python -m tests.train_demo.check_engine``.

Random weights, or trained ones with ``--work``, are exported; one step from the same noise is computed by both.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sdcffi import Engine
from sdcffi.images.compare import compare

from .corpus import Vocabulary
from .drawings import SIDE, Pixels
from .evaluate import model_files
from .export import LATENT_CHANNELS, export
from .network import PATCH, TEXT_TOKENS, Autoencoder, Transformer, rotation, unpatched
from .train_transformer import DOUBLE, SINGLE, WIDTH
from .vocabulary import pinned_tokenizer

PROMPT, SEED = "a red circle on a blue background", 42
ALIKE = 50.0  # dB; 70.9 were seen, with no sample more than 1 of 255 apart


def networks(work: Path | None, vocabulary: Vocabulary) -> tuple[Transformer, Autoencoder]:
    """Trained ones from a directory of checkpoints, or random ones; rounded to half precision as export does."""
    torch.manual_seed(0)
    transformer, autoencoder = Transformer(WIDTH, DOUBLE, SINGLE, len(vocabulary.ids)), Autoencoder()
    if work is not None:
        transformer.load_state_dict(torch.load(work / "transformer.pt", weights_only=True)["average"])
        autoencoder.load_state_dict(torch.load(work / "autoencoder.pt", weights_only=True)["average"])
    else:
        for p in transformer.parameters():
            if p.ndim == 2 and not p.any():  # those that training begins with at zero
                nn.init.normal_(p, std=p.shape[1] ** -0.5)
    for p in (*transformer.parameters(), *autoencoder.parameters()):
        if p.ndim > 1:
            p.data = p.data.half().float()
    return transformer.eval(), autoencoder.eval()


@torch.no_grad()
def drawn(transformer: Transformer, autoencoder: Autoencoder, vocabulary: Vocabulary) -> Pixels:
    """One Euler step from pure noise, by PyTorch."""
    rows = SIDE // 16
    torch.manual_seed(SEED)
    noise: Tensor = torch.randn(1, 4 * LATENT_CHANNELS, rows, rows)[0].flatten(1).T[None, :, :PATCH]
    turn = rotation(torch.arange(TEXT_TOKENS), rows, rows)
    velocity = transformer(noise, torch.ones(1), vocabulary.rows([PROMPT], TEXT_TOKENS), turn)
    picture = autoencoder.decoder(unpatched(noise - velocity, rows)).clamp(0, 1)[0].permute(1, 2, 0)
    pixels: Pixels = picture.mul(255).round().byte().numpy()
    return pixels


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.train_demo.check_engine", description="Compare the training's networks with the engine."
    )
    parser.add_argument("--work", type=Path, help="directory of checkpoints (default: random weights)")
    options = parser.parse_args()
    vocabulary = Vocabulary.of(pinned_tokenizer())
    transformer, autoencoder = networks(options.work, vocabulary)
    with tempfile.TemporaryDirectory() as directory:
        model = Path(directory)
        export(model, transformer, vocabulary, autoencoder)
        with Engine(**model_files(model), backend="cpu", rng="cpu", sampler_rng="cpu") as engine:
            result = engine.generate(PROMPT, width=SIDE, height=SIDE, steps=1, cfg_scale=1.0, seed=SEED)
            theirs = result.arrays[0].copy()
    ours = drawn(transformer, autoencoder, vocabulary)
    furthest = int(np.abs(ours.astype(int) - theirs.astype(int)).max())
    psnr = compare(ours, theirs).psnr
    print(f"{psnr:.1f} dB, {furthest} of 255 at most; spread of the image {ours.std():.0f}")
    if psnr < ALIKE or ours.std() < 10:
        sys.exit(f"PyTorch and the engine do not agree: at least {ALIKE} dB are expected")


if __name__ == "__main__":
    main()
