"""Train the demonstration model and write its files: ``python -m tests.train_demo``.

Needs what `requirements.txt` lists. Every stage is kept in the work directory and gone on from: autoencoder, corpora,
transformer, LoRAs. `python -m tests.train_demo.evaluate` measures the result.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch

from . import drawings, train_autoencoder, train_loras, train_transformer
from .corpus import Vocabulary, corpus
from .export import export, save
from .vocabulary import pinned_tokenizer

SMALL, LARGE, STYLED = 30_000, 4_000, 2_500  # images of 128 and of 256 pixels, and of each LoRA's style


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.train_demo", description="Train the demonstration model.")
    parser.add_argument("--work", type=Path, default=Path("train_demo"), help="directory of checkpoints and corpora")
    parser.add_argument("--output", type=Path, default=Path("sdcffi/weights"), help="directory of the model's files")
    parser.add_argument("--steps", type=int, default=train_transformer.STEPS, help="of the transformer")
    parser.add_argument("--loras", nargs="*", default=list(train_loras.KINDS), help="which to train")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    autoencoder = train_autoencoder.train(options.work / "autoencoder.pt")
    vocabulary = Vocabulary.of(pinned_tokenizer())
    small = corpus(options.work / "small.pt", autoencoder, SMALL, drawings.SIDE)
    large = corpus(options.work / "large.pt", autoencoder, LARGE, 2 * drawings.SIDE, seed=10_000)
    network = train_transformer.train(
        options.work / "transformer.pt", small, large, vocabulary, autoencoder, options.steps
    )
    export(options.output, network, vocabulary, autoencoder)
    for style in options.loras:
        styled = corpus(options.work / f"{style}.pt", autoencoder, STYLED, drawings.SIDE, style=style, seed=20_000)
        tensors = train_loras.train(style, copy.deepcopy(network), styled, vocabulary)
        save(tensors, options.output / "loras" / f"{style}.safetensors", {"trained": f"drawings in the style {style}"})


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    main()
