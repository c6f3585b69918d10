"""Names and shapes of text encoders with few layers, where the engine reads their number from the file."""

from __future__ import annotations

import full_size
from full_size import Layout
from sparse import Shapes

QWEN, QWEN_VL, MISTRAL = 151_936, 152_064, 131_072  # sizes of vocabularies: the tokenizers are part of the engine
_HEAD = 128
# The engine ignores it, our check looks for the encoder. Without T5 the engine takes zeros in the prompt's place.
NO_T5 = Shapes({"text_encoders.t5xxl.transformer.encoder.embed_tokens.weight": (1, 1)})


def clip_l() -> Shapes:
    """CLIP ViT-L/14: the engine fixes its sizes."""
    layout = Layout()
    full_size.clip(layout.named("text_encoder", ""))
    return Shapes(layout.tensors)


def clip_g() -> Shapes:
    """OpenCLIP ViT-bigG/14 with the names of transformers."""
    width, shapes = 1280, Shapes()
    root = "text_model."
    shapes[f"{root}embeddings.token_embedding.weight"] = (49408, width)
    shapes[f"{root}embeddings.position_embedding.weight"] = (77, width)
    for i in range(32):
        layer = f"{root}encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes.linear(f"{layer}self_attn.{name}", width, width)
        shapes.linear(f"{layer}mlp.fc1", 4 * width, width)
        shapes.linear(f"{layer}mlp.fc2", width, 4 * width)
        for norm in ("layer_norm1", "layer_norm2"):
            shapes.norms(width, f"{layer}{norm}.weight", f"{layer}{norm}.bias")
    shapes.norms(width, f"{root}final_layer_norm.weight", f"{root}final_layer_norm.bias")
    shapes["text_projection.weight"] = (width, width)
    return shapes


def qwen3(width: int, *, heads: int = 32, layers: int = 1) -> Shapes:
    """Qwen3; the engine takes 16 heads instead where there are 28 layers."""
    shapes = _language_model(QWEN, width, heads, 8, layers=layers)
    for i in range(layers):
        shapes.norms(_HEAD, *(f"model.layers.{i}.self_attn.{name}_norm.weight" for name in "qk"))
    return shapes


def qwen2_vl(width: int = 3584) -> Shapes:
    """One layer of Qwen2.5-VL without the part that looks at images."""
    return _language_model(QWEN_VL, width, 28, 4, bias=True)


def ministral(width: int, *, layers: int = 1, inner: int = 192) -> Shapes:
    return _language_model(MISTRAL, width, 32, 8, layers=layers, inner=inner)


def _language_model(
    vocabulary: int, width: int, heads: int, pairs: int, *, bias: bool = False, layers: int = 1, inner: int = 192
) -> Shapes:
    shapes = Shapes({"model.embed_tokens.weight": (vocabulary, width)})
    for i in range(layers):
        _layer(shapes, f"model.layers.{i}.", width, heads, pairs, bias, inner)
    shapes.norms(width, "model.norm.weight")
    return shapes


def _layer(shapes: Shapes, layer: str, width: int, heads: int, pairs: int, bias: bool, inner: int) -> None:
    shapes.linear(f"{layer}self_attn.q_proj", heads * _HEAD, width, bias=bias)
    shapes.linear(f"{layer}self_attn.k_proj", pairs * _HEAD, width, bias=bias)
    shapes.linear(f"{layer}self_attn.v_proj", pairs * _HEAD, width, bias=bias)
    shapes.linear(f"{layer}self_attn.o_proj", width, heads * _HEAD, bias=False)
    for name, out, inp in (("gate_proj", inner, width), ("up_proj", inner, width), ("down_proj", width, inner)):
        shapes.linear(f"{layer}mlp.{name}", out, inp, bias=False)
    shapes.norms(width, f"{layer}input_layernorm.weight", f"{layer}post_attention_layernorm.weight")


def t5xxl(vocabulary: int = 32_128) -> Shapes:
    """T5's encoder at full size, for files of zeros: the engine 2026-05 fixes its sizes."""
    width, shapes = 4096, Shapes({"shared.weight": (vocabulary, 4096)})
    shapes["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = (32, 64)
    for i in range(24):
        block = f"encoder.block.{i}.layer."
        for name in "qkvo":
            shapes[f"{block}0.SelfAttention.{name}.weight"] = (width, width)
        shapes[f"{block}1.DenseReluDense.wi_0.weight"] = shapes[f"{block}1.DenseReluDense.wi_1.weight"] = (10240, width)
        shapes[f"{block}1.DenseReluDense.wo.weight"] = (width, 10240)
        shapes.norms(width, f"{block}0.layer_norm.weight", f"{block}1.layer_norm.weight")
    shapes.norms(width, "encoder.final_layer_norm.weight")
    return shapes
