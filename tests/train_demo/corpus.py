"""The training corpus: latents of drawings with the token ids of their captions, made once and kept on disk."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from . import drawings
from .network import Autoencoder
from .vocabulary import END_OF_TEXT, Tokenizer

WORDINGS = 4  # captions of each image
CHUNK = 100
SHORT = 40  # text tokens in training: no caption is longer


@dataclass
class Corpus:
    """Images of one size.

    Attributes
    ----------
    latents : Tensor
        ``float16 (n, LATENT, side / 8, side / 8)``.
    captions : list of list of str
        `WORDINGS` for each.
    """

    latents: Tensor
    captions: list[list[str]]


def _scenes(arguments: tuple[int, int, str]) -> tuple[npt.NDArray[np.uint8], list[list[str]]]:
    seed, side, style = arguments
    rng = np.random.default_rng(seed)
    pictures, captions = [], []
    while len(pictures) < CHUNK:
        scene = drawings.draw_scene(rng)
        if scene.held_out:
            continue
        pictures.append(drawings.render(drawings.jittered(scene, rng), side, style, int(rng.integers(2**31))))
        captions.append([drawings.caption(scene, rng) for _ in range(WORDINGS)])
    return np.stack(pictures), captions


def corpus(target: Path, encoder: Autoencoder, count: int, side: int, *, style: str = "plain", seed: int = 0) -> Corpus:
    """Draw and encode, or read what was kept.

    Parameters
    ----------
    target : Path
        Where it is kept.
    encoder : Autoencoder
        Trained.
    count, side, style, seed
        How many images, their width, in which of `drawings.STYLES`, and the first chunk's seed.
    """
    if target.exists():
        saved = torch.load(target, weights_only=True)
        return Corpus(saved["latents"], saved["captions"])
    jobs = [(seed + n, side, style) for n in range(count // CHUNK)]
    latents, captions = [], []
    network = encoder.encoder.to(memory_format=torch.channels_last).eval()
    with ProcessPoolExecutor(2) as pool, torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        for pictures, words in pool.map(_scenes, jobs):
            x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(255)
            latents.append(network(x.contiguous(memory_format=torch.channels_last)).half())
            captions += words
    made = Corpus(torch.cat(latents), captions)
    torch.save({"latents": made.latents, "captions": made.captions}, target)
    return made


class Vocabulary:
    """The tokens that captions have: rows of the small embedding, the last one for the filling."""

    def __init__(self, tokenizer: Tokenizer, ids: list[int]) -> None:
        self.ids = [*(i for i in ids if i != END_OF_TEXT), END_OF_TEXT]
        self._tokenizer = tokenizer
        self._row = {token: row for row, token in enumerate(self.ids)}

    @classmethod
    def of(cls, tokenizer: Tokenizer, seed: int = 0, captions: int = 30_000) -> Vocabulary:
        """Of all words that `drawings.caption` uses, found by asking it often enough."""
        rng = np.random.default_rng(seed)
        words = {drawings.caption(drawings.draw_scene(rng), rng) for _ in range(captions)}
        return cls(tokenizer, sorted({token for caption in ["", *words] for token in tokenizer.encode(caption)}))

    @property
    def filling(self) -> int:
        """The row of what prompts are filled up with."""
        return len(self.ids) - 1

    def rows(self, captions: list[str], length: int = SHORT) -> Tensor:
        """Rows of the embedding, ``(captions, length)``."""
        out = torch.full((len(captions), length), self.filling)
        for line, text in zip(out, captions, strict=True):
            ids = self._tokenizer.encode(text)
            line[: len(ids)] = torch.tensor([self._row[token] for token in ids])
        return out
