"""Files of prompts: what ends a line, what is no prompt, and what is refused."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from sdcffi import PathNotFoundError
from sdcffi._batches import prompts
from sdcffi._batches.prompts import read_prompts

ODD = "a\u2028b\u0085c\x0cd\x0be\x1cf\rg"
"""Characters at which Python's `str.splitlines` ends a line, and a text file does not."""


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("p.txt", "a cat\n\n  a dog\t\r\n", [(1, {"prompt": "a cat"}), (3, {"prompt": "a dog"})]),
        ("p.txt", f"{ODD}\nb", [(1, {"prompt": ODD}), (2, {"prompt": "b"})]),
        ("p", "# a comment\n#and another\na #1 cat", [(3, {"prompt": "a #1 cat"})]),
        ("p.txt", "\ufeffa cat", [(1, {"prompt": "a cat"})]),
        ("p.jsonl", '\ufeff{"prompt": "a", "steps": 3}', [(1, {"prompt": "a", "steps": 3})]),
        ("p.jsonl", f'\n{{"prompt": "{ODD[:4]}"}}\r\n', [(2, {"prompt": ODD[:4]})]),
        (
            "p.csv",
            "\ufeffprompt,steps,vae_tiling,sigmas,mask_image,output\r\n"
            '"a cat, ""red""",3,yes,1;0.5,"1,2,3,4",a.png\r\n',
            [
                (
                    1,
                    {
                        "prompt": 'a cat, "red"',
                        "steps": 3,
                        "vae_tiling": True,
                        "sigmas": [1.0, 0.5],
                        "mask_image": "1,2,3,4",
                        "output": "a.png",
                    },
                )
            ],
        ),
        (
            "p.CSV",
            'steps,prompt\n,"two\nlines"\n\n,,\n2,b\n'.replace(",,\n", ",\n"),
            [(1, {"prompt": "two\nlines"}), (2, {"steps": 2, "prompt": "b"})],
        ),
        ("p.tsv", "prompt\tloras\na, b\tink:0.5;night\n", [(1, {"prompt": "a, b", "loras": ["ink:0.5", "night"]})]),
    ],
)
def test_lines_are_read(name: str, content: str, lines: list[Any], tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode())
    assert read_prompts(path) == lines


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.txt", "# nothing\n \n", "contains no prompt"),
        ("p.txt", "a\n--prompt b --steps 3", "line 2 starts like a flag"),
        ("p.txt", b"\xff\xfea\0", "not UTF-8"),
        ("p.json", "{}", "p.json: .json is not read; give a text file"),
        ("p.yaml", "- a", ".yaml is not read"),
        ("p.jsonl", '{"prompt": "a", "seed": 1, "seed": 2}', "line 1 has 'seed' twice"),
        ("p.jsonl", "[" * 100_000, "line 1 is not valid JSON"),
        ("p.jsonl", "[]", "line 1 must be an object of parameters, not list"),
        ("p.csv", "prompt;steps\na;3", "cells of a .csv file are separated by commas, not by semicolons"),
        ("p.tsv", "prompt,steps\na,3", "cells of a .tsv file are separated by tabs, not by commas"),
        ("p.csv", "prompt,prompt\na,b", "line 1 has 'prompt' twice"),
        ("p.csv", "prompt,steps\na", "line 2 has 1 cells, and line 1 has 2"),
        ("p.csv", "prompt,steps\na,many", "line 2: steps must be an integer, not 'many'"),
        ("p.csv", "prompt,vae_tiling\na,perhaps", "line 2: vae_tiling must be true or false, not 'perhaps'"),
        ("p.csv", 'prompt\n"a" b', "line 2 is not CSV"),
        ("p.csv", "prompt\n", "contains no prompt"),
    ],
)
def test_what_is_no_file_of_prompts_is_refused(name: str, content: str | bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=said):
        read_prompts(path)


def test_only_files_of_a_sensible_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo")
    with Path("/dev/zero").open("rb") as endless:
        for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero"), Path(f"/dev/fd/{endless.fileno()}")):
            with pytest.raises(ValueError, match=r"not a regular file|is a device"):
                read_prompts(path)
    with pytest.raises(PathNotFoundError):
        read_prompts(tmp_path / "nowhere")
    monkeypatch.setattr(prompts, "_MOST_BYTES", 1 << 20)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="more than 1 MiB"):
        read_prompts(tmp_path / "large")


def test_standard_input_is_utf_8_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"кот {ODD}\n".encode()), encoding="ascii"))
    assert read_prompts(Path("-")) == [(1, {"prompt": f"кот {ODD}"})]
