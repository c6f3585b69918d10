"""What a file is by its first bytes, if it is not what its name says: a pointer, a web page, an archive."""

from __future__ import annotations

__all__ = ["WINDOW", "foreign"]

WINDOW = 512  # bytes of the beginning that `foreign` looks at

_AGAIN = "download the file again"
_POINTER = (
    b"version https://git-lfs.github.com",
    "a pointer of Git LFS, not the file itself: run 'git lfs pull' there, or download the file",
)
_STARTS = (
    _POINTER,
    (b"version https://hawser.github.com", _POINTER[1]),
    (b"/annex/objects/", "a pointer of git-annex, not the file itself: run 'git annex get' there"),
    (b"../", "a link that was stored as text: download the file that it names"),
    (b"\x1f\x8b", "compressed by gzip: decompress it first"),
    (b"BZh", "compressed by bzip2: decompress it first"),
    (b"\xfd7zXZ\0", "compressed by xz: decompress it first"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd: decompress it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: extract it first"),
    (b"Rar!\x1a\x07", "a RAR archive: extract it first"),
    (b"\x93NUMPY", "an array of numpy, which the engine does not read: pass a safetensors, gguf or PyTorch file"),
    (b"\x89HDF\r\n\x1a\n", "a file of HDF5 (Keras), which the engine does not read: convert it to safetensors"),
    (b"\x08\x03\x12", "a file of ONNX, which the engine does not read: get the safetensors file of the model"),
    (b"GGML", "of GGML's format before gguf: convert it with llama.cpp's tools, or download the gguf file"),
    (b"lmgg", "of GGML's format before gguf: convert it with llama.cpp's tools, or download the gguf file"),
    (b"tjgg", "of GGML's format before gguf: convert it with llama.cpp's tools, or download the gguf file"),
    (b"FUGG", "a gguf file of a big-endian machine: download the usual one"),
    (b"\x89PNG", "an image in the format PNG"),
    (b"\xff\xd8\xff", "an image in the format JPEG"),
    (b"%PDF", "a PDF document"),
)
_PAGES = (b"<!doctype", b"<html", b"<head", b"<body", b"<script")
_ENTRY = b"Entry not found"  # what a hub answers


def foreign(start: bytes) -> str | None:
    """Return what a file is that is no model, with what to do; None if its first bytes do not tell.

    Parameters
    ----------
    start : bytes
        Its first `WINDOW` bytes, or all of a smaller file.
    """
    for signature, meaning in _STARTS:
        if start.startswith(signature):
            return f"it is {meaning}"
    if len(start) > 100 and start[257:262] == b"ustar":
        return "it is a tar archive: extract it first"
    if len(start) >= WINDOW and not any(start):
        return f"it begins with {WINDOW} zeros, as a download that was broken off does: {_AGAIN}"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(_PAGES):
        return f"it is a web page (HTML), as a server sends that wants a login or has no such file: {_AGAIN}"
    if text.startswith(b"<?xml"):
        return f"it is XML, as a server sends that refuses: {_AGAIN}"
    if text.startswith((b"{", b"[")):
        return f"it is JSON text, not weights: pass the model itself, or {_AGAIN}"
    if _is_text(start):
        begin = start[:40].decode(errors="replace").strip()
        return f"it is text, which begins {begin!r}, not weights: {_AGAIN}"
    return None


def _is_text(start: bytes) -> bool:
    try:
        text = start[:-3].decode()  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return len(text) > 8 and all(char.isprintable() or char in "\r\n\t" for char in text)
