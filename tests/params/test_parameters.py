"""The one table of names: complete, unambiguous, and leading back to the fields."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from sdcffi import Cache, ContextParams, Engine, ImageParams, SampleParams
from sdcffi._quoting import shown
from sdcffi.params.names import build, parameters
from sdcffi.params.sampling import Guidance, SkipLayerGuidance
from sdcffi.params.struct import Struct


def leaves(struct: Struct) -> int:
    """Count the fields of a struct and of the structs within that are set."""
    return sum(leaves(value) if isinstance(value, Struct) else 1 for value in struct.given().values())


@pytest.mark.parametrize("struct", [ContextParams, ImageParams])
def test_each_parameter_has_a_name_of_its_own_and_a_meaning(struct: type[Struct]) -> None:
    found = parameters(struct)
    names = [item.name for item in found]
    assert len(set(names)) == len(names)
    assert not [item.name for item in found if not item.help]
    assert {item.path[0] for item in found} == {item.name for item in fields(struct)}  # type: ignore[arg-type]


def test_names_of_the_context_and_of_the_call_do_not_meet() -> None:
    assert not {item.name for item in parameters(ContextParams)} & {item.name for item in parameters(ImageParams)}


@pytest.mark.parametrize("struct", [ContextParams, ImageParams])
def test_a_value_for_each_path_arrives_in_its_field(struct: type[Struct]) -> None:
    values: dict[tuple[str, ...], Any] = {
        item.path: {bool: bool(index % 2), str: str(index)}.get(item.kind, index)
        for index, item in enumerate(parameters(struct))
    }
    built = build(struct, values)
    for path, value in values.items():
        found: Any = built
        for name in path:
            found = getattr(found, name)
        assert found == value
    assert leaves(built) == len(values)


def test_structs_within_are_made_only_where_a_value_is_given() -> None:
    assert build(ImageParams, {("width",): 8}) == ImageParams(width=8)
    path = ("sample_params", "guidance", "slg", "scale")
    guidance = Guidance(slg=SkipLayerGuidance(scale=2.5))
    assert build(ImageParams, {path: 2.5}) == ImageParams(sample_params=SampleParams(guidance=guidance))


def test_a_struct_without_what_it_must_have_is_refused() -> None:
    assert build(ImageParams, {("cache", "mode"): "easycache"}).cache == Cache(mode="easycache")
    with pytest.raises(ValueError, match=r"Cache needs mode, but only scm_mask is given"):
        build(ImageParams, {("cache", "scm_mask"): "1,0"})


@pytest.mark.parametrize("value", [{}, 1, True, "easycache", SampleParams()])
@pytest.mark.parametrize("field", ["cache", "hires", "vae_tiling_params", "pm_params"])
def test_a_struct_within_of_another_type_is_refused(field: str, value: object) -> None:
    keyword = {"vae_tiling_params": "tiling"}.get(field, field)
    with pytest.raises(TypeError, match=rf"^{keyword} must be of type \w+, such as \w+\(\.\.\.\), not ") as error:
        ImageParams(**{field: value})  # type: ignore[arg-type]
    assert str(error.value).endswith(f"not {shown(value)}")


@pytest.mark.parametrize("value", [{}, 1, ImageParams()])
def test_a_context_of_another_type_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match=r"context must be of type ContextParams"):
        Engine("model.gguf", context=value)  # type: ignore[arg-type]
