"""What has no formula for a model is refused before native code runs, with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import sd1_model
from reference_samplers import REFERENCES
from tiny_model import write_model

from sdcffi import ContextParams, SampleParams
from sdcffi._checks.samplers import check_samplers, refused_samplers, refused_schedulers
from sdcffi._models.architectures import _TABLE
from sdcffi._models.files import Model, _prediction, read_model
from sdcffi._models.headers import Tensor

FLOW = Model(architecture=_TABLE["flux2"], prediction="flow")


@pytest.mark.parametrize(
    ("model", "sample", "reason"),
    [
        (
            FLOW,
            SampleParams(sample_method="tcd"),
            r"sampler 'tcd' is not for FLUX.2 \(a flow model\): it follows the tim",
        ),
        (FLOW, SampleParams(scheduler="gits"), r"scheduler 'gits' is not for FLUX.2 .*use any scheduler but ays, gits"),
        (Model(prediction="edm_v"), SampleParams(scheduler="ays"), r"this model \(a model of edm_v prediction\)"),
        (Model(prediction="eps_or_v"), SampleParams(scheduler="flux2"), "its noise levels are those of flow models"),
    ],
)
def test_what_has_no_formula_is_refused(model: Model, sample: SampleParams, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_samplers(sample, model)


def test_what_is_not_known_or_not_used_passes() -> None:
    check_samplers(SampleParams(sample_method="tcd", scheduler="gits"), Model())
    check_samplers(SampleParams(scheduler="gits", custom_sigmas=[1.0, 0.0]), FLOW)
    check_samplers(SampleParams(sample_method="tcd", scheduler="gits"), Model(prediction="eps_or_v"))


def test_the_refused_samplers_are_those_without_a_reference() -> None:
    assert set(refused_samplers(FLOW)) == {name for name, kinds in REFERENCES.items() if "flow" not in kinds}
    assert refused_schedulers(Model()) == {}


def test_the_prediction_is_read_from_the_files_or_given(tmp_path: Path) -> None:
    flow = write_model(tmp_path)
    files = ContextParams(diffusion_model_path=flow.diffusion_model, llm_path=flow.llm, taesd_path=flow.taesd)
    assert read_model(files).prediction == "flow"
    taesd = sd1_model.write_taesd(tmp_path / "sd.safetensors")
    small = sd1_model.write(sd1_model.small().tensors, tmp_path / "small.safetensors")
    given: dict[str | None, str] = {None: "eps_or_v", "v": "eps_or_v", "edm_v": "edm_v", "sd3_flow": "flow"}
    for prediction, expected in given.items():
        assert (
            read_model(ContextParams(model_path=small, taesd_path=taesd, prediction=prediction)).prediction == expected
        )


@pytest.mark.parametrize(("key", "expected"), [("edm_vpred.sigma_max", "edm_v"), ("v_pred", "eps_or_v")])
def test_cosxl_is_known_by_its_key(key: str, expected: str) -> None:
    found = _prediction(ContextParams(), {key: Tensor("F32", (1,), 0, 4)}, _TABLE["sdxl"])
    assert found == expected
