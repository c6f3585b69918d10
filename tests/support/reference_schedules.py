"""Noise levels in numpy, as the authors' programs and diffusers with the published configurations have them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def shifted(factor: float, t: Array | float) -> Array:
    """FlowMatchEulerDiscreteScheduler's shift, and with exp(mu) its exponential one."""
    return np.asarray(factor * np.asarray(t) / (1 + (factor - 1) * np.asarray(t)))


def evenly(steps: int) -> Array:
    """diffusers' pipelines: np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)."""
    return np.linspace(1.0, 1 / steps, steps)


def linear_mu(tokens: float, most: float = 1.15, most_tokens: float = 4096) -> float:
    """calculate_shift of diffusers' pipelines."""
    slope = (most - 0.5) / (most_tokens - 256)
    return tokens * slope + 0.5 - slope * 256


def empirical_mu(tokens: int, steps: int) -> float:
    """compute_empirical_mu of Flux2Pipeline."""
    many, few = 0.00016927 * tokens + 0.45666666, 8.73809524e-05 * tokens + 1.89833333
    if tokens > 4300:
        return many
    slope = (many - few) / 190
    return slope * steps + many - 200 * slope


def _stretched(sigmas: Array, terminal: float) -> Array:
    """stretch_shift_to_terminal."""
    return 1 - (1 - sigmas) / ((1 - sigmas[-1]) / (1 - terminal))


def own_levels(family: str, steps: int, width: int, height: int) -> Array:
    """The schedule of a family, without the final 0."""
    tokens = width // 16 * (height // 16)
    if family in ("flux", "ovis", "chroma"):  # FLUX.1 dev: base_shift 0.5, max_shift 1.15
        return shifted(math.exp(linear_mu(tokens)), evenly(steps))
    if family == "flux2":
        return shifted(math.exp(empirical_mu(tokens, steps)), evenly(steps))
    if family == "qwen_image":  # max_shift 0.9, max_image_seq_len 8192, shift_terminal 0.02
        sigmas = shifted(math.exp(linear_mu(tokens, 0.9, 8192)), evenly(steps))
        return _stretched(sigmas, 0.02) if steps > 1 else sigmas
    fixed = {"sd3": 3.0, "z_image": 3.0, "anima": 3.0, "ernie": 4.0, "schnell": 1.0}
    return shifted(fixed[family] if family in fixed else wan_shift(family, width, height), evenly(steps))


def wan_shift(family: str, width: int, height: int) -> float:
    """sample_shift of Wan's configurations, and for 2.1 I2V at 480p that of its generate.py."""
    if family in ("wan_i2v", "wan_i2v_14b"):
        return 3.0 if width * height <= 832 * 480 else 5.0
    own = {"wan_t2v": 5.0, "wan_ti2v": 5.0, "wan22_i2v": 5.0, "wan22_t2v": 12.0, "wan_vace": 16.0, "wan_flf2v": 16.0}
    return own[family]


@dataclass(frozen=True)
class Table:
    """The noise levels that a model was trained on, the least first."""

    sigmas: Array
    is_flow: bool = False
    at_time: Callable[[float], float] | None = None

    def at(self, index: float) -> float:
        """k-diffusion's t_to_sigma."""
        low, part = math.floor(index), index - math.floor(index)
        return float(math.exp((1 - part) * math.log(self.sigmas[low]) + part * math.log(self.sigmas[math.ceil(index)])))


def sd_table(zero_snr: bool = False) -> Table:
    """Stable Diffusion's."""
    alphas = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    if zero_snr:  # rescale_zero_terminal_snr_abar of AUTOMATIC1111's sd_models.py
        roots = np.sqrt(alphas)
        alphas = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
        alphas[-1] = 4.8973451890853435e-08
    return Table(np.sqrt((1 - alphas) / alphas))


def edm_table() -> Table:
    """ComfyUI's ModelSamplingContinuousEDM with CosXL's 0.002 and 120."""
    return Table(np.exp(np.linspace(math.log(0.002), math.log(120), 1000)))


def flow_table(factor: float, size: int) -> Table:
    """ComfyUI's ModelSamplingDiscreteFlow (1,000 levels) and ModelSamplingFlux (10,000)."""
    times = np.arange(1, size + 1) / size
    return Table(shifted(factor, times), True, lambda t: float(shifted(factor, t)))


# "Align Your Steps", 2404.14507: the ten steps of NVIDIA's quickstart guide, as Stable Diffusion's timesteps.
AYS = {
    "sd1": (999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0),
    "sdxl": (999, 845, 730, 587, 443, 310, 193, 116, 53, 13, 0),
}
# GITS, 2405.11326: the levels of diff-sampler and ComfyUI for the coefficient 1.2, in hundredths of the last timestep.
GITS = {
    2: (100, 29, 0),
    5: (100, 66, 42, 21, 6, 0),
    7: (100, 83, 62, 42, 23, 8, 1, 0),
    10: (100, 83, 66, 51, 38, 27, 17, 9, 4, 1, 0),
    14: (100, 86, 71, 62, 50, 40, 31, 23, 17, 12, 8, 5, 3, 1, 0),
    20: (100, 88, 78, 68, 59, 50, 42, 34, 27, 21, 17, 13, 10, 8, 6, 5, 4, 3, 2, 1, 0),
}


def published_ays(family: str, steps: int) -> Array:
    """Without the final 0, which takes the place of the last level."""
    return _stretched_logarithms(sd_table().sigmas[list(AYS[family])], steps)[:-1]


def published_gits(steps: int) -> Array:
    """Without the final 0, which takes the place of the last level."""
    table, shares = sd_table(), GITS[min(steps, 20)]
    return _stretched_logarithms(np.array([table.at(999 * share / 100) for share in shares]), steps)[:-1]


def _stretched_logarithms(levels: Array, steps: int) -> Array:
    """As many levels as wanted, with logarithms between those that there are."""
    places = np.linspace(0, len(levels) - 1, steps + 1)
    return np.exp(np.interp(places, np.arange(len(levels)), np.log(levels)))


def spaced(scheduler: str, steps: int, table: Table) -> Array:
    """A spacing by ComfyUI's definition (RES4LYF's for bong_tangent), without the final 0."""
    return np.array(_SPACINGS[scheduler](steps, table))


def _parts(steps: int) -> Array:
    return np.linspace(0, 1, steps) if steps > 1 else np.zeros(1)


def _discrete(steps: int, table: Table) -> list[float]:
    last = len(table.sigmas) - 1
    return [table.at(last * (1 - part)) for part in _parts(steps)]


def _simple(steps: int, table: Table) -> list[float]:
    return [table.sigmas[-(1 + int(i * (len(table.sigmas) / steps)))] for i in range(steps)]


def _sgm_uniform(steps: int, table: Table) -> list[float]:
    if table.at_time:
        return [table.at_time(t) for t in np.linspace(1.0, table.sigmas[0], steps + 1)[:-1]]
    return [table.at(t) for t in np.linspace(len(table.sigmas) - 1, 0, steps + 1)[:-1]]


def _karras(steps: int, table: Table) -> list[float]:
    least, most = table.sigmas[0] ** (1 / 7), table.sigmas[-1] ** (1 / 7)
    return [(most + part * (least - most)) ** 7 for part in _parts(steps)]


def _exponential(steps: int, table: Table) -> list[float]:
    return list(np.exp(math.log(table.sigmas[-1]) + _parts(steps) * math.log(table.sigmas[0] / table.sigmas[-1])))


def _kl_optimal(steps: int, table: Table) -> list[float]:
    return list(np.tan((1 - _parts(steps)) * math.atan(table.sigmas[-1]) + _parts(steps) * math.atan(table.sigmas[0])))


def _beta(steps: int, table: Table) -> list[float]:
    """Quantiles of Beta(0.6, 0.6). With x = t ** (1 / 0.6) its density is smooth at 0; the other half mirrors it."""
    edges = np.linspace(0, 0.5**0.6, 20_001)
    middles = (edges[1:] + edges[:-1]) / 2
    shares = np.concatenate([[0.0], np.cumsum((1 - middles ** (1 / 0.6)) ** -0.4)])
    shares *= 0.5 / shares[-1]

    def quantile(p: float) -> float:
        if p >= 0.5:
            return 1 - quantile(1 - p) if p > 0.5 else 0.5
        return float(np.interp(p, shares, edges)) ** (1 / 0.6)

    last = len(table.sigmas) - 1
    return [table.sigmas[int(np.rint(quantile(1 - i / steps) * last))] for i in range(steps)]


def _lcm(steps: int, table: Table) -> list[float]:
    scale = len(table.sigmas) / 1000
    return [table.at((50 - i * 50 // steps) * 20 * scale - 1) for i in range(steps)]


def _smoothstep(steps: int, table: Table) -> list[float]:
    ups = [1 - i / steps for i in range(steps)]
    return [table.sigmas[round(u * u * (3 - 2 * u) * (len(table.sigmas) - 1))] for u in ups]


def _bong_tangent(steps: int, table: Table) -> list[float]:
    start, end = (1.0, 0.0) if table.is_flow else (table.sigmas[-1], table.sigmas[0])
    middle, count = (start + end) / 2, steps + 2
    pivot, slope = int(count * 0.6), 0.2 / (count / 40)

    def stretch(length: int, at: int, high: float, low: float) -> list[float]:
        values = [(2 / math.pi * math.atan(-slope * (x - at)) + 1) / 2 for x in range(length)]
        return [(value - values[-1]) / (values[0] - values[-1]) * (high - low) + low for value in values]

    return (
        [start]
        if steps == 1
        else [*stretch(pivot, pivot, start, middle)[:-1], *stretch(count - pivot, 0, middle, end)][:-1]
    )


_SPACINGS: dict[str, Callable[[int, Table], list[float]]] = {
    "discrete": _discrete,
    "karras": _karras,
    "exponential": _exponential,
    "sgm_uniform": _sgm_uniform,
    "simple": _simple,
    "smoothstep": _smoothstep,
    "kl_optimal": _kl_optimal,
    "lcm": _lcm,
    "bong_tangent": _bong_tangent,
    "beta": _beta,
}
SPACINGS = tuple(_SPACINGS)
