"""What the engine is to do with a LoRA file: the tensors of each module, and the rows of weights that they change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["LoraPlan", "Module", "Place"]


@dataclass(frozen=True)
class Place:
    """Rows of a module's difference that are rows of a weight.

    Attributes
    ----------
    weight : str
        The engine's tensor, such as ``"model.diffusion_model.double_blocks.0.img_attn.qkv.weight"``.
    weight_row : int
        First row (output) within the weight.
    module_row : int
        First row within the module's difference.
    rows : int
        Number of rows. 0: all rows of the module.
    transposed : bool
        Whether the engine keeps the transpose, as of OpenCLIP's ``text_projection``.
    """

    weight: str
    weight_row: int = 0
    module_row: int = 0
    rows: int = 0
    transposed: bool = False


@dataclass(frozen=True)
class Module:
    """One module of a LoRA file: how its difference is computed, and where it goes.

    Attributes
    ----------
    name : str
        As in the file.
    kind : str
        ``"lora"``, ``"loha"``, ``"lokr"``, ``"diff"``, ``"glora"``, ``"oft"`` or ``"ia3"``.
    tensors : mapping of str to str
        Names of tensors in the file by role. lora: up, down, mid. loha: w1_a, w1_b, t1, w2_a, w2_b, t2. lokr: w1, w1_a,
        w1_b, w2, w2_a, w2_b, t2. diff: diff. glora: a1, a2, b1, b2. oft: blocks (three dimensions: [n, b, b]; four:
        butterfly; two: packed upper triangles, as in PEFT), rescale. ia3: vector. Any kind: magnitude (DoRA).
    rows : mapping of str to int
        First dimension of each tensor, by role. The rest of it are columns.
    places : tuple of Place
        Rows of weights. A bias' difference is a module of its own, of kind ``"diff"``, whose place is the bias.
    scale : float
        Factor of the difference: alpha / rank, rsLoRA's alpha / sqrt(rank), ..., with LyCORIS' ``scalar`` included.
    strength : float
        Factor of the part or block, as the user asked for.
    used : tuple of str
        All tensors of the file that the module stands for, ``alpha`` and the like included.
    constraint : float
        oft: largest norm of the generators; 0: no limit.
    offset : float
        ia3: added to the vector: 0, or 1 where the vector is the difference from 1.
    on_input : bool
        oft, ia3, magnitude: whether it acts on columns instead of rows.
    inverted : bool
        oft: whether the blocks turn the other way round.
    terms : int
        oft: number of terms of PEFT's series for the blocks. 0: they are exact.
    """

    name: str
    kind: str
    tensors: Mapping[str, str]
    rows: Mapping[str, int]
    places: tuple[Place, ...]
    scale: float = 1.0
    strength: float = 1.0
    used: tuple[str, ...] = ()
    constraint: float = 0.0
    offset: float = 0.0
    on_input: bool = False
    inverted: bool = False
    terms: int = 0


@dataclass(frozen=True)
class LoraPlan:
    """What the engine is to do with a LoRA file.

    Attributes
    ----------
    path : str
        The file.
    is_high_noise : bool
        Whether it is for the high-noise model of Wan 2.2.
    modules : tuple of Module
        Those to apply.
    total : int
        Number of tensors in the file.
    left_out : tuple of (str, str)
        Name of each tensor that belongs to no module above, and the reason.
    """

    path: str
    is_high_noise: bool
    modules: tuple[Module, ...]
    total: int
    left_out: tuple[tuple[str, str], ...]
