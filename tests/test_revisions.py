"""`python -m tests.revisions`: what it finds in small trees and in the pinned one, and that its page is up to date."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from revisions.__main__ import Engine, find, main, report
from revisions.facts import FEATURES, WORDS, load_facts, read_facts
from revisions.interface import differences, read_interface
from revisions.moves import moved_files
from revisions.page import PAGE, with_tables

from sdcffi._build.patches import UNKNOWN
from sdcffi._build.places import csrc_directory
from sdcffi._build.revisions import read_revisions

OLD = """\
#include <stdint.h>
#define SD_API __attribute__((visibility("default")))
enum kind_t { A_KIND, B_KIND = 4, KIND_COUNT };
typedef struct { const char* path; bool quick; float memory; } params_t;
typedef struct other_t other_t;
typedef void (*callback_t)(int step, void* data);
SD_API other_t* new_other(const params_t* params);
SD_API void use(other_t* other, enum kind_t kind);
SD_API void forget(void);
"""
NEW = """\
#include <stdint.h>
#define SD_API __attribute__((visibility("default")))
enum kind_t { A_KIND, C_KIND, B_KIND = 4, KIND_COUNT = 7 };
typedef struct { const char* path; const char* memory; int count; } params_t;
typedef struct { uint64_t size; } sound_t;
typedef struct other_t other_t;
typedef void (*callback_t)(int step, void* data);
extern SD_API const char* names[];
SD_API other_t* new_other(const params_t* params);
SD_API bool use(other_t* other, enum kind_t kind);
SD_API void hear(sound_t* sound);
"""
CHANGED = """\
functions
  + hear: void hear(sound_t *sound)
  ~ use: void use(other_t *other, enum kind_t kind) -> bool use(other_t *other, enum kind_t kind)
  - forget: void forget(void)
data
  + names: extern const char *names[]
structs
    params_t
    + count: int
    - quick: _Bool
    ~ memory: float -> char *
  + sound_t
    + size: uint64_t
enumerations
    kind_t
    + C_KIND: 1
    ~ KIND_COUNT: 5 -> 7
"""
NOTHING = ["functions", "data", "structs", "enumerations"]
HEADER = "include/stable-diffusion.h"


def tree(directory: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return directory


def lines(*numbers: int) -> str:
    return "".join(f"int function_{number}(void);\n" for number in numbers)


def test_what_came_went_and_changed_in_a_header(tmp_path: Path) -> None:
    old, new = (tree(tmp_path / name, {HEADER: text}) / HEADER for name, text in (("old", OLD), ("new", NEW)))
    assert differences(read_interface(old), read_interface(new)) == CHANGED.splitlines()
    assert differences(read_interface(new), read_interface(new)) == NOTHING


def test_moved_files_are_found_by_their_lines(tmp_path: Path) -> None:
    old = {
        "src/same.cpp": lines(1, 2),
        "src/moved.hpp": lines(*range(10, 20)),
        "src/split.cpp": lines(*range(20, 30)),
        "src/gone.cpp": lines(*range(30, 40)),
        "src/empty.h": "\n}\n",
    }
    new = {
        "src/same.cpp": lines(1, 2),
        "src/core/moved.hpp": lines(0, *range(10, 19)).replace("int", "  int"),
        "src/a.cpp": lines(*range(20, 26)),
        "src/b.cpp": lines(*range(26, 30), *range(30, 32)),
    }
    moved = moved_files(tree(tmp_path / "old", old), tree(tmp_path / "new", new))
    assert moved == {
        "src/moved.hpp": [("src/core/moved.hpp", 0.9)],
        "src/split.cpp": [("src/a.cpp", 0.6), ("src/b.cpp", 0.4)],
    }


def arrays(**words: str) -> str:
    return "".join(f'const char* {name}[] = {{\n    "{text}",\n    "other",\n}};\n' for name, text in words.items())


def test_features_are_told_from_fields_and_functions(tmp_path: Path) -> None:
    header = (
        "enum sd_type_t { SD_TYPE_F32 = 0, SD_TYPE_Q8_0 = 8, SD_TYPE_COUNT };\n"
        "typedef struct { const char* ip_adapter_path; enum sd_type_t type; } sd_ctx_params_t;\n"
        "void sd_cancel_generation(sd_ctx_params_t* params);\n"
    )
    words = {array: kind for kind, array in WORDS.items()}
    engine = tree(tmp_path, {HEADER: header, "src/deep/words.cpp": arrays(**words)})
    assert read_facts(engine) == {
        **{kind: [kind, "other"] for kind in WORDS},
        "tensor types": ["f32", "q8_0"],
        "features": ["IP-Adapter", "cancel, by the engine itself between steps"],
    }
    (engine / "src/second.cpp").write_text(arrays(scheduler_to_str="again"))
    with pytest.raises(ValueError, match="2 arrays scheduler_to_str"):
        read_facts(engine)
    (engine / "src/deep/words.cpp").unlink()
    with pytest.raises(ValueError, match="0 arrays model_version_to_str"):
        read_facts(engine)


def test_the_pinned_tree_is_as_itself(pinned: Path) -> None:
    engine = find(str(pinned))
    assert engine.tree == pinned
    found = report(engine, engine)
    start = found.index("functions")
    assert found[start : start + len(NOTHING)] == NOTHING
    assert found[start + len(NOTHING)].startswith("moved files")
    assert found[start + len(NOTHING) + 1].startswith("patches")
    count = len(list((csrc_directory() / "patches").glob("*.patch")))
    told = found[start + len(NOTHING) + 2 :]
    assert len(told) == count
    assert not [line for line in told if f": {UNKNOWN}" in line]


def test_a_file_that_was_moved_is_told_with_the_patches_that_miss_it(pinned: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(pinned, other, ignore=lambda _, names: {"vocab", "thirdparty"} & set(names))
    name = "src/stable-diffusion.cpp"
    (other / name).rename(other / "src" / "engine.cpp")
    found = report(Engine(pinned, "", None), Engine(other, "", None))
    assert f'  "{name}" = "src/engine.cpp"  # 100%' in found
    missed = [line for line in found if f": {UNKNOWN}" in line]
    assert sum("src/engine.cpp" in line for line in missed) > 10
    assert all("src/engine.cpp" in line or f"there is no {name}" in line for line in missed)


def test_the_words_of_the_command_line(pinned: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    newest = read_revisions(csrc_directory()).newest
    named = find(f"{newest.name}={pinned}")
    assert (named.tree, named.revision) == (pinned, newest)
    assert named.digest in str(named)
    for wrong, said in (
        (["2026-05"], "OLD and NEW are missing"),
        (["1999-01=.", "."], "--engine 1999-01: no such revision"),
        ([str(tmp_path / "nothing"), "."], "nothing"),
    ):
        with pytest.raises(SystemExit):
            main(wrong)
        assert said in capsys.readouterr().err


def test_the_page_has_what_the_repository_says() -> None:
    text = PAGE.read_text("utf-8")
    assert with_tables(text) == text, "the tables are old. Run: python -m tests.revisions --write"


def test_every_revision_has_its_facts() -> None:
    facts = load_facts()
    assert tuple(facts) == read_revisions(csrc_directory()).names
    assert all({*WORDS, "tensor types", "features"} == set(of) for of in facts.values())
    assert all(set(of["features"]) <= set(FEATURES) for of in facts.values())


def test_the_facts_are_those_of_the_source(pinned: Path) -> None:
    """Of the revision that the tests run on; the sources of the others are not at hand."""
    revision = find(str(pinned)).revision
    if revision is None:
        pytest.skip("the engine is of no verified revision")
    assert read_facts(pinned) == load_facts()[revision.name], "run: python -m tests.revisions OLD NEW --write"
