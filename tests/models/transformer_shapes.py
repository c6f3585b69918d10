"""Names and shapes of diffusion transformers, as their original files have them, with few blocks.

Where the engine reads a width from the file it is small here; elsewhere it is the published one.
"""

from __future__ import annotations

from sparse import Shapes

HEAD = 128
TEXT = 64  # width of text encoders that the engine reads from the file
T5 = 4096
WAN21, TI2V = (1536, 8960), (3072, 14336)  # width, and width within the feed-forward


def flux(*, hidden: int = HEAD, double: int = 2, single: int = 2) -> Shapes:
    """FLUX.1 with guidance."""
    shapes = Shapes()
    shapes.linear("img_in", hidden, 64)
    shapes.linear("txt_in", hidden, T5)
    for name, inputs in (("time_in", 256), ("vector_in", 768), ("guidance_in", 256)):
        shapes.linear(f"{name}.in_layer", hidden, inputs)
        shapes.linear(f"{name}.out_layer", hidden, hidden)
    _flux_blocks(shapes, hidden, double, single)
    for i in range(double):
        for stream in ("img", "txt"):
            shapes.linear(f"double_blocks.{i}.{stream}_mod.lin", 6 * hidden, hidden)
    for i in range(single):
        shapes.linear(f"single_blocks.{i}.modulation.lin", 3 * hidden, hidden)
    shapes.linear("final_layer.adaLN_modulation.1", 2 * hidden, hidden)
    return shapes


def chroma(*, hidden: int = HEAD) -> Shapes:
    """Chroma: FLUX.1's blocks, modulated by one network of fixed size."""
    shapes = Shapes()
    shapes.linear("img_in", hidden, 64)
    shapes.linear("txt_in", hidden, T5)
    guidance, inner = "distilled_guidance_layer.", 5120
    shapes.linear(f"{guidance}in_proj", inner, 64)
    for i in range(5):
        shapes.norms(inner, f"{guidance}norms.{i}.scale")
        shapes.linear(f"{guidance}layers.{i}.in_layer", inner, inner)
        shapes.linear(f"{guidance}layers.{i}.out_layer", inner, inner)
    shapes.linear(f"{guidance}out_proj", hidden, inner)
    _flux_blocks(shapes, hidden, 2, 2)
    return shapes


def ovis(*, hidden: int = HEAD) -> Shapes:
    """Ovis-Image: FLUX.1's blocks with gated feed-forwards, and no pooled text."""
    shapes = Shapes()
    shapes.linear("img_in", hidden, 64)
    shapes.norms(TEXT, "txt_norm.scale")
    shapes.linear("txt_in", hidden, TEXT)
    shapes.linear("time_in.in_layer", hidden, 256)
    shapes.linear("time_in.out_layer", hidden, hidden)
    _flux_blocks(shapes, hidden, 2, 2, gated=True)
    for i in range(2):
        for stream in ("img", "txt"):
            shapes.linear(f"double_blocks.{i}.{stream}_mod.lin", 6 * hidden, hidden)
        shapes.linear(f"single_blocks.{i}.modulation.lin", 3 * hidden, hidden)
    shapes.linear("final_layer.adaLN_modulation.1", 2 * hidden, hidden)
    return shapes


def _flux_blocks(shapes: Shapes, hidden: int, double: int, single: int, gated: bool = False) -> None:
    inner = 4 * hidden
    for i in range(double):
        for stream in ("img", "txt"):
            block = f"double_blocks.{i}.{stream}_"
            shapes.linear(f"{block}attn.qkv", 3 * hidden, hidden)
            shapes.linear(f"{block}attn.proj", hidden, hidden)
            shapes.norms(HEAD, f"{block}attn.norm.query_norm.scale", f"{block}attn.norm.key_norm.scale")
            for name in ("gate_proj", "up_proj") if gated else ("0",):
                shapes.linear(f"{block}mlp.{name}", inner, hidden)
            shapes.linear(f"{block}mlp.{'down_proj' if gated else '2'}", hidden, inner)
    for i in range(single):
        block = f"single_blocks.{i}."
        shapes.linear(f"{block}linear1", 3 * hidden + (2 if gated else 1) * inner, hidden)
        shapes.linear(f"{block}linear2", hidden, hidden + inner)
        shapes.norms(HEAD, f"{block}norm.query_norm.scale", f"{block}norm.key_norm.scale")
    shapes.linear("final_layer.linear", 64, hidden)


def flux2(text: int, *, hidden: int = HEAD, guided: bool = False, single: int = 2) -> Shapes:
    """FLUX.2: klein, or dev with guidance, which the engine knows by its 48 single blocks."""
    shapes, inner = Shapes(), 3 * hidden
    shapes.linear("img_in", hidden, 128, bias=False)
    shapes.linear("txt_in", hidden, text, bias=False)
    for name in ("time_in", "guidance_in")[: 2 if guided else 1]:
        shapes.linear(f"{name}.in_layer", hidden, 256, bias=False)
        shapes.linear(f"{name}.out_layer", hidden, hidden, bias=False)
    for i in range(2):
        for stream in ("img", "txt"):
            block = f"double_blocks.{i}.{stream}_"
            shapes.linear(f"{block}attn.qkv", 3 * hidden, hidden, bias=False)
            shapes.linear(f"{block}attn.proj", hidden, hidden, bias=False)
            shapes.norms(HEAD, f"{block}attn.norm.query_norm.scale", f"{block}attn.norm.key_norm.scale")
            shapes.linear(f"{block}mlp.0", 2 * inner, hidden, bias=False)
            shapes.linear(f"{block}mlp.2", hidden, inner, bias=False)
    for i in range(single):
        block = f"single_blocks.{i}."
        shapes.linear(f"{block}linear1", 3 * hidden + 2 * inner, hidden, bias=False)
        shapes.linear(f"{block}linear2", hidden, hidden + inner, bias=False)
        shapes.norms(HEAD, f"{block}norm.query_norm.scale", f"{block}norm.key_norm.scale")
    shapes.linear("final_layer.linear", 128, hidden, bias=False)
    shapes.linear("final_layer.adaLN_modulation.1", 2 * hidden, hidden, bias=False)
    for name, parts in (("double_stream_modulation_img", 6), ("double_stream_modulation_txt", 6)):
        shapes.linear(f"{name}.lin", parts * hidden, hidden, bias=False)
    shapes.linear("single_stream_modulation.lin", 3 * hidden, hidden, bias=False)
    return shapes


def sd3(*, depth: int = 24, dual: int = 0) -> Shapes:
    """Stable Diffusion 3.5: 64 x depth wide, and the engine takes no fewer than 24 blocks.

    The first `dual` blocks have a second attention, as in 3.5 medium, whose table of positions is four times as large.
    """
    hidden = 64 * depth
    shapes = Shapes()
    shapes["pos_embed"] = (1, 384**2 if dual else 192**2, hidden)
    shapes["x_embedder.proj.weight"] = (hidden, 16, 2, 2)
    shapes["x_embedder.proj.bias"] = (hidden,)
    for name, inputs in (("t_embedder", 256), ("y_embedder", 2048)):
        shapes.linear(f"{name}.mlp.0", hidden, inputs)
        shapes.linear(f"{name}.mlp.2", hidden, hidden)
    shapes.linear("context_embedder", hidden, T5)
    for i in range(depth):
        last = i == depth - 1
        for stream in ("context", "x"):
            block = f"joint_blocks.{i}.{stream}_block."
            ends = last and stream == "context"
            twice = i < dual and stream == "x"
            for attention in ("attn", "attn2") if twice else ("attn",):
                shapes.linear(f"{block}{attention}.qkv", 3 * hidden, hidden)
                shapes.norms(64, f"{block}{attention}.ln_q.weight", f"{block}{attention}.ln_k.weight")
                if not ends:
                    shapes.linear(f"{block}{attention}.proj", hidden, hidden)
            if not ends:
                shapes.linear(f"{block}mlp.fc1", 4 * hidden, hidden)
                shapes.linear(f"{block}mlp.fc2", hidden, 4 * hidden)
            shapes.linear(f"{block}adaLN_modulation.1", (2 if ends else 9 if twice else 6) * hidden, hidden)
    shapes.linear("final_layer.linear", 64, hidden)
    shapes.linear("final_layer.adaLN_modulation.1", 2 * hidden, hidden)
    return shapes


def qwen_image(*, layers: int = 1) -> Shapes:
    hidden, text = 3072, 3584
    shapes = Shapes()
    shapes.linear("img_in", hidden, 64)
    shapes.norms(text, "txt_norm.weight")
    shapes.linear("txt_in", hidden, text)
    shapes.linear("time_text_embed.timestep_embedder.linear_1", hidden, 256)
    shapes.linear("time_text_embed.timestep_embedder.linear_2", hidden, hidden)
    for i in range(layers):
        block = f"transformer_blocks.{i}."
        for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0", "to_add_out"):
            shapes.linear(f"{block}attn.{name}", hidden, hidden)
        for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            shapes.norms(HEAD, f"{block}attn.{name}.weight")
        for stream in ("img", "txt"):
            shapes.linear(f"{block}{stream}_mod.1", 6 * hidden, hidden)
            shapes.linear(f"{block}{stream}_mlp.net.0.proj", 4 * hidden, hidden)
            shapes.linear(f"{block}{stream}_mlp.net.2", hidden, 4 * hidden)
    shapes.linear("norm_out.linear", 2 * hidden, hidden)
    shapes.linear("proj_out", 64, hidden)
    return shapes


def z_image() -> Shapes:
    """Z-Image: the engine 2026-05 fixes all sizes, 2026-08 reads them from the file."""
    hidden, inner, text, time = 3840, 10240, 2560, 256
    shapes = Shapes()
    shapes.linear("x_embedder", hidden, 64)
    shapes.linear("t_embedder.mlp.0", 1024, 256)
    shapes.linear("t_embedder.mlp.2", time, 1024)
    shapes.norms(text, "cap_embedder.0.weight")
    shapes.linear("cap_embedder.1", hidden, text)
    shapes["x_pad_token"] = shapes["cap_pad_token"] = (1, hidden)
    for part, count in (("noise_refiner", 2), ("context_refiner", 2), ("layers", 30)):
        for i in range(count):
            block = f"{part}.{i}."
            shapes.linear(f"{block}attention.qkv", 3 * hidden, hidden, bias=False)
            shapes.linear(f"{block}attention.out", hidden, hidden, bias=False)
            shapes.norms(HEAD, f"{block}attention.q_norm.weight", f"{block}attention.k_norm.weight")
            shapes.linear(f"{block}feed_forward.w1", inner, hidden, bias=False)
            shapes.linear(f"{block}feed_forward.w2", hidden, inner, bias=False)
            shapes.linear(f"{block}feed_forward.w3", inner, hidden, bias=False)
            for norm in ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"):
                shapes.norms(hidden, f"{block}{norm}.weight")
            if part != "context_refiner":
                shapes.linear(f"{block}adaLN_modulation.0", 4 * hidden, time)
    shapes.linear("final_layer.linear", 64, hidden)
    shapes.linear("final_layer.adaLN_modulation.1", hidden, time)
    return shapes


def anima(*, layers: int = 1) -> Shapes:
    """Anima: Cosmos Predict 2's transformer and an adapter of six layers, whose sizes are fixed."""
    hidden, text, time = 2048, 1024, 256
    shapes = Shapes()
    shapes.linear("x_embedder.proj.1", hidden, 68, bias=False)
    shapes.linear("t_embedder.1.linear_1", hidden, hidden, bias=False)
    shapes.linear("t_embedder.1.linear_2", 3 * hidden, hidden, bias=False)
    shapes.norms(hidden, "t_embedding_norm.weight")
    for i in range(layers):
        block = f"blocks.{i}."
        for part in ("self_attn", "cross_attn", "mlp"):
            shapes.linear(f"{block}adaln_modulation_{part}.1", time, hidden, bias=False)
            shapes.linear(f"{block}adaln_modulation_{part}.2", 3 * hidden, time, bias=False)
        _anima_attention(shapes, f"{block}self_attn.", hidden, hidden, HEAD, "output_proj")
        _anima_attention(shapes, f"{block}cross_attn.", hidden, text, HEAD, "output_proj")
        shapes.linear(f"{block}mlp.layer1", 4 * hidden, hidden, bias=False)
        shapes.linear(f"{block}mlp.layer2", hidden, 4 * hidden, bias=False)
    shapes.linear("final_layer.adaln_modulation.1", time, hidden, bias=False)
    shapes.linear("final_layer.adaln_modulation.2", 2 * hidden, time, bias=False)
    shapes.linear("final_layer.linear", 64, hidden, bias=False)
    shapes["llm_adapter.embed.weight"] = (32128, text)
    for i in range(6):
        block = f"llm_adapter.blocks.{i}."
        for part in ("self_attn", "cross_attn"):
            _anima_attention(shapes, f"{block}{part}.", text, text, 64, "o_proj")
        shapes.norms(text, *(f"{block}norm_{part}.weight" for part in ("self_attn", "cross_attn", "mlp")))
        shapes.linear(f"{block}mlp.0", 4 * text, text)
        shapes.linear(f"{block}mlp.2", text, 4 * text)
    shapes.linear("llm_adapter.out_proj", text, text)
    shapes.norms(text, "llm_adapter.norm.weight")
    return shapes.beginning("net.")


def _anima_attention(shapes: Shapes, name: str, width: int, context: int, head: int, output: str) -> None:
    for part, inputs in (("q_proj", width), ("k_proj", context), ("v_proj", context), (output, width)):
        shapes.linear(name + part, width, inputs, bias=False)
    shapes.norms(head, f"{name}q_norm.weight", f"{name}k_norm.weight")


def ernie(*, hidden: int = HEAD, layers: int = 2, text: int = TEXT) -> Shapes:
    shapes = Shapes()
    shapes["x_embedder.proj.weight"] = (hidden, 128, 1, 1)
    shapes["x_embedder.proj.bias"] = (hidden,)
    shapes.linear("text_proj", hidden, text, bias=False)
    shapes.linear("time_embedding.linear_1", hidden, hidden)
    shapes.linear("time_embedding.linear_2", hidden, hidden)
    shapes.linear("adaLN_modulation.1", 6 * hidden, hidden)
    for i in range(layers):
        block = f"layers.{i}."
        shapes.norms(hidden, f"{block}adaLN_sa_ln.weight", f"{block}adaLN_mlp_ln.weight")
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            shapes.linear(f"{block}self_attention.{name}", hidden, hidden, bias=False)
        shapes.norms(HEAD, f"{block}self_attention.norm_q.weight", f"{block}self_attention.norm_k.weight")
        shapes.linear(f"{block}mlp.gate_proj", 3 * hidden, hidden, bias=False)
        shapes.linear(f"{block}mlp.up_proj", 3 * hidden, hidden, bias=False)
        shapes.linear(f"{block}mlp.linear_fc2", hidden, 3 * hidden, bias=False)
    shapes.linear("final_norm.linear", 2 * hidden, hidden)
    shapes.linear("final_linear", 128, hidden)
    return shapes


def wan(size: tuple[int, int] = WAN21, *, latent: int = 16, i2v: bool = False) -> Shapes:
    """Wan: the engine knows the sizes by the number of blocks, 30 or 40."""
    dim, inner = size
    shapes = Shapes()
    shapes["patch_embedding.weight"] = (dim, 2 * latent + 4 if i2v else latent, 1, 2, 2)
    shapes["patch_embedding.bias"] = (dim,)
    shapes.linear("text_embedding.0", dim, T5)
    shapes.linear("text_embedding.2", dim, dim)
    shapes.linear("time_embedding.0", dim, 256)
    shapes.linear("time_embedding.2", dim, dim)
    shapes.linear("time_projection.1", 6 * dim, dim)
    for i in range(30):
        block = f"blocks.{i}."
        shapes[f"{block}modulation"] = (1, 6, dim)
        shapes.norms(dim, f"{block}norm3.weight", f"{block}norm3.bias")
        for attention in ("self_attn", "cross_attn"):
            image = i2v and attention == "cross_attn"
            for part in ("q", "k", "v", "o", "k_img", "v_img")[: 6 if image else 4]:
                shapes.linear(f"{block}{attention}.{part}", dim, dim)
            for part in ("norm_q", "norm_k", "norm_k_img")[: 3 if image else 2]:
                shapes.norms(dim, f"{block}{attention}.{part}.weight")
        shapes.linear(f"{block}ffn.0", inner, dim)
        shapes.linear(f"{block}ffn.2", dim, inner)
    shapes.linear("head.head", 4 * latent, dim)
    shapes["head.modulation"] = (1, 2, dim)
    if i2v:
        vision = 1280
        for norm, width in (("img_emb.proj.0", vision), ("img_emb.proj.4", dim)):
            shapes.norms(width, f"{norm}.weight", f"{norm}.bias")
        shapes.linear("img_emb.proj.1", vision, vision)
        shapes.linear("img_emb.proj.3", dim, vision)
    return shapes
