"""Which files of a repository are wanted."""

from __future__ import annotations

import pytest

from sdcffi import PathNotFoundError
from sdcffi._references import HubReference, Kind
from sdcffi._references.weights import chosen, size_text, without_variants

PARTS = [f"dit-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
DIFFUSERS = "pytorch_lora_weights.safetensors"
PEFT = ["adapter_model.safetensors", "adapter_config.json"]
FLUX = [
    *("model_index.json", "flux1-dev.safetensors", "ae.safetensors", "README.md", "transformer/config.json"),
    "transformer/diffusion_pytorch_model.safetensors.index.json",
    *(f"transformer/diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)),
    *("text_encoder/model.safetensors", "text_encoder/model.fp16.safetensors", "text_encoder/pytorch_model.bin"),
    *("text_encoder_2/model.safetensors", "tokenizer/vocab.json", "vae/diffusion_pytorch_model.safetensors"),
]
UNET = [
    *("model_index.json", "sd_turbo.safetensors", "unet/diffusion_pytorch_model.safetensors"),
    *("unet/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.safetensors"),
    *("text_encoder/model.safetensors", "safety_checker/model.safetensors"),
]


@pytest.mark.parametrize(
    ("path", "kind", "files", "wanted", "names"),
    [
        ("", "model", ["a.safetensors", "README.md", "config.json"], "a.safetensors", ["a.safetensors"]),
        ("", "file", ["a.gguf", "optimizer.bin"], "a.gguf", ["a.gguf"]),
        ("", "file", ["a.ckpt"], "a.ckpt", ["a.ckpt"]),
        ("", "file", ["split/vae/ae.safetensors"], "split/vae/ae.safetensors", ["split/vae/ae.safetensors"]),
        ("", "file", ["a.safetensors", "a.fp16.safetensors"], "a.safetensors", ["a.safetensors"]),
        ("", "model", [*PARTS, "dit.safetensors.index.json"], PARTS[0], PARTS),
        (PARTS[1], "file", PARTS, PARTS[0], PARTS),
        ("dit.safetensors.index.json", "file", [*PARTS, "dit.safetensors.index.json", "b.gguf"], PARTS[0], PARTS),
        ("x", "file", ["x/a.gguf", "y/b.gguf"], "x/a.gguf", ["x/a.gguf"]),
        ("x/a.gguf", "file", ["x/a.gguf", "x/b.gguf"], "x/a.gguf", ["x/a.gguf"]),
        ("", "lora", [*PEFT, "README.md"], PEFT[0], PEFT),
        (PEFT[0], "lora", PEFT, PEFT[0], PEFT),
        (
            "b",
            "lora",
            [f"{folder}/{name}" for folder in "ab" for name in PEFT],
            f"b/{PEFT[0]}",
            [f"b/{n}" for n in PEFT],
        ),
        ("", "lora", [DIFFUSERS, "other.safetensors"], DIFFUSERS, [DIFFUSERS]),
        ("", "lora", ["ink.safetensors", "preview.png"], "ink.safetensors", ["ink.safetensors"]),
    ],
)
def test_one_file_with_those_that_it_needs(
    path: str, kind: Kind, files: list[str], wanted: str, names: list[str]
) -> None:
    assert chosen(HubReference("o/r", path), dict.fromkeys(files, 1), kind) == (wanted, names)


def test_of_a_diffusers_directory_only_what_is_read() -> None:
    wanted, names = chosen(HubReference("o/r"), dict.fromkeys(FLUX, 1), "model")
    assert wanted == ""
    assert sorted(names) == sorted(
        [
            *("model_index.json", "text_encoder/model.safetensors", "text_encoder_2/model.safetensors"),
            *(f"transformer/diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)),
            "vae/diffusion_pytorch_model.safetensors",
        ]
    )
    below = {f"v2/{name}": 1 for name in UNET}
    wanted, names = chosen(HubReference("o/r", "v2"), below, "model")
    assert wanted == "v2"
    assert sorted(names) == sorted(
        [
            *("v2/model_index.json", "v2/unet/diffusion_pytorch_model.safetensors"),
            *("v2/vae/diffusion_pytorch_model.safetensors", "v2/text_encoder/model.safetensors"),
        ]
    )


@pytest.mark.parametrize(
    ("path", "kind", "files", "message"),
    [
        (
            "",
            "model",
            {"a.gguf": 3_500_000_000, "b.gguf": 12_300_000},
            r"2 files .*: name one of them. There are a.gguf \(3.5 GB\), b.gguf \(12 MB\)$",
        ),
        ("", "file", dict.fromkeys(FLUX), "6 files of weights: name one of them"),
        ("", "lora", {"a.safetensors": 1, "b.safetensors": 1}, "2 files of weights"),
        ("", "model", {f"{number:02}.gguf": 1 for number in range(30)}, r"19.gguf \(0 kB\) and 10 more$"),
        ("", "model", {"README.md": 1}, r"has no file of weights \(.safetensors, .gguf"),
        (
            "",
            "model",
            {"model_index.json": 1, "prior/a.safetensors": 5000},
            r"without unet/.* There are prior/a.safetensors \(5 kB\)",
        ),
    ],
)
def test_what_is_not_clear_lists_the_candidates(
    path: str, kind: Kind, files: dict[str, int | None], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        chosen(HubReference("o/r", path), files, kind)


@pytest.mark.parametrize(
    ("path", "files", "message"),
    [
        (
            "sd_turbo.gguf",
            ["sd_turbo.safetensors", "x.bin"],
            "does not exist: the repository has 'sd_turbo.safetensors'$",
        ),
        ("Q4_K.gguf", ["flux-Q4_K.gguf", "flux-Q8_0.gguf"], "the repository has 'flux-Q4_K.gguf'"),
        ("zzz", ["a.gguf"], "the repository has 'a.gguf'"),
        ("zzz", ["README.md"], "the repository has no file of weights"),
        (PARTS[0], PARTS[:2], f"{PARTS[2]}, one of 3 parts, does not exist there"),
        ("dit.safetensors.index.json", ["dit.safetensors.index.json"], "the parts that it lists are not beside it"),
    ],
)
def test_what_is_not_there_has_near_names(path: str, files: list[str], message: str) -> None:
    with pytest.raises(PathNotFoundError, match=message):
        chosen(HubReference("o/r", path), dict.fromkeys(files, 1), "file")


def test_variants_give_way_to_what_they_are_variants_of() -> None:
    assert without_variants(["a.fp16.safetensors", "b.safetensors"]) == ["a.fp16.safetensors", "b.safetensors"]
    assert without_variants(["a.fp16.safetensors", "a.safetensors"]) == ["a.safetensors"]
    parts = ["m.fp16-00001-of-00002.safetensors", "m-00001-of-00003.safetensors"]
    assert without_variants(parts) == parts[1:]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 kB"), (50_976, "51 kB"), (10**6, "1 MB"), (5_210_000_000, "5.2 GB"), (None, "an unknown size")],
)
def test_sizes_are_those_of_the_hubs_pages(size: int, text: str) -> None:
    assert size_text(size) == text
