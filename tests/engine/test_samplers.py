"""Every sampler computes what its author's program computes, for both kinds of models, or is refused.

The engine's samplers run on a denoiser of the test: that of data that are normal around a point, which is known in
closed form, and a wave on it so that no sampler is exact by chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from native_sampling import Array, Denoiser, RefusedError, names, noises, run_sampler
from reference_multistep import ancestral
from reference_samplers import REFERENCES

SIZE = 48
LEVELS = {
    "eps": [14.61, 9.2, 5.8, 3.1, 1.9, 0.9, 0.4, 0.11, 0.0],
    "flow": [1.0, 0.94, 0.85, 0.71, 0.6, 0.38, 0.2, 0.07, 0.0],
}
STOCHASTIC = {"euler_a", "dpm++2s_a", "er_sde", "dpm++_sde", "dpm++2m_sde", "dpm++3m_sde", "ddim_trailing", "lcm"}
OURS = {"dpm++_sde", "dpm++2m_sde", "dpm++3m_sde", "unipc", "deis", "lms", "beta"}
# Several start at a level of a flow model where the image is multiplied by 1e-4 to 1e-6, in single precision.
NEAR = {"eps": 2e-5, "flow": 2e-4}


def denoiser(kind: str) -> Denoiser:
    centre, spread = np.sin(np.arange(SIZE)), 0.7

    def denoise(x: Array, sigma: float) -> Array:
        alpha = 1 - sigma if kind == "flow" else 1.0
        share = alpha * spread**2 / (alpha**2 * spread**2 + sigma**2)
        unit = math.sqrt(alpha**2 + sigma**2)
        return centre + share * (x - alpha * centre) + 0.1 * np.sin(2 * x / unit) * sigma / (0.5 + sigma)

    return denoise


def start(kind: str) -> Array:
    return np.random.default_rng(7).standard_normal(SIZE) * LEVELS[kind][0]


def runs() -> Iterator[tuple[str, str, float]]:
    for name in names("sample_method_t"):
        for kind in LEVELS:
            if kind in REFERENCES[name]:
                yield from ((name, kind, eta) for eta in ((0.0, 1.0) if name in STOCHASTIC else (0.0,)))


@pytest.mark.parametrize(("name", "kind", "eta"), list(runs()))
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_a_sampler_computes_what_its_author_has(name: str, kind: str, eta: float, count: int) -> None:
    sigmas = [*LEVELS[kind][: count if count < 8 else 8], 0.0]
    expected = REFERENCES[name][kind](denoiser(kind), start(kind), sigmas, iter(noises(SIZE, 2 * count + 2)), eta)
    found = run_sampler(name, denoiser(kind), start(kind), np.array(sigmas), is_flow=kind == "flow", eta=eta)
    assert np.abs(found - expected).max() < NEAR[kind] * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("name", sorted(set(REFERENCES) & set(names("sample_method_t"))))
def test_what_has_no_formula_for_flow_models_is_refused(name: str) -> None:
    if "flow" in REFERENCES[name]:
        return
    with pytest.raises(RefusedError, match=f"the sampler {name.replace('+', '.')} is not for flow models"):
        run_sampler(name, denoiser("flow"), start("flow"), np.array(LEVELS["flow"]), is_flow=True)


def test_every_sampler_of_the_build_has_a_reference() -> None:
    assert set(names("sample_method_t")) - set(REFERENCES) == set()
    assert set(names("sample_method_t")) | set(names("scheduler_t")) >= OURS


def test_lms_is_exact_where_the_slope_is_a_cubic() -> None:
    sigmas = [2.0, 1.7, 1.5, 0.9, 0.8, 0.3, 0.1]

    def slope(sigma: float) -> float:
        return 0.3 * sigma**3 - 0.8 * sigma**2 + 0.5 * sigma + 1.2

    def denoise(x: Array, sigma: float) -> Array:
        return x - sigma * np.full(SIZE, slope(sigma))

    calls: list[tuple[float, int]] = []
    warm = run_sampler("lms", denoise, np.zeros(SIZE), np.array(sigmas[:4]), calls=calls)
    found = run_sampler("lms", denoise, np.zeros(SIZE), np.array(sigmas)) - warm
    primitive = np.polynomial.Polynomial([0, 1.2, 0.25, -0.8 / 3, 0.075])
    assert np.allclose(found, primitive(sigmas[-1]) - primitive(sigmas[3]), atol=1e-6)
    assert [step for _, step in calls] == [1, 2, 3]


def test_eta_above_one_is_refused_where_its_noise_would_be_imaginary() -> None:
    with pytest.raises(RefusedError, match="eta must be from 0 to 1 with the sampler ddim_trailing"):
        run_sampler("ddim_trailing", denoiser("eps"), start("eps"), np.array(LEVELS["eps"]), eta=1.2)


@pytest.mark.parametrize("kind", ["eps", "flow"])
@pytest.mark.parametrize("name", ["dpm++_sde", "dpm++2m_sde", "dpm++3m_sde"])
def test_noise_that_is_added_has_the_variance_of_the_level(name: str, kind: str) -> None:
    def to_nothing(x: Array, _sigma: float) -> Array:
        return np.zeros_like(x)

    sigmas = LEVELS[kind][2:6]
    x = np.random.default_rng(3).standard_normal(20_000) * sigmas[0]
    found = run_sampler(name, to_nothing, x, np.array(sigmas), is_flow=kind == "flow", eta=1.0)
    assert abs(found.std() / sigmas[-1] - 1) < 0.03


def test_both_noises_of_a_step_share_what_k_diffusions_brownian_motion_shares() -> None:
    seen: list[Array] = []

    def to_nothing(x: Array, _sigma: float) -> Array:
        seen.append(x.copy())
        return np.zeros_like(x)

    sigma, to = 4.0, 1.0
    end = run_sampler("dpm++_sde", to_nothing, np.zeros(40_000), np.array([sigma, to]), eta=1.0)
    first = seen[1] / ancestral(sigma, 2.0, 1.0)[1]
    second = end / ancestral(sigma, to, 1.0)[1]
    assert abs(np.corrcoef(first, second)[0, 1] - math.sqrt((sigma - 2.0) / (sigma - to))) < 0.02


def test_two_calls_of_a_step_are_numbered_alike_but_for_the_sign() -> None:
    calls: list[tuple[float, int]] = []
    run_sampler("dpm++_sde", denoiser("eps"), start("eps"), np.array([4.0, 1.0, 0.0]), calls=calls)
    assert [step for _, step in calls] == [-1, 1, 2]
