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
from reference_multistep import ancestral, ddim, deis, dpmpp_multistep_sde, dpmpp_sde, steps_of, unipc

Array = npt.NDArray[np.float64]
Denoiser = Callable[[Array, float], Array]
Sampler = Callable[[Denoiser, Array, list[float], Iterator[Array], float], Array]


def ancestral_flow(sigma: float, to: float, eta: float) -> tuple[float, float, float]:
    """ComfyUI's sample_euler_ancestral_RF: the level to go down to, the factor of the image, the noise to add."""
    down = to * (1 + (to / sigma - 1) * eta)
    scale = (1 - to) / (1 - down)
    return down, scale, math.sqrt(max(to**2 - (down * scale) ** 2, 0))


def _renewed(x: Array, up: float, noises: Iterator[Array], scale: float = 1.0) -> Array:
    return scale * x + up * next(noises) if up > 0 else x


def euler(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    for _, sigma, to in steps_of(sigmas):
        x = x + (x - model(x, sigma)) / sigma * (to - sigma)
    return x


def euler_a(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    for _, sigma, to in steps_of(sigmas):
        down, up = ancestral(sigma, to, eta)
        x = x + (x - model(x, sigma)) / sigma * (down - sigma)
        x = _renewed(x, up, noises) if to > 0 else x
    return x


def euler_a_flow(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    for _, sigma, to in steps_of(sigmas):
        denoised = model(x, sigma)
        if to == 0:
            x = denoised
            continue
        down, scale, up = ancestral_flow(sigma, to, eta)
        x = _renewed(down / sigma * x + (1 - down / sigma) * denoised, up, noises, scale)
    return x


def heun(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    for _, sigma, to in steps_of(sigmas):
        d = (x - model(x, sigma)) / sigma
        if to > 0:
            ahead = x + d * (to - sigma)
            d = (d + (ahead - model(ahead, to)) / to) / 2
        x = x + d * (to - sigma)
    return x


def dpm2(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    for _, sigma, to in steps_of(sigmas):
        d = (x - model(x, sigma)) / sigma
        if to > 0:
            middle = math.sqrt(sigma * to)
            ahead = x + d * (middle - sigma)
            d = (ahead - model(ahead, middle)) / middle
        x = x + d * (to - sigma)
    return x


def dpmpp_2s_a(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    for _, sigma, to in steps_of(sigmas):
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
    for _, sigma, to in steps_of(sigmas):
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
    for i, sigma, to in steps_of(sigmas):
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
    for _, sigma, to in steps_of(sigmas):
        x = _renewed(model(x, sigma), to, noises)
    return x


def lcm_flow(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    for _, sigma, to in steps_of(sigmas):
        x = _renewed(model(x, sigma), to, noises, 1 - to)
    return x


def ipndm(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    factors = ([1.0], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24])
    slopes: list[Array] = []
    for _, sigma, to in steps_of(sigmas):
        slopes = [(x - model(x, sigma)) / sigma, *slopes][:4]
        slope = sum(f * d for f, d in zip(factors[len(slopes) - 1], slopes, strict=True))
        x = x + (to - sigma) * slope
    return x


def ipndm_v(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    """The program of diff-sampler: a third and a fourth term are added to the weights of the second order."""
    slopes: list[Array] = []
    for i, sigma, to in steps_of(sigmas):
        slopes = [(x - model(x, sigma)) / sigma, *slopes][:4]
        a, b, c, d = (to - sigma, *(sigmas[i - k] - sigmas[i - k - 1] if i > k else -1.0 for k in range(3)))
        third = (1 - a / (3 * (a + b)) * (a * (a + b)) / (b * (b + c))) / 2 if len(slopes) > 2 else 0.0
        fourth = (1 - a / (3 * (a + b))) / 2 + (1 - a / (2 * (a + b))) * a / (6 * (a + b + c))
        fourth *= (a * (a + b) * (a + b + c)) / (b * (b + c) * (b + c + d)) if len(slopes) > 3 else 0.0
        far = b * (b + c) / (c * (c + d))
        weights = [
            (2 + a / b) / 2 + third + fourth,
            -(a / b) / 2 - (1 + b / c) * third - (1 + b / c + far) * fourth,
            third * b / c + (b / c + far * (1 + c / d)) * fourth,
            -fourth * far * b / c,
        ]
        weights = [1.0] if len(slopes) == 1 else weights[: len(slopes)]
        x = x + a * sum(weight * slope for weight, slope in zip(weights, slopes, strict=True))
    return x


def lms(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    """k-diffusion's sample_lms: polynomials through the last four slopes, integrated."""
    slopes: list[Array] = []
    for i, sigma, to in steps_of(sigmas):
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
    for _, sigma, to in steps_of(sigmas):
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
    for i, sigma, to in steps_of(sigmas):
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
    for _, sigma, to in steps_of(sigmas):
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

    for i, sigma, to in steps_of(sigmas):
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


# --- of 2026-08 ---


def euler_ge(model: Denoiser, x: Array, sigmas: list[float], noises: Iterator[Array], eta: float) -> Array:
    """ComfyUI's sample_gradient_estimation with gamma 2."""
    old: Any = None
    for _, sigma, to in steps_of(sigmas):
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
    "ipndm_v": _same(ipndm_v),
    "lms": _same(lms),
    "lcm": _same(lcm, lcm_flow),
    "ddim_trailing": _both(ddim),
    "tcd": {"eps": tcd},
    "res_multistep": _same(res_multistep),
    "res_2s": _same(res_2s),
    "er_sde": _same(er_sde, er_sde_flow),
    "dpm++_sde": _both(dpmpp_sde),
    "dpm++2m_sde": _both(dpmpp_multistep_sde, order=2),
    "dpm++3m_sde": _both(dpmpp_multistep_sde, order=3),
    "unipc": _both(unipc),
    "deis": _both(deis),
    "euler_cfg_pp": {"eps": euler},
    "euler_a_cfg_pp": {"eps": euler_a},
    "euler_ge": _same(euler_ge),
    "dpm++2m_sde_bt": {"eps": _both(dpmpp_multistep_sde, order=2)["eps"]},
}
