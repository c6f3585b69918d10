"""LoRAs by name: looked up in a directory and nowhere else, and taken out of prompts as sd-cli does it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sdcffi import Lora, LoraError
from sdcffi._models.loras import as_loras, merge_tags
from sdcffi.params.lora_tags import Tag, parse_tags, refuse_tags, split_strength

AddFile = Callable[[str], Path]


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {"m.lora_down.weight": np.ones((2, 3), np.float32), "m.lora_up.weight": np.ones((3, 2), np.float32)}, path
    )
    return path.resolve()


@pytest.fixture
def lora_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of adapters that is not the working directory."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "loras").mkdir()
    return tmp_path / "loras"


@pytest.fixture
def add(lora_dir: Path) -> AddFile:
    return lambda name: write(lora_dir / name)


def resolve(item: Any, lora_dir: Path) -> Lora:
    (lora,) = as_loras([item], lora_dir)
    return lora


# Names in a directory.


@pytest.mark.parametrize("ending", [".safetensors", ".gguf", ".ckpt", ".pt"])
def test_a_name_stands_for_a_file_of_each_ending(ending: str, lora_dir: Path, add: AddFile) -> None:
    path = add(f"foo{ending}")
    assert resolve("foo", lora_dir) == Lora(str(path), 1.0)


def test_names_take_folders_dots_multipliers_and_labels(lora_dir: Path, add: AddFile) -> None:
    path, dotted = add("style/foo.safetensors"), add("bar.v1.5.safetensors")
    assert resolve(("style/foo", 0.5), lora_dir) == Lora(str(path), 0.5)
    assert resolve("bar.v1.5", lora_dir) == Lora(str(dotted), 1.0)
    named = Lora("style/foo", -1, is_high_noise=True, name="mine")
    assert resolve(named, lora_dir) == Lora(str(path), -1.0, True, "mine")


def test_a_path_is_no_name(lora_dir: Path, add: AddFile) -> None:
    add("foo.safetensors")
    here = write(Path("foo.safetensors"))
    assert resolve("foo.safetensors", lora_dir) == Lora(str(here), 1.0)
    with pytest.raises(LoraError, match="LoRA foo does not exist"):
        as_loras([Path("foo")], lora_dir)
    with pytest.raises(LoraError, match="LoRA foo does not exist"):
        as_loras(["foo"])


def test_an_ambiguous_name_lists_its_candidates(lora_dir: Path, add: AddFile) -> None:
    first, second = add("foo.safetensors"), add("foo.gguf")
    with pytest.raises(LoraError) as caught:
        as_loras(["foo"], lora_dir)
    assert f"{first} or {second}" in caught.value.message


def test_an_unknown_name_lists_what_was_tried_and_near_names(lora_dir: Path, add: AddFile) -> None:
    add("style/watercolour.safetensors")
    add("other.safetensors")
    with pytest.raises(LoraError) as caught:
        as_loras(["style/watercolor"], lora_dir)
    for ending in (".safetensors", ".gguf", ".ckpt", ".pt"):
        assert str(lora_dir / f"style/watercolor{ending}") in caught.value.message
    assert caught.value.message.endswith("similar names: style/watercolour")
    with pytest.raises(LoraError, match="similar names: style/watercolour"):
        as_loras(["watercolor"], lora_dir)


@pytest.mark.parametrize(
    "name", ["../secret", "style/../../secret", "{root}/secret", "..\\secret", "\\secret", "C:secret", "", " ", "a\0b"]
)
def test_a_name_does_not_lead_out_of_the_directory(name: str, lora_dir: Path, add: AddFile) -> None:
    add("style/foo.safetensors")
    write(lora_dir.parent / "secret.safetensors")
    name = name.format(root=lora_dir.parent)
    with pytest.raises(LoraError, match="not a valid name inside"):
        as_loras([name], lora_dir)
    if ":" not in name and name.strip():
        with pytest.raises(LoraError, match="not a valid name inside"):
            merge_tags(f"<lora:{name}.safetensors:1>", [], lora_dir)


@pytest.mark.parametrize("name", ["link", "folder/other"])
def test_a_link_of_the_directory_s_owner_may_lead_anywhere(name: str, lora_dir: Path, add: AddFile) -> None:
    inside = add("style/foo.safetensors")
    other = write(lora_dir.parent / "out/other.safetensors")
    (lora_dir / "link.safetensors").symlink_to(other)
    (lora_dir / "folder").symlink_to(other.parent)
    (lora_dir / "alias.safetensors").symlink_to(inside)
    found = Path(resolve(name, lora_dir).path)
    assert found.resolve() == other.resolve()
    assert Path(resolve("alias", lora_dir).path) == lora_dir.resolve() / "alias.safetensors"


def test_lora_dir_itself_may_be_a_link(lora_dir: Path, add: AddFile) -> None:
    path = add("foo.safetensors")
    link = lora_dir.parent / "link"
    link.symlink_to(lora_dir)
    assert resolve("foo", link).path == str(path)


def test_lora_dir_must_be_a_directory(lora_dir: Path, add: AddFile) -> None:
    with pytest.raises(LoraError, match="is not a directory"):
        as_loras(["foo"], add("foo.safetensors"))


def test_one_file_under_two_names_is_refused(lora_dir: Path, add: AddFile) -> None:
    path = add("foo.safetensors")
    (lora_dir / "alias.safetensors").symlink_to(path)
    with pytest.raises(ValueError, match="given twice"):
        as_loras(["foo", "alias"], lora_dir)
    with pytest.raises(ValueError, match="given twice"):
        as_loras([path, (str(path), 0.5)])
    assert len(as_loras([path, Lora(path, is_high_noise=True)])) == 2


def test_a_mapping_has_the_multiplier_of_each(lora_dir: Path, add: AddFile) -> None:
    path = str(add("foo.safetensors"))
    assert as_loras({"foo": 0.5}, lora_dir) == as_loras([("foo", 0.5)], lora_dir) == (Lora(path, 0.5),)
    with pytest.raises(TypeError, match="multiplier of LoRA foo must be a number, not '1'"):
        as_loras({"foo": "1"}, lora_dir)  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("multiplier", "error"), [(float("nan"), ValueError), (float("inf"), ValueError), ("1", TypeError)]
)
def test_a_bad_multiplier_is_refused(multiplier: Any, error: type[Exception], lora_dir: Path, add: AddFile) -> None:
    with pytest.raises(error, match=f"multiplier of LoRA .* must be .*, not {multiplier!r}"):
        as_loras([Lora(add("foo.safetensors"), multiplier)])


def test_each_file_is_looked_into(lora_dir: Path) -> None:
    (lora_dir / "foo.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(LoraError, match=r"foo\.safetensors"):
        as_loras(["foo"], lora_dir)


# Tags in a prompt.


@pytest.mark.parametrize(
    ("prompt", "rest", "tags"),
    [
        ("a cat", "a cat", []),
        ("a <lora:foo:0.5> cat", "a  cat", [("foo", 0.5, False)]),
        ("<lora:foo:1><lora:bar:-.5>", "", [("foo", 1.0, False), ("bar", -0.5, False)]),
        ("<lora:|high_noise|foo:2>", "", [("foo", 2.0, True)]),
        ("<lora:foo|high_noise|:2>", "", [("foo|high_noise|", 2.0, False)]),
        ("<lora:style/foo.safetensors: 1e-1 >", "", [("style/foo.safetensors", 0.1, False)]),
        ("<lora:a b:+1.>\n<lora:foo:1>", "\n", [("a b", 1.0, False), ("foo", 1.0, False)]),
        ("a <lora:foo>", "a ", [("foo", 1.0, False)]),
        ("<lora:foo:> a", " a", [("foo", 1.0, False)]),
        ("<lora:|high_noise|foo>", "", [("foo", 1.0, True)]),
        ("<LORA:Foo:.5>", "", [("Foo", 0.5, False)]),
        ("(cat:1.2) <lyco:foo:1>", "(cat:1.2) ", [("foo", 1.0, False)]),
        ("a <b> lora:c:1 < lora:d> <loras:e:1>", "a <b> lora:c:1 < lora:d> <loras:e:1>", []),
        ("<lo<lora:a:1>ra:b:1>", "<lora:b:1>", [("a", 1.0, False)]),
    ],
)
def test_tags_are_taken_out_of_the_prompt(prompt: str, rest: str, tags: list[tuple[str, float, bool]]) -> None:
    assert parse_tags(prompt) == (rest, [Tag(*tag) for tag in tags])


@pytest.mark.parametrize("weight", ["much", "nan", "inf", "1e39", "0.8:x", "0.8x", "1_0", "\u0661", " ", "."])
def test_a_bad_weight_is_refused(weight: str) -> None:
    with pytest.raises(ValueError, match="finite number") as caught:
        parse_tags(f"a <lora:foo:{weight}> cat")
    assert f"<lora:foo:{weight}>" in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a <lora::1>", "tag <lora::1> names no LoRA"),
        ("<lora:>", "names no LoRA"),
        ("<lora: :1>", "names no LoRA"),
        ("<lora:|high_noise|:1>", "names no LoRA"),
        ("a cat <lora:foo:1", "tag <lora:foo:1 has no '>'"),
        ("<lora:" + "x" * 100_000, r"tag <lora:x+\.\.\.x+ has no '>'"),
        ("<hypernet:foo:1>", "<hypernet:foo:1> is for a hypernetwork"),
        ("<lora:a>" * 1001, "at most 1000 tags"),
    ],
)
def test_a_tag_that_cannot_be_followed_is_refused(prompt: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        parse_tags(prompt)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("tag", ["<lora:foo:1>", "<lora:foo>", "<LyCO:foo:1", "<hypernet:a:1>"])
def test_a_tag_where_none_is_read_is_refused(tag: str) -> None:
    with pytest.raises(ValueError, match=f"negative_prompt has the tag {tag}, but"):
        refuse_tags("negative_prompt", f"blurry {tag}")
    refuse_tags("negative_prompt", "a <b:c> lora:1")
    refuse_tags("negative_prompt", None)


@pytest.mark.parametrize(
    "text",
    [
        "<lora:a" * 30_000,
        "<lora:" * 30_000 + ":1>",
        "<" * 200_000,
        "<lora:a:" + ":" * 200_000 + ">",
        "<lora:a:" + "1" * 200_000 + "x>",
        "<lora:a:" + " " * 200_000 + "x>",
        "<lora:a:1" + "e" * 200_000 + ">",
    ],
    ids=["open", "nested", "brackets", "colons", "digits", "blanks", "letters"],
)
def test_no_text_takes_more_than_linear_time(text: str) -> None:
    started = time.perf_counter()
    with contextlib.suppress(ValueError):
        parse_tags(text)
    split_strength(text)
    assert time.perf_counter() - started < 1


def test_tags_join_the_loras_of_the_call(lora_dir: Path, add: AddFile) -> None:
    foo, bar = add("foo.safetensors"), add("style/bar.safetensors")
    prompt, loras = merge_tags("a <lora:style/bar:0.5> cat <lora:|high_noise|foo:2>", [("foo", 0.3)], lora_dir)
    assert prompt == "a  cat "
    assert loras == (
        Lora(str(foo), 0.3),
        Lora(str(bar), 0.5, name="style/bar"),
        Lora(str(foo), 2.0, is_high_noise=True, name="foo"),
    )


def test_weights_of_one_file_add_up(lora_dir: Path, add: AddFile) -> None:
    path = add("foo.safetensors")
    _, loras = merge_tags("<lora:foo:0.5><lora:foo.safetensors:0.25>", [path], lora_dir)
    assert loras == (Lora(str(path), 1.75),)


def test_a_tag_needs_a_directory() -> None:
    assert merge_tags("a cat", []) == ("a cat", ())
    with pytest.raises(LoraError, match="lora_tags=False"):
        merge_tags("a <lora:foo:1> cat", [])


def test_a_tag_of_no_file_is_refused(lora_dir: Path) -> None:
    with pytest.raises(LoraError, match="'foo' was not found"):
        merge_tags("<lora:foo:1>", [], lora_dir)
