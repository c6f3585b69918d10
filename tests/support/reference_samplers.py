"""Samplers in numpy, as their authors have them: k-diffusion, diffusers, ComfyUI and RES4LYF.

Each is given a denoiser, a latent, noise levels, the noises that are added in their order, and eta. A latent with noise
of `sigma` is image + sigma * noise, and for flow models (1 - sigma) * image + sigma * noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Denoiser = Callable[[Array, float], Array]
Sampler = Callable[[Denoiser, Array, list[float], Iterator[Array], float], Array]


def ancestral(sigma: float, to: float, eta: float) -> tuple[float, float]:
    """k-diffusion's get_ancestral_step: the noise to go down to, and the noise to add."""
    up = min(to, eta * math.sqrt(to**2 * (sigma**2 - to**2) / sigma**2))
    return math.sqrt(to**2 - up**2), up


def ancestral_flow(sigma: float, to: float, eta: float) -> tuple[float, float, float]:
    """ComfyUI's sample_euler_ancestral_RF: the level to go down to, the factor of the image, the noise to add."""
    down = to * (1 + (to / sigma - 1) * eta)
    scale = (1 - to) / (1 - down)
    return down, scale, math.sqrt(max(to**2 - (down * scale) ** 2, 0))


def _renewed(x: Array, up: float, noises: Iterator[Array], scale: float = 1.0) -> Array:
    return scale * x + up * next(noises) if up > 0 else x


def _each(sigmas: list[float]) -> Iterator[tuple[int, float, float]]:
    return ((i, sigmas[i], sigmas[i + 1]) for i in range(len(sigmas) - 1))


def euler(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    for _, sigma, to in _each(sigmas):
        x = x + (x - model(x, sigma)) / sigma * (to - sigma)
    return x


def euler_a(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    for _, sigma, to in _each(sigmas):
        down, up = ancestral(sigma, to, eta)
        x = x + (x - model(x, sigma)) / sigma * (down - sigma)
        x = _renewed(x, up, noises) if to > 0 else x
    return x


def euler_a_flow(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    for _, sigma, to in _each(sigmas):
        denoised = model(x, sigma)
        if to == 0:
            x = denoised
            continue
        down, scale, up = ancestral_flow(sigma, to, eta)
        x = _renewed(down / sigma * x + (1 - down / sigma) * denoised, up, noises, scale)
    return x


def heun(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    for _, sigma, to in _each(sigmas):
        d = (x - model(x, sigma)) / sigma
        if to > 0:
            ahead = x + d * (to - sigma)
            d = (d + (ahead - model(ahead, to)) / to) / 2
        x = x + d * (to - sigma)
    return x


def dpm2(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    for _, sigma, to in _each(sigmas):
        d = (x - model(x, sigma)) / sigma
        if to > 0:
            middle = math.sqrt(sigma * to)
            ahead = x + d * (middle - sigma)
            d = (ahead - model(ahead, middle)) / middle
        x = x + d * (to - sigma)
    return x


def dpmpp_2s_a(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    for _, sigma, to in _each(sigmas):
        denoised = model(x, sigma)
        down, up = ancestral(sigma, to, eta)
        if down == 0:
            x = denoised
        else:
            h, middle = math.log(sigma / down), math.sqrt(sigma * down)
            ahead = middle / sigma * x - math.expm1(-h / 2) * denoised
            x = down / sigma * x - math.expm1(-h) * model(ahead, middle)
        x = _renewed(x, up, noises) if to > 0 else x
    return x


def dpmpp_2s_a_flow(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    """ComfyUI's sample_dpmpp_2s_ancestral_RF."""
    for _, sigma, to in _each(sigmas):
        denoised = model(x, sigma)
        if to == 0:
            x = denoised
            continue
        down, scale, up = ancestral_flow(sigma, to, eta)
        if sigma < 1:
            middle = 1 / (math.sqrt((1 - sigma) / sigma * (1 - down) / down) + 1)
            denoised = model(middle / sigma * x + (1 - middle / sigma) * denoised, middle)
        x = _renewed(down / sigma * x + (1 - down / sigma) * denoised, up, noises, scale)
    return x


def dpmpp_2m(
    model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float, v2: bool = False
) -> Array:
    old, h_last = x, 0.0
    for i, sigma, to in _each(sigmas):
        denoised = model(x, sigma)
        if i == 0 or to == 0:
            x = denoised if to == 0 else to / sigma * x + (1 - to / sigma) * denoised
        else:
            h = math.log(sigma / to)
            r = max(h, h_last) / min(h, h_last) if v2 else h_last / h
            reach = (h + h_last) / 2 if v2 else h
            slope = (1 + 1 / (2 * r)) * denoised - 1 / (2 * r) * old
            x = to / sigma * x - math.expm1(-reach) * slope
        h_last = math.log(sigma / to) if to > 0 else 0.0
        old = denoised
    return x


def dpmpp_2m_v2(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    return dpmpp_2m(model, x, sigmas, noises, eta, v2=True)


def lcm(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    for _, sigma, to in _each(sigmas):
        x = _renewed(model(x, sigma), to, noises)
    return x


def lcm_flow(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    for _, sigma, to in _each(sigmas):
        x = _renewed(model(x, sigma), to, noises, 1 - to)
    return x


def ipndm(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    factors = ([1.0], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24])
    slopes: list[Array] = []
    for _, sigma, to in _each(sigmas):
        slopes = [(x - model(x, sigma)) / sigma, *slopes][:4]
        slope = sum(f * d for f, d in zip(factors[len(slopes) - 1], slopes, strict=True))
        x = x + (to - sigma) * slope
    return x


def lms(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    """k-diffusion's sample_lms: polynomials through the last four slopes, integrated."""
    slopes: list[Array] = []
    for i, sigma, to in _each(sigmas):
        slopes = [(x - model(x, sigma)) / sigma, *slopes][:4]
        nodes = [sigmas[i - k] for k in range(len(slopes))]
        for k, slope in enumerate(slopes):
            others = [node for index, node in enumerate(nodes) if index != k]
            whole = np.polynomial.Polynomial.fromroots(others) if others else np.polynomial.Polynomial([1.0])
            primitive = (whole / math.prod(nodes[k] - other for other in others)).integ()
            x = x + (primitive(to) - primitive(sigma)) * slope
    return x


def tcd(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    """diffusers' TCDScheduler, whose latents are sqrt(alpha) * x."""
    alphas = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    levels = np.sqrt((1 - alphas) / alphas)
    for _, sigma, to in _each(sigmas):
        denoised = model(x, sigma)
        noise = (x - denoised) / sigma
        alpha, alpha_s = 1 / (1 + to**2), alphas[math.floor((1 - eta) * int(np.argmin(abs(levels - to))))]
        scaled = math.sqrt(alpha_s) * denoised + math.sqrt(1 - alpha_s) * noise
        if eta > 0 and to > 0:
            scaled = math.sqrt(alpha / alpha_s) * scaled + math.sqrt(1 - alpha / alpha_s) * next(noises)
        x = scaled / math.sqrt(alpha)
    return x


def _phi(j: int, t: float) -> float:
    if j == 1:
        return math.expm1(t) / t
    return (_phi(j - 1, t) - 1 / math.factorial(j - 1)) / t


def res_multistep(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    """ComfyUI's res_multistep, with eta 0."""
    old = x
    for i, sigma, to in _each(sigmas):
        denoised = model(x, sigma)
        if i == 0 or to == 0:
            x = x + (x - denoised) / sigma * (to - sigma)
        else:
            h = math.log(sigma / to)
            c2 = math.log(sigma / sigmas[i - 1]) / h
            b2 = _phi(2, -h) / c2
            x = math.exp(-h) * x + h * ((_phi(1, -h) - b2) * denoised + b2 * old)
        old = denoised
    return x


def res_2s(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    """RES4LYF's res_2s with c2 = 1/2, with eta 0."""
    for _, sigma, to in _each(sigmas):
        denoised = model(x, sigma)
        if to == 0:
            x = denoised
            continue
        h = math.log(sigma / to)
        ahead = x + h / 2 * _phi(1, -h / 2) * (denoised - x)
        second = model(ahead, math.sqrt(sigma * to))
        b2 = _phi(2, -h) / 0.5
        x = x + h * ((_phi(1, -h) - b2) * (denoised - x) + b2 * (second - x))
    return x


def er_sde(
    model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float, is_flow: bool = False
) -> Array:
    """ComfyUI's sample_er_sde of three stages; the engine's first level of a flow model is 1 - 1e-4."""
    alphas = [1 - min(max(s, 1e-6), 1 - 1e-4) if is_flow else 1.0 for s in sigmas]
    rhos = [(1 - a) / a for a in alphas] if is_flow else [max(s, 1e-6) for s in sigmas]
    old, old_d, has_d = x, x, False

    def scaler(rho: float) -> float:
        return rho * (math.exp(rho**0.3) + 10)

    for i, sigma, to in _each(sigmas):
        denoised = model(x, sigma)
        if to == 0:
            return denoised
        s, t = rhos[i], rhos[i + 1]
        r = scaler(t) / scaler(s)
        x = alphas[i + 1] / alphas[i] * r * x + alphas[i + 1] * (1 - r) * denoised
        if i > 0:
            step = (s - t) / 200
            places = t + np.arange(200) * step
            weights = 1 / (places * (np.exp(places**0.3) + 10))
            d = (denoised - old) / (s - rhos[i - 1])
            x = x + alphas[i + 1] * (t - s + weights.sum() * step * scaler(t)) * d
            if has_d:
                u = (d - old_d) / ((s - rhos[i - 2]) / 2)
                x = x + alphas[i + 1] * ((t - s) ** 2 / 2 + ((places - s) * weights).sum() * step * scaler(t)) * u
            old_d, has_d = d, True
        if eta > 0:
            x = x + alphas[i + 1] * math.sqrt(max(t**2 - s**2 * r**2, 0)) * next(noises)
        old = denoised
    return x


def er_sde_flow(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    return er_sde(model, x, sigmas, noises, eta, is_flow=True)


# --- samplers that ComfyUI and diffusers compute in log(alpha / sigma), for both kinds of models ---


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
    for i, sigma, to in _each(sigmas):
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


def _multistep_sde(
    model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float, order: int, is_flow: bool
) -> Array:
    """ComfyUI's sample_dpmpp_2m_sde (midpoint) and sample_dpmpp_3m_sde."""
    sigmas, alphas = _alphas(sigmas, is_flow, 1e-4)
    olds: list[Array] = []
    steps: list[float] = []
    for i, sigma, to in _each(sigmas):
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
    for i, sigma, to in _each(sigmas):
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

    for i, sigma, to in _each(sigmas):
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
    for i, sigma, to in _each(sigmas):
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


# --- of 2026-08 ---


def euler_ge(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    """ComfyUI's sample_gradient_estimation with gamma 2."""
    old: Any = None
    for _, sigma, to in _each(sigmas):
        denoised = model(x, sigma)
        slope = (x - denoised) / sigma
        x = denoised if to == 0 else x + (slope if old is None else 2 * slope - old) * (to - sigma)
        old = slope
    return x


def _both(sampler: Any, **more: Any) -> dict[str, Sampler]:
    """A sampler that is told which kind the model is."""

    def of(is_flow: bool) -> Sampler:
        return lambda model, x, sigmas, noises, eta: sampler(model, x, sigmas, noises, eta, is_flow=is_flow, **more)

    return {"eps": of(False), "flow": of(True)}


def _same(sampler: Sampler, flow: Sampler | None = None) -> dict[str, Sampler]:
    return {"eps": sampler, "flow": flow or sampler}


# By the engine's name and the kind of model. What is not here is refused, or fails the test.
REFERENCES: dict[str, dict[str, Sampler]] = {
    "euler": _same(euler),
    "euler_a": _same(euler_a, euler_a_flow),
    "heun": _same(heun),
    "dpm2": _same(dpm2),
    "dpm++2s_a": _same(dpmpp_2s_a, dpmpp_2s_a_flow),
    "dpm++2m": _same(dpmpp_2m),
    "dpm++2mv2": _same(dpmpp_2m_v2),
    "ipndm": _same(ipndm),
    "ipndm_v": _same(lms),
    "lms": _same(lms),
    "lcm": _same(lcm, lcm_flow),
    "ddim_trailing": _both(ddim),
    "tcd": {"eps": tcd},
    "res_multistep": _same(res_multistep),
    "res_2s": _same(res_2s),
    "er_sde": _same(er_sde, er_sde_flow),
    "dpm++_sde": _both(dpmpp_sde),
    "dpm++2m_sde": _both(_multistep_sde, order=2),
    "dpm++3m_sde": _both(_multistep_sde, order=3),
    "unipc": _both(unipc),
    "deis": _both(deis),
    "euler_cfg_pp": {"eps": euler},
    "euler_a_cfg_pp": {"eps": euler_a},
    "euler_ge": _same(euler_ge),
    "dpm++2m_sde_bt": {"eps": _both(_multistep_sde, order=2)["eps"]},
}
