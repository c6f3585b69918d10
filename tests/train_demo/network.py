"""The demonstration model in PyTorch, batched and trainable: the same arithmetic as the engine's FLUX.2 kind.

Names of the parameters are those of the exported tensors. Two things are narrower than the files, and are filled up
with zeros in `export`: the autoencoder's channels away from its middle, and the latent space, of which `LATENT` of 32
channels are used.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD = 128  # fixed by the rotary embedding's axes, 4 x 32
TEXT = 64  # width of the text encoder
TEXT_TOKENS = 512  # the engine fills every prompt up to so many
LATENT = 12  # used channels of the latent space
PATCH = 4 * LATENT  # channels of one token: 2 x 2 places of the latent space
WIDTHS = (16, 32, 48, 64)  # channels of the autoencoder at 1/1, 1/2, 1/4, 1/8 of the image's size


# -- autoencoder (TAEF2) ----------------------------------------------------------------------------------------------


def conv(inp: int, out: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """A 3 x 3 convolution that keeps the spread of what a ReLU gives it (He and others, 2015)."""
    layer = nn.Conv2d(inp, out, 3, stride=stride, padding=1, bias=bias)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Block(nn.Module):
    """Three convolutions and a way past them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.ModuleDict({str(i): conv(width, width) for i in (0, 2, 4)})
        nn.init.zeros_(self.conv["4"].weight)  # at first the way past is all there is

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv["2"](F.relu(self.conv["0"](x))))
        return F.relu(self.conv["4"](y) + x)


class Encoder(nn.Module):
    """Images ``(n, 3, h, w)``, 0 to 1, to latents ``(n, LATENT, h / 8, w / 8)``."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(3, WIDTHS[0]), Block(WIDTHS[0])]
        for narrow, wide in itertools.pairwise(WIDTHS):
            layers += [conv(narrow, wide, stride=2, bias=False), *(Block(wide) for _ in range(3))]
        self.layers = nn.Sequential(*layers, conv(WIDTHS[-1], LATENT))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class Decoder(nn.Module):
    """Latents to images."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(LATENT, WIDTHS[-1]), nn.ReLU()]
        for wide, narrow in itertools.pairwise(WIDTHS[::-1]):
            layers += [*(Block(wide) for _ in range(3)), nn.Upsample(scale_factor=2)]
            layers += [conv(wide, narrow, bias=False)]
        layers += [Block(WIDTHS[0]), conv(WIDTHS[0], 3)]
        self.layers = nn.Sequential(*layers)
        self.clamp = Clamp()

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(self.clamp(z))


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder()


def patched(z: Tensor) -> Tensor:
    """Latents ``(n, LATENT, 2 rows, 2 columns)`` as tokens ``(n, rows * columns, PATCH)``."""
    n, c, h, w = z.shape
    return z.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, h * w // 4, 4 * c)


def unpatched(x: Tensor, rows: int) -> Tensor:
    """The reverse of `patched`."""
    n, tokens, channels = x.shape
    columns = tokens // rows
    z = x.view(n, rows, columns, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return z.reshape(n, channels // 4, 2 * rows, 2 * columns)


# -- diffusion transformer --------------------------------------------------------------------------------------------


def rms_norm(x: Tensor, scale: Tensor) -> Tensor:
    return x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6).to(x.dtype) * scale.to(x.dtype)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def gated_silu(x: Tensor) -> Tensor:
    gate, value = x.chunk(2, -1)
    return F.silu(gate) * value


def linear(inp: int, out: int) -> nn.Linear:
    layer = nn.Linear(inp, out, bias=False)
    nn.init.normal_(layer.weight, std=inp**-0.5)
    return layer


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query_norm, self.key_norm = Scale(), Scale()


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(HEAD))


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj, self.norm = linear(width, 3 * width), linear(width, width), Norm()


def heads(qkv: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each ``(n, heads, tokens, HEAD)``."""
    n, tokens, _ = qkv.shape
    q, k, v = qkv.view(n, tokens, 3, -1, HEAD).permute(2, 0, 3, 1, 4)
    return rms_norm(q, norm.query_norm.scale), rms_norm(k, norm.key_norm.scale), v


def attend(q: Tensor, k: Tensor, v: Tensor, turn: tuple[Tensor, Tensor], bias: Tensor | None) -> Tensor:
    cos, sin = turn

    def rotate(x: Tensor) -> Tensor:  # neighbouring pairs
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)

    out = F.scaled_dot_product_attention(rotate(q), rotate(k), v, attn_mask=bias)
    return out.transpose(1, 2).flatten(2)


class DoubleBlock(nn.Module):
    """Text and image with weights of their own, and one attention over both."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.img_attn, self.txt_attn = Attention(width), Attention(width)
        self.img_mlp = nn.ModuleDict({"0": linear(width, 6 * width), "2": linear(3 * width, width)})
        self.txt_mlp = nn.ModuleDict({"0": linear(width, 6 * width), "2": linear(3 * width, width)})

    def forward(
        self,
        text: Tensor,
        image: Tensor,
        mod_text: tuple[Tensor, ...],
        mod_image: tuple[Tensor, ...],
        turn: tuple[Tensor, Tensor],
        bias: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        n = text.shape[1]
        t = heads(self.txt_attn.qkv(modulated(text, mod_text[0], mod_text[1])), self.txt_attn.norm)
        i = heads(self.img_attn.qkv(modulated(image, mod_image[0], mod_image[1])), self.img_attn.norm)
        q, k, v = (torch.cat(both, 2) for both in zip(t, i, strict=True))
        out = attend(q, k, v, turn, bias)
        text = text + mod_text[2] * self.txt_attn.proj(out[:, :n])
        image = image + mod_image[2] * self.img_attn.proj(out[:, n:])
        text = text + mod_text[5] * self.txt_mlp["2"](
            gated_silu(self.txt_mlp["0"](modulated(text, mod_text[3], mod_text[4])))
        )
        image = image + mod_image[5] * self.img_mlp["2"](
            gated_silu(self.img_mlp["0"](modulated(image, mod_image[3], mod_image[4])))
        )
        return text, image


class SingleBlock(nn.Module):
    """One set of weights for all tokens, attention and perceptron side by side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.linear1, self.linear2, self.norm = linear(width, 9 * width), linear(4 * width, width), Norm()

    def forward(self, z: Tensor, mod: tuple[Tensor, ...], turn: tuple[Tensor, Tensor], bias: Tensor | None) -> Tensor:
        y = self.linear1(modulated(z, mod[0], mod[1]))
        out = attend(*heads(y[..., : 3 * self.width], self.norm), turn, bias)
        return z + mod[2] * self.linear2(torch.cat((out, gated_silu(y[..., 3 * self.width :])), -1))


class In(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_layer, self.out_layer = linear(256, width), linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        frequency = torch.exp(-math.log(10_000) * torch.arange(128, device=t.device) / 128)
        angle = 1000 * t[:, None] * frequency
        return self.out_layer(F.silu(self.in_layer(torch.cat((angle.cos(), angle.sin()), -1))))


class Modulation(nn.Module):
    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.lin = nn.Linear(width, parts * width, bias=False)
        nn.init.zeros_(self.lin.weight)
        self.parts = parts

    def forward(self, vec: Tensor) -> tuple[Tensor, ...]:
        return self.lin(vec)[:, None].chunk(self.parts, -1)


class Final(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, PATCH, bias=False)
        nn.init.zeros_(self.linear.weight)
        self.adaLN_modulation = nn.ModuleDict({"1": nn.Linear(width, 2 * width, bias=False)})
        nn.init.zeros_(self.adaLN_modulation["1"].weight)

    def forward(self, x: Tensor, vec: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation["1"](vec)[:, None].chunk(2, -1)
        return self.linear(modulated(x, shift, scale))


def rotation(text_places: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every token's rotary angles, ``(tokens, HEAD / 2)``: axes time, row, column, text place."""
    n = len(text_places)
    place = torch.zeros(n + rows * columns, 4)
    place[:n, 3] = text_places.float()
    place[n:, 1] = torch.arange(rows).repeat_interleave(columns)
    place[n:, 2] = torch.arange(columns).repeat(rows)
    frequency = 2000.0 ** (-torch.arange(0, 32, 2).float() / 32)
    angle = (place[:, :, None] * frequency).flatten(1)
    return angle.cos(), angle.sin()


class Transformer(nn.Module):
    """Velocity (noise - image) of tokens at a noise level, given the text.

    Parameters
    ----------
    width : int
        Of the tokens, a multiple of `HEAD`.
    double, single : int
        Blocks of either kind.
    vocabulary : int
        Rows of the embedding; the last one is that of the filling.
    """

    def __init__(self, width: int, double: int, single: int, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, TEXT)
        self.text_norm = nn.Parameter(torch.ones(TEXT))
        self.img_in, self.txt_in, self.time_in = linear(PATCH, width), linear(TEXT, width), In(width)
        self.double_blocks = nn.ModuleList(DoubleBlock(width) for _ in range(double))
        self.single_blocks = nn.ModuleList(SingleBlock(width) for _ in range(single))
        self.double_stream_modulation_img = Modulation(width, 6)
        self.double_stream_modulation_txt = Modulation(width, 6)
        self.single_stream_modulation = Modulation(width, 3)
        self.final_layer = Final(width)

    def forward(
        self, x: Tensor, t: Tensor, ids: Tensor, turn: tuple[Tensor, Tensor], bias: Tensor | None = None
    ) -> Tensor:
        """Give the velocity.

        Parameters
        ----------
        x : Tensor
            ``(n, tokens, PATCH)``.
        t : Tensor
            Noise level of each, ``(n,)``, 0 to 1.
        ids : Tensor
            Rows of the embedding, ``(n, text tokens)``.
        turn : tuple of Tensor
            From `rotation`.
        bias : Tensor, optional
            Added to the attention's logits, ``(1, 1, 1, tokens)``: how many tokens a filling token stands for.
        """
        n = ids.shape[1]
        text = self.txt_in(rms_norm(self.embedding(ids), self.text_norm))
        image = self.img_in(x)
        vec = F.silu(self.time_in(t))
        mod_image, mod_text = self.double_stream_modulation_img(vec), self.double_stream_modulation_txt(vec)
        for block in self.double_blocks:
            text, image = block(text, image, mod_text, mod_image, turn, bias)
        z, mod = torch.cat((text, image), 1), self.single_stream_modulation(vec)
        for block in self.single_blocks:
            z = block(z, mod, turn, bias)
        return self.final_layer(z[:, n:], vec)
