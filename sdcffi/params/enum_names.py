"""Names of the engine's enumerations in all of its revisions, for what is read before an engine is chosen.

An engine has fewer of them: those of the library that is loaded are in `Opened.names`.
"""

from __future__ import annotations

__all__ = ["EVERY_NAME"]

EVERY_NAME: dict[str, tuple[str, ...]] = {
    "sample_method_t": (
        *("euler", "euler_a", "heun", "dpm2", "dpm++2s_a", "dpm++2m", "dpm++2mv2", "ipndm", "ipndm_v", "lcm"),
        *("ddim_trailing", "tcd", "res_multistep", "res_2s", "er_sde", "dpm++2m_sde", "lms", "dpm++_sde"),
        *("dpm++3m_sde", "unipc", "deis", "euler_cfg_pp", "euler_a_cfg_pp", "euler_ge", "dpm++2m_sde_bt"),
    ),
    "scheduler_t": (
        *("discrete", "karras", "exponential", "ays", "gits", "sgm_uniform", "simple", "smoothstep", "kl_optimal"),
        *("lcm", "bong_tangent", "beta", "ltx2", "logit_normal", "flux2", "flux"),
    ),
    "sd_cache_mode_t": ("disabled", "easycache", "ucache", "dbcache", "taylorseer", "cache_dit", "spectrum"),
    "sd_hires_upscaler_t": (
        *("None", "Latent", "Latent (nearest)", "Latent (nearest-exact)", "Latent (antialiased)", "Latent (bicubic)"),
        *("Latent (bicubic antialiased)", "Lanczos", "Nearest", "Model"),
    ),
    "prediction_t": ("eps", "v", "edm_v", "sd3_flow", "flux_flow", "flux2_flow", "sefi_flow", "minit2i_flow"),
    "rng_type_t": ("std_default", "cuda", "cpu"),
    "lora_apply_mode_t": ("auto", "immediately", "at_runtime"),
}
"""By the enumeration's name in C."""
