"""The message of a failure begins with its first cause, however many errors follow."""

from __future__ import annotations

from sdcffi._bindings.causes import KEPT_LINES, KeptLines, cause


def kept(*errors: str, before: int = 0, after: int = 0) -> tuple[str, ...]:
    lines = KeptLines()
    for number in range(before):
        lines.add("info", f"line {number}")
    for error in errors:
        lines.add("error", error)
    for number in range(after):
        lines.add("warning", f"line {number}")
    return lines.lines()


def test_the_first_error_is_the_cause_without_its_place() -> None:
    found = kept("model.cpp:1067 - tensor 'a.b' not in model file", "stable-diffusion.cpp:804  - load tensors failed")
    assert cause(found) == "tensor 'a.b' not in model file"
    assert cause(kept("ggml-cpu.cpp:7 - no memory")) == "no memory"
    assert cause(kept("a: b - c")) == "a: b - c"
    assert cause(kept(before=3)) == ""


def test_only_errors_of_its_kind_are_counted() -> None:
    shape = "model.cpp:1086 - tensor '{}' has wrong shape in model file: got [{}, 2, 1, 1], expected [8, 2, 1, 1]"
    callers = "model.cpp:1102 - load tensors from file failed", "x.cpp:804  - load tensors from model loader failed"
    found = kept(shape.format("a.1.weight", 4), shape.format("b.weight", 16), *callers)
    assert cause(found).endswith("expected [8, 2, 1, 1] (the first of 2 errors)")
    assert cause(kept(shape.format("a.1.weight", 4), *callers)).endswith("expected [8, 2, 1, 1]")


def test_a_flood_of_errors_does_not_push_the_first_one_out() -> None:
    found = kept(
        *(f"model.cpp:1067 - tensor 't{number}' not in model file" for number in range(1204)),
        "x.cpp:8 - load failed",
        before=60,
    )
    assert cause(found) == "tensor 't0' not in model file (the first of 1204 errors)"
    assert len(found) <= KEPT_LINES + 2
    assert found[-1] == "error: ... and 1185 more errors, 1184 like the first"


def test_lines_after_it_do_not_either() -> None:
    found = kept("x.cpp:1 - the cause", after=200)
    assert cause(found) == "the cause"
    assert found[0] == "error: x.cpp:1 - the cause"
    assert len(found) == KEPT_LINES + 1
