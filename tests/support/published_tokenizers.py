"""The models' published tokenizers, by Hugging Face and by SentencePiece, with the engine's vocabularies.

The settings are those of tokenizer.json in openai/clip-vit-large-patch14, Qwen/Qwen2.5-VL-7B-Instruct, Qwen/Qwen3-4B
and google/umt5-xxl, Mistral's tekken.json, and spiece.model of google/t5-v1_1-xxl.
"""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import sentencepiece
import vocabularies
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN_WORDS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K_WORDS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CLIP_SPECIAL = ("<|startoftext|>", "<|endoftext|>")
QWEN2_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)


def published(name: str) -> Tokenizer:
    """Return the tokenizer called ``clip``, ``qwen2``, ``mistral``, ``t5`` or ``umt5``."""
    return {"clip": _clip, "qwen2": _qwen2, "mistral": _mistral, "t5": _t5, "umt5": _umt5}[name]()


def split(words: str, behavior: str) -> Any:
    """Return a splitter of texts into words, which are then spelt as bytes."""
    parts = pre_tokenizers.Split(Regex(words), behavior=behavior, invert=behavior == "removed")
    return pre_tokenizers.Sequence([parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _letters() -> list[str]:
    """GPT-2's spelling of bytes, in the order of its vocabulary."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [*map(chr, visible), *(chr(0x100 + i) for i in range(0x100 - len(visible)))]


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate(tokens)}


def _with_special(tokenizer: Tokenizer, special: tuple[str, ...]) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def _clip() -> Tokenizer:
    merges, letters = vocabularies.merges("clip"), _letters()
    whole = [first + second for first, second in merges]
    vocabulary = _numbered([*letters, *(letter + "</w>" for letter in letters), *whole, *CLIP_SPECIAL])
    model = models.BPE(vocabulary, merges, unk_token=CLIP_SPECIAL[1], end_of_word_suffix="</w>", fuse_unk=False)
    tokenizer = Tokenizer(model)
    steps = [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = split(CLIP_WORDS, "removed")
    return _with_special(tokenizer, CLIP_SPECIAL)


def _qwen2() -> Tokenizer:
    merges = vocabularies.merges("qwen2")
    vocabulary = _numbered([*_letters(), *(first + second for first, second in merges)])
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, fuse_unk=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = split(QWEN2_WORDS, "isolated")
    return _with_special(tokenizer, QWEN2_SPECIAL)


def _mistral() -> Tokenizer:
    vocabulary: dict[str, int] = json.loads(vocabularies.mistral_json())
    tokenizer = Tokenizer(models.BPE(vocabulary, vocabularies.merges("mistral"), fuse_unk=False))
    tokenizer.pre_tokenizer = split(TEKKEN_WORDS, "isolated")
    return _with_special(tokenizer, tuple(token for token, index in vocabulary.items() if index < 1000))


def _t5() -> Tokenizer:
    settings = json.loads(vocabularies.tokenizer_json("t5"))
    # remove_extra_whitespaces of spiece.model, as today's converter and FLUX.1's tokenizer_2 have it.
    settings["normalizer"]["normalizers"].insert(-1, {"type": "Strip", "strip_left": False, "strip_right": True})
    return Tokenizer.from_str(json.dumps(settings))


def _umt5() -> Tokenizer:
    return Tokenizer.from_str(vocabularies.tokenizer_json("umt5"))


# --- SentencePiece ---


def spiece_t5() -> sentencepiece.SentencePieceProcessor:
    """Return T5's tokenizer by SentencePiece itself; its special tokens are not found in a text."""
    settings = json.loads(vocabularies.tokenizer_json("t5"))
    pieces = settings["model"]["vocab"][:32000]  # without those that transformers adds
    kinds = {"<unk>": 2, "<pad>": 3, "</s>": 3}
    rows = [
        _field(1, piece) + b"\x15" + struct.pack("<f", score) + _field(3, kinds.get(piece, 1))
        for piece, score in pieces
    ]
    charsmap = base64.b64decode(settings["normalizer"]["normalizers"][0]["precompiled_charsmap"])
    # trainer_spec: unigram, the ids of <unk>, no <s>, </s> and <pad>. normalizer_spec: all three flags.
    trainer = _field(3, 1) + _field(40, 2) + _field(41, 2**64 - 1) + _field(42, 1) + _field(43, 0)
    normalizer = _field(1, "nmt_nfkc") + _field(2, charsmap) + _field(3, 1) + _field(4, 1) + _field(5, 1)
    model = b"".join(_field(1, row) for row in rows) + _field(2, trainer) + _field(3, normalizer)
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def _field(number: int, value: bytes | str | int) -> bytes:
    """Spell a field of a protocol buffer."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    spelt = bytearray()
    while value > 0x7F:
        spelt.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*spelt, value])
