"""The licences of what was compiled, beside the library and in wheels."""

from __future__ import annotations

from pathlib import Path

import pytest
from stand_in import LICENCE, StandIn

from sdcffi._build.pipeline import compile_native
from sdcffi._machine.builds import NOTICES, locate, read_build

ENGINE_LICENCE = """\
/* Copyright 2019 One Engine
   Permission is granted. */
"""
HEADER_LICENCE = (
    "// SPDX-FileCopyrightText: 2021 A Header\n// SPDX-License-Identifier: MIT\n// This header has things.\n"
)
RULE = "=" * 80


def section(names: str, text: str) -> str:
    return f"{RULE}\n{names}\n{RULE}\n{text}\n"


@pytest.mark.usefixtures("cache")
def test_a_build_has_the_notices_of_what_was_compiled_and_no_others(tmp_path: Path) -> None:
    stand_in = StandIn(tmp_path)
    source = stand_in.upstream / "src/engine.c"
    source.write_text(source.read_text() + ENGINE_LICENCE + "// A copyright of nobody\nint counted;\n")
    header = stand_in.upstream / "include/stable-diffusion.h"
    header.write_text(HEADER_LICENCE + header.read_text() + HEADER_LICENCE)
    others = {"include/COPYING": LICENCE, "include/NOTICE.txt": "Made with care.\n", "other/LICENSE": "Not for this.\n"}
    others["other/engine.c"] = "/* Copyright 2018 Another */"
    for name, text in others.items():
        (stand_in.upstream / name).parent.mkdir(exist_ok=True)
        (stand_in.upstream / name).write_text(text)
    native = compile_native(stand_in.plan())
    expected = [
        section("LICENSE\ninclude/COPYING", LICENCE.strip()),
        section("include/NOTICE.txt", "Made with care."),
        section("include/stable-diffusion.h", "SPDX-FileCopyrightText: 2021 A Header\nSPDX-License-Identifier: MIT"),
        section("src/engine.c", ENGINE_LICENCE.strip()),
    ]
    assert (native / NOTICES).read_text("utf-8") == "\n".join(expected)
    assert NOTICES in read_build(native).manifest["files"]


def test_the_real_build_names_whom_it_is_made_of() -> None:
    text = (locate().directory / NOTICES).read_text("utf-8")
    for holder in (
        "Copyright (c) 2023 leejet",  # stable-diffusion.cpp
        "The ggml authors",
        "Susumu Yata",  # darts
        "Niels Lohmann",  # json
        "Rich Geldreich",  # miniz
        "Mozilla Foundation",  # llamafile's matrix products
    ):
        assert holder in text
    assert text.count("Permission is hereby granted") >= 4
    assert "libwebp" not in text  # in the tree, but not compiled
