"""Samplers that ComfyUI and diffusers compute in log(alpha / sigma), for both kinds of models, in numpy.

They take what those of `reference_samplers` take, and `is_flow`. A flow model's first level is moved off 1, where that
number is infinite: by 1e-4 in ComfyUI's stochastic samplers, by 1e-6 in diffusers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

__all__ = ["ancestral", "ddim", "deis", "dpmpp_multistep_sde", "dpmpp_sde", "steps_of", "unipc"]

Array = npt.NDArray[np.float64]
Denoiser = Callable[[Array, float], Array]


def ancestral(sigma: float, to: float, eta: float) -> tuple[float, float]:
    """k-diffusion's get_ancestral_step: the noise to go down to, and the noise to add."""
    up = min(to, eta * math.sqrt(to**2 * (sigma**2 - to**2) / sigma**2))
    return math.sqrt(to**2 - up**2), up


def steps_of(sigmas: list[float]) -> Iterator[tuple[int, float, float]]:
    """Each step's number, level and next level."""
    return ((i, sigmas[i], sigmas[i + 1]) for i in range(len(sigmas) - 1))


def _alphas(sigmas: list[float], is_flow: bool, least: float) -> tuple[list[float], list[float]]:
    """Levels with the first moved off 1, and the factors of the image."""
    moved = [min(sigma, 1 - least) for sigma in sigmas] if is_flow else sigmas
    return moved, [1 - sigma if is_flow else 1.0 for sigma in moved]


def _half_log_snr(sigma: float, alpha: float) -> float:
    return math.log(alpha / sigma)


def dpmpp_sde(
    model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float, is_flow: bool = False
) -> Array:
    """ComfyUI's sample_dpmpp_sde with r = 1/2; the Brownian motion of k-diffusion is over sigma."""
    sigmas, alphas = _alphas(sigmas, is_flow, 1e-4)
    for i, sigma, to in steps_of(sigmas):
        denoised = model(x, sigma)
        if to == 0:
            return denoised
        a, a_to = alphas[i], alphas[i + 1]
        start, end = _half_log_snr(sigma, a), _half_log_snr(to, a_to)
        middle = (start + end) / 2
        a_mid = 1 / (1 + math.exp(-middle)) if is_flow else 1.0
        s_mid = a_mid * math.exp(-middle)
        down, up = ancestral(math.exp(-start), math.exp(-middle), eta)
        h = -math.log(down) - start
        path = 0.0 * x  # of the Brownian motion at the middle
        ahead = a_mid / a * math.exp(-h) * x - a_mid * math.expm1(-h) * denoised
        if up > 0:
            path = math.sqrt(sigma - s_mid) * next(noises)
            ahead = ahead + a_mid * up * path / math.sqrt(sigma - s_mid)
        second = model(ahead, s_mid)
        down, up = ancestral(math.exp(-start), math.exp(-end), eta)
        h = -math.log(down) - start
        x = a_to / a * math.exp(-h) * x - a_to * math.expm1(-h) * second
        if up > 0:
            path = path + math.sqrt(s_mid - to) * next(noises)
            x = x + a_to * up * path / math.sqrt(sigma - to)
    return x


def dpmpp_multistep_sde(
    model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float, order: int, is_flow: bool
) -> Array:
    """ComfyUI's sample_dpmpp_2m_sde (midpoint) and sample_dpmpp_3m_sde."""
    sigmas, alphas = _alphas(sigmas, is_flow, 1e-4)
    olds: list[Array] = []
    steps: list[float] = []
    for i, sigma, to in steps_of(sigmas):
        denoised = model(x, sigma)
        if to == 0:
            return denoised
        a, a_to = alphas[i], alphas[i + 1]
        h = _half_log_snr(to, a_to) - _half_log_snr(sigma, a)
        whole = h * (eta + 1)
        x = to / sigma * math.exp(-h * eta) * x + a_to * -math.expm1(-whole) * denoised
        phi_2 = math.expm1(-whole) / whole + 1
        if order == 2 and olds:
            x = x + 0.5 * a_to * -math.expm1(-whole) * (h / steps[0]) * (denoised - olds[0])
        elif len(olds) > 1:
            r0, r1 = steps[0] / h, steps[1] / h
            d0, d1 = (denoised - olds[0]) / r0, (olds[0] - olds[1]) / r1
            first, second = d0 + (d0 - d1) * r0 / (r0 + r1), (d0 - d1) / (r0 + r1)
            x = x + a_to * phi_2 * first - a_to * (phi_2 / whole - 0.5) * second
        elif olds:
            x = x + a_to * phi_2 * (denoised - olds[0]) / (steps[0] / h)
        if eta > 0:
            x = x + to * math.sqrt(-math.expm1(-2 * h * eta)) * next(noises)
        olds, steps = [denoised, *olds][:2], [h, *steps][:2]
    return x


def ddim(
    model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float, is_flow: bool = False
) -> Array:
    """Equation 12 of DDIM (2010.02502), on latents whose factors have squares that add up to 1."""
    sigmas, alphas = _alphas(sigmas, is_flow, 1e-6)
    for i, sigma, to in steps_of(sigmas):
        denoised = model(x, sigma)
        noise = (x - alphas[i] * denoised) / sigma
        bar, bar_to = (alphas[k] ** 2 / (alphas[k] ** 2 + sigmas[k] ** 2) for k in (i, i + 1))
        added = eta * math.sqrt((1 - bar_to) / (1 - bar)) * math.sqrt(1 - bar / bar_to)
        unit = math.sqrt(bar_to) * denoised + math.sqrt(max(1 - bar_to - added**2, 0)) * noise
        unit = unit + added * next(noises) if added > 0 else unit
        x = unit * math.sqrt(alphas[i + 1] ** 2 + to**2)
    return x


def deis(
    model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float, is_flow: bool = False
) -> Array:
    """diffusers' DEISMultistepScheduler of order 2, with a last step to 0."""
    sigmas, alphas = _alphas(sigmas, is_flow, 1e-6)
    old = x

    def integral(t: float, b: float, c: float) -> float:
        return t * (-math.log(c) + math.log(t) - 1) / (math.log(b) - math.log(c))

    for i, sigma, to in steps_of(sigmas):
        noise = (x - alphas[i] * model(x, sigma)) / sigma
        rho, rho_to = sigma / alphas[i], to / alphas[i + 1]
        if i == 0 or to == 0:
            x = alphas[i + 1] * (x / alphas[i] + (rho_to - rho) * noise)
        else:
            before = sigmas[i - 1] / alphas[i - 1]
            first = integral(rho_to, rho, before) - integral(rho, rho, before)
            second = integral(rho_to, before, rho) - integral(rho, before, rho)
            x = alphas[i + 1] * (x / alphas[i] + first * noise + second * old)
        old = noise
    return x


def unipc(
    model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float, is_flow: bool = False
) -> Array:
    """diffusers' UniPCMultistepScheduler as it is by default: order 2, bh2, predict_x0, lower_order_final."""
    sigmas, alphas = _alphas(sigmas, is_flow, 1e-6)
    lambdas = [_half_log_snr(s, a) if s > 0 else math.inf for s, a in zip(sigmas, alphas, strict=True)]
    outputs: list[Array] = []
    last, order = x, 0
    for i, sigma, to in steps_of(sigmas):
        denoised = model(x, sigma)
        if i > 0:
            x = _unipc_update(outputs, denoised, last, sigmas, alphas, lambdas, i, order)
        outputs.append(denoised)
        order = min(2, len(sigmas) - 1 - i, len(outputs))
        last = x
        x = denoised if to == 0 else _unipc_update(outputs, None, x, sigmas, alphas, lambdas, i + 1, order)
    return x


def _unipc_update(
    outputs: list[Array],
    corrected_by: Array | None,
    x: Array,
    sigmas: list[float],
    alphas: list[float],
    lambdas: list[float],
    end: int,
    order: int,
) -> Array:
    h = lambdas[end] - lambdas[end - 1]
    phi_1 = b_h = math.expm1(-h)
    m0 = outputs[end - 1]
    ratios = [(lambdas[end - 2] - lambdas[end - 1]) / h] if order == 2 else []
    slopes = [(outputs[end - 2] - m0) / ratio for ratio in ratios]
    x = sigmas[end] / sigmas[end - 1] * x - alphas[end] * phi_1 * m0
    if corrected_by is None:
        return x - alphas[end] * b_h * sum((0.5 * slope for slope in slopes), 0.0 * m0)
    nodes = np.array([*ratios, 1.0])
    b, phi, factorial = [], phi_1 / -h - 1, 1
    for k in range(1, order + 1):
        b.append(phi * factorial / b_h)
        factorial *= k + 1
        phi = phi / -h - 1 / factorial
    weights = np.linalg.solve(np.stack([nodes**k for k in range(order)]), np.array(b)) if order > 1 else np.array([0.5])
    slopes = [*slopes, corrected_by - m0]
    return x - alphas[end] * b_h * sum((w * slope for w, slope in zip(weights, slopes, strict=True)), 0.0 * m0)
