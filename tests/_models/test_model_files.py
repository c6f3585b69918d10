"""Model files are told apart by their headers; what is missing, misplaced or malformed is refused, in pure Python."""

from __future__ import annotations

import random
import struct
import time
from pathlib import Path
from typing import Any

import full_size
import numpy as np
import pytest
from header_files import Shapes, gguf_bytes, metadata, mutated, safetensors, write, write_gguf
from model_headers import ALONE, CLIP, CONTROL, FLUX, FLUX2, LLM, LORA, SD1, SDXL, TINY, VAE, prefixed, read, unet
from tiny_model import TinyModel
from torch_files import write_torch

from sdcffi import PathNotFoundError
from sdcffi._models.files import read_file, read_model
from sdcffi._models.headers import HeaderError, read_header
from sdcffi.params.context import ContextParams, Embedding


@pytest.mark.parametrize(
    ("files", "name", "multiple"),
    [
        ({"model": SD1}, "sd1", 64),
        ({"model": {**unet(1024), **CLIP, **VAE}}, "sd2", 64),
        ({"model": SDXL}, "sdxl", 64),
        ({"diffusion_model": unet(768), "clip_l": {"text_model.a": (2,)}, "vae": ALONE}, "sd1", 64),
        ({"diffusion_model": FLUX2, "llm": LLM, "vae": ALONE}, "flux2", 16),
        ({"diffusion_model": FLUX2, "llm": LLM, "taesd": TINY}, "flux2", 16),
        ({"diffusion_model": FLUX, "clip_l": {"text_model.a": (2,)}, "t5xxl": LLM, "vae": ALONE}, "flux", 8),
        (
            {
                "diffusion_model": {**FLUX, "distilled_guidance_layer.in_proj.weight": (2, 2)},
                "t5xxl": LLM,
                "vae": ALONE,
            },
            "chroma",
            8,
        ),
        ({"diffusion_model": {"nerf_final_layer_conv.w": (2,)}, "t5xxl": LLM}, "chroma_radiance", 1),
        ({"diffusion_model": {"joint_blocks.0.w": (2,)}, "clip_l": {"text_model.a": (2,)}, "vae": ALONE}, "sd3", 8),
        ({"diffusion_model": {"cap_embedder.0.weight": (2,)}, "llm": LLM, "vae": ALONE}, "z_image", 8),
        (
            {"diffusion_model": {"transformer_blocks.0.img_mod.1.weight": (2,)}, "llm": LLM, "vae": ALONE},
            "qwen_image",
            8,
        ),
        ({"diffusion_model": {"layers.0.adaLN_sa_ln.weight": (2,)}, "llm": LLM, "vae": ALONE}, "ernie_image", 16),
        ({"diffusion_model": {"blocks.0.cross_attn.norm_k.weight": (2,)}, "t5xxl": LLM, "vae": ALONE}, "wan", 16),
        (
            {
                "diffusion_model": {
                    "blocks.0.cross_attn.norm_k.weight": (2,),
                    "patch_embedding.weight": (3072, 48, 1, 2, 2),
                },
                "t5xxl": LLM,
                "vae": ALONE,
            },
            "wan_ti2v",
            32,
        ),
    ],
)
def test_an_architecture_is_told_from_tensor_names(
    files: dict[str, Shapes], name: str, multiple: int, tmp_path: Path
) -> None:
    model = read(tmp_path, **files)
    assert model.architecture
    assert (model.architecture.name, model.pixel_multiple) == (name, multiple)
    assert model.is_video == name.startswith("wan")
    assert model.encodes is (None if name == "chroma_radiance" else True)


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_full_size_checkpoints_are_known(name: str, tmp_path: Path) -> None:
    layout = {"sd1": full_size.sd1, "sdxl": full_size.sdxl}[name]()
    model = read_model(ContextParams(model_path=layout.write(tmp_path / "a.safetensors")))
    assert model.architecture
    assert model.architecture.name == name
    assert model.parts >= {"diffusion_model", "clip_l", "vae"}


def test_the_demonstration_s_model_passes(tiny_model: TinyModel) -> None:
    paths = {f"{slot}_path": path for slot, path in tiny_model.engine_arguments().items()}
    model = read_model(ContextParams(vae_decode_only=False, **paths))  # type: ignore[arg-type]
    assert model.architecture
    assert (model.architecture.name, model.encodes, model.takes_hint) == ("flux2", True, False)


@pytest.mark.parametrize(
    "files",
    [
        {"model": {"some.new.kind": (2, 2)}},
        {"model": prefixed({"blocks.7.unheard_of": (2, 2)}), "vae": {"a": (2,)}},
        {"diffusion_model": {"transformer_blocks.0.attn.to_q.weight": (2, 2)}},
        {"model": unet(1280)},
    ],
)
def test_what_the_table_does_not_know_passes(files: dict[str, Shapes], tmp_path: Path) -> None:
    model = read(tmp_path, **files)
    assert model.architecture is None
    assert model.pixel_multiple is None


def test_a_pytorch_file_is_known_as_any_other(tmp_path: Path) -> None:
    arrays = {name: np.zeros(shape, np.float16) for name, shape in SD1.items()}
    model = read(tmp_path, model=write_torch(arrays, tmp_path / "a.ckpt"))
    assert model.architecture
    assert (model.architecture.name, model.encodes) == ("sd1", True)
    language = write_torch({name: np.zeros(shape, np.float16) for name, shape in LLM.items()}, tmp_path / "b.bin")
    with pytest.raises(ValueError, match="it also needs vae= or taesd="):
        read(tmp_path, diffusion_model=FLUX2, llm=language)


def test_a_diffusers_directory_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no unet/diffusion_pytorch_model\.safetensors"):
        read(tmp_path, model=tmp_path)
    parts: dict[str, Shapes] = {
        "unet": {"conv_in.weight": (9, 4, 3, 3), "down_blocks.0.attentions.0.attn2.to_k.weight": (4, 768)},
        "vae": ALONE,
        "text_encoder": {"text_model.a": (2,)},
    }
    for part, shapes in parts.items():
        (tmp_path / part).mkdir()
        name = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        write(tmp_path / part / f"{name}.safetensors", shapes)
    model = read(tmp_path, model=tmp_path)
    assert model.architecture
    assert (model.architecture.name, model.parts) == ("sd1", {"diffusion_model", "vae", "clip_l"})


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"diffusion_model": FLUX2},
            "diffusion_model.safetensors holds only the diffusion model of FLUX.2; it also needs llm= and vae= or",
        ),
        ({"model": prefixed(FLUX2)}, "it also needs llm= and vae= or taesd="),
        (
            {"diffusion_model": FLUX2, "llm": LLM},
            "these files hold diffusion_model and llm of FLUX.2; it also needs vae=",
        ),
        ({"diffusion_model": FLUX, "t5xxl": LLM, "vae": ALONE}, "it also needs clip_l="),
        ({"diffusion_model": FLUX, "vae": ALONE}, "it also needs clip_l= and t5xxl="),
        ({"model": {**unet(768), **VAE}}, "Stable Diffusion 1; it also needs clip_l="),
        ({"model": {**unet(2048), **CLIP, **VAE}}, "Stable Diffusion XL; it also needs clip_g="),
        ({"model": {**unet(768), **CLIP}}, "it also needs vae= or taesd="),
        (
            {"diffusion_model": {"joint_blocks.0.w": (2,)}, "vae": ALONE},
            "it also needs clip_l= or clip_g= or t5xxl=",
        ),
        ({"model": FLUX2}, "is only the diffusion model of FLUX.2: pass it as diffusion_model="),
        ({"model": LORA}, "is a LoRA: pass it to generate() as loras="),
        ({"diffusion_model": LORA}, "diffusion_model: "),
        ({"model": ALONE}, "is an autoencoder: pass it as vae="),
        ({"model": VAE}, "is an autoencoder: pass it as vae="),
        ({"diffusion_model": FLUX2, "llm": LLM, "taesd": ALONE}, "is an autoencoder: pass it as vae="),
        ({"diffusion_model": FLUX2, "llm": LLM, "vae": TINY}, "is a tiny autoencoder: pass it as taesd="),
        ({"model": LLM}, "is a text encoder: pass it as clip_l=, t5xxl= or llm="),
        ({"model": CONTROL}, "is a ControlNet: pass it as control_net="),
        ({"model": SD1, "vae": SD1}, "vae: "),
        ({"model": SD1, "vae": LLM}, "is a text encoder"),
        ({"model": SD1, "control_net": ALONE}, "control_net: "),
        ({"diffusion_model": FLUX2, "llm": LLM, "vae": ALONE, "control_net": CONTROL}, "FLUX.2 takes no ControlNets"),
        ({"model": SD1, "high_noise_diffusion_model": FLUX}, "only Wan 2.2 does"),
    ],
)
def test_what_is_missing_or_misplaced_is_said(files: dict[str, Shapes], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        read(tmp_path, **files)
    assert said in str(caught.value)


def test_a_control_net_and_a_separate_autoencoder_pass(tmp_path: Path) -> None:
    model = read(tmp_path, model=SD1, vae=ALONE, control_net=CONTROL)
    assert model.takes_hint
    assert read(tmp_path, model=SD1).takes_hint is False


def test_whether_pictures_can_be_encoded_is_told(tmp_path: Path) -> None:
    decoder = {"decoder.0.weight": (4, 3, 3, 3), "decoder.1.bias": (2,)}
    assert read(tmp_path, model=SD1).encodes
    assert read(tmp_path, model=SD1, taesd=decoder).encodes is False
    path = write(tmp_path / "a.safetensors", SD1)
    assert read_model(ContextParams(model_path=path, vae_decode_only=True)).encodes is False
    assert read_model(ContextParams(model_path=path)).encodes is False, "the engine's own default decodes only"


@pytest.mark.parametrize(
    ("shapes", "dtype", "said"),
    [
        ({"emb_params": (2, 768)}, np.int64, "must be one of F32, F16, BF16, not I64"),
        ({"emb_params": (2, 1024)}, np.float32, "must have one tensor of width 768 for Stable Diffusion 1"),
        ({"clip_l": (2, 768), "clip_g": (2, 1280)}, np.float32, "it has 'clip_l' (2, 768), 'clip_g' (2, 1280)"),
        ({"emb_params": (2, 3, 768)}, np.float32, "not shape (2, 3, 768)"),
        ({"emb_params": (1001, 768)}, np.float32, "must have 1 to 1000 vectors"),
    ],
)
def test_an_embedding_that_is_misread_is_refused(
    shapes: Shapes, dtype: type[np.generic], said: str, tmp_path: Path
) -> None:
    model = write(tmp_path / "model.safetensors", SD1, np.float16)
    for kind in (np.float32, np.float16):
        good = write(tmp_path / "good.safetensors", {"emb_params": (2, 768)}, kind)
        read_model(ContextParams(model_path=model, embeddings=[Embedding(name="word", path=good)]))
    bad = write(tmp_path / "bad.safetensors", shapes, dtype)
    with pytest.raises(ValueError, match=r"embeddings\['word'\]") as caught:
        read_model(ContextParams(model_path=model, embeddings=[Embedding(name="word", path=bad)]))
    assert said in str(caught.value)


def test_embeddings_are_for_models_with_one_text_encoder(tmp_path: Path) -> None:
    word = Embedding(name="word", path=write(tmp_path / "word.safetensors", {"emb_params": (2, 768)}, np.float32))
    model = write(tmp_path / "model.safetensors", SDXL, np.float16)
    with pytest.raises(ValueError, match=r"embeddings: .*XL takes no embeddings"):
        read_model(ContextParams(model_path=model, embeddings=[word]))


# Headers.

ENTRY = {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist"),
        ({"m.weight": {"dtype": "I32", "shape": [1], "data_offsets": [0, 4]}}, "I32, but the engine takes no integers"),
        (b"", "it is empty"),
        (b"hello, this is no model at all", "it is text, which begins 'hello, this"),
        (b"\2\0\0\0\0\0\0\0{}", "it has no tensors"),
        (b"PK\x03\x04" + bytes(90), "PyTorch archive is truncated"),
        *(
            (gguf_bytes(kind=kind), f"type {kind} is not one of 0 (F32)")
            for kind in (4, 5, 31, 33, 36, 38, 41, 1 << 31)
        ),
        (
            gguf_bytes(entries=1, metadata=metadata(b"a", 9, struct.pack("<IQQ", 8, 1, 1 << 60))),
            "but the file is shorter",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_place(content: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        safetensors(path, content, b"1234")
    with pytest.raises((HeaderError, PathNotFoundError)) as caught:
        read_file("llm_path", path)
    assert str(caught.value).startswith("llm: ")
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for slot in ("vae", "model"):
        with pytest.raises(PathNotFoundError, match=f"{slot}: .* does not exist"):
            read(tmp_path, **{slot: tmp_path / ("x" * 5000)})
    with pytest.raises(HeaderError, match=r"vae: .* is not a regular file"):
        read_file("vae_path", tmp_path)


def test_empty_tensors_mark_what_a_checkpoint_predicts(tmp_path: Path) -> None:
    header = {"v_pred": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, "t": ENTRY}
    path = safetensors(tmp_path / "a.safetensors", header, b"12")
    assert read_file("model_path", path).tensors["v_pred"].shape == (0,)
    with pytest.raises(HeaderError, match="no elements"):
        read_header(path)
    path.write_bytes(gguf_bytes(shape=(0,)))
    assert read_file("model_path", path).tensors["m.diff"].shape == (0,)
    with pytest.raises(HeaderError, match="no elements"):
        read_header(path)


def test_an_empty_tensor_overlaps_none(tmp_path: Path) -> None:
    header = {"t": ENTRY, "v_pred": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}
    assert read_file("model_path", safetensors(tmp_path / "a.safetensors", header, b"12")).tensors.keys() == {*header}


def test_a_tokenizer_of_many_words_is_passed_over_soon(tmp_path: Path) -> None:
    words = b"".join(struct.pack("<Q", 9) + b"some word" for _ in range(300_000))
    array = metadata(b"tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 300_000) + words)
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf_bytes(entries=1, metadata=array))
    started = time.perf_counter()
    assert list(read_file("llm_path", path).tensors) == ["m.diff"]
    assert time.perf_counter() - started < 1  # 0.1 s where nothing else runs


@pytest.mark.parametrize("ending", [".safetensors", ".gguf"])
def test_mutated_headers_are_read_or_refused_at_once(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{ending}"
    whole = (write if ending == ".safetensors" else write_gguf)(path, {**SD1, "t": (3, 32)}).read_bytes()
    rng = random.Random(11)
    outcomes = {"read": 0, "refused": 0}
    slowest = 0.0
    for _ in range(1000):
        path.write_bytes(mutated(whole, rng))
        started = time.process_time()
        try:
            read_model(ContextParams(model_path=path))
            outcomes["read"] += 1
        except ValueError:
            outcomes["refused"] += 1
        slowest = max(slowest, time.process_time() - started)
    assert min(outcomes.values()) > 50, f"both outcomes are met: {outcomes}"
    assert slowest < 0.05
