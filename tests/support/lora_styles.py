"""How tools name the tensors of a LoRA, written down from the tools' own code and independent of the package.

A style takes diffusers' name of a module, or its original name (a tensor's without the ending), and returns what the
tool calls it. Text encoders have transformers' names. `STYLES` and `TEXT_STYLES` say of each style where it is from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["DITS", "STYLES", "TEXT_STYLES", "UNETS", "Style", "TextStyle", "text_names"]

UNETS = frozenset({"sd1", "sd2", "sdxl"})
DITS = frozenset(
    {"flux", "chroma", "flux2", "ovis_image", "sd3", "wan", "wan_i2v", "wan_vace", "z_image", "qwen_image",
     "ernie_image", "anima"}
)  # fmt: skip
_ALL = UNETS | DITS
_WAN = frozenset({"wan", "wan_i2v", "wan_vace"})

_ADAPTER = "text_conditioner."  # Anima's, which is a model of its own in diffusers: AnimaLoraLoaderMixin
_LORA_AB = {"down": ".lora_A.weight", "up": ".lora_B.weight"}
_KOHYA = {"down": ".lora_down.weight", "up": ".lora_up.weight", "alpha": ".alpha"}
_DEFAULT = {"down": ".lora_A.default.weight", "up": ".lora_B.default.weight"}


@dataclass(frozen=True)
class Style:
    """A tool's naming of a denoiser's modules.

    Attributes
    ----------
    name : str
        Its name here.
    source : str
        The tool, and where its code says so.
    uses : str
        ``"diffusers"`` or ``"original"``: the names that it starts from.
    families : frozenset of str
        Families of models that the tool writes it for.
    rename : callable
        Returns the module's name in the file, given its own name and the family.
    endings : mapping of str to str
        What follows the module's name, by role.
    only : str
        A pattern of the modules that the tool writes.
    """

    name: str
    source: str
    uses: str
    families: frozenset[str]
    rename: Callable[[str, str], str]
    endings: Mapping[str, str] = field(default_factory=lambda: dict(_LORA_AB))
    only: str = ""

    def __str__(self) -> str:
        return self.name

    def writes(self, name: str, family: str) -> bool:
        """Return whether the tool writes a module of these names."""
        if name.startswith(_ADAPTER) and self.rename is not _diffusers:
            return False
        return family in self.families and re.search(self.only, name) is not None

    def module(self, name: str, family: str) -> str:
        """Return the module's name in the file."""
        return self.rename(name, family)

    def tensors(self, name: str, family: str) -> dict[str, str]:
        """Return the names of the module's tensors by role."""
        return {role: self.module(name, family) + ending for role, ending in self.endings.items()}


def _diffusers(name: str, family: str) -> str:
    if name.startswith(_ADAPTER):
        return name
    return f"{'unet' if family in UNETS else 'transformer'}.{name}"


def _dotted(prefix: str) -> Callable[[str, str], str]:
    return lambda name, family: prefix + name


def _flat(prefix: str) -> Callable[[str, str], str]:
    return lambda name, family: (prefix + name).replace(".", "_")


def _flat_diffusers(name: str, family: str) -> str:
    return ("lora_" + _diffusers(name, family)).replace(".", "_")


def _processor(name: str, family: str) -> str:
    return re.sub(r"\.to_out\.0$", ".to_out", re.sub(r"\.(to_\w+(\.0)?)$", r".processor.\1", _diffusers(name, family)))


_SD_SCRIPTS = "kohya-ss/sd-scripts, networks/"
_STYLES = (
    # diffusers' names.
    Style("diffusers", "diffusers, loaders/lora_base.py, pack_weights", "diffusers", _ALL, _diffusers),
    Style("diffusers_down_up", "diffusers before PEFT, loaders/lora.py", "diffusers", _ALL, _diffusers,
          {"down": ".lora.down.weight", "up": ".lora.up.weight"}),
    Style("diffusers_linear_layer", "diffusers before PEFT: lora_linear_layer of a module", "diffusers", _ALL,
          _diffusers, {"down": ".lora_linear_layer.down.weight", "up": ".lora_linear_layer.up.weight"}),
    Style("diffusers_processor", "diffusers before 0.22: attention processors", "diffusers", UNETS, _processor,
          {"down": "_lora.down.weight", "up": "_lora.up.weight"}, r"\.attn[12]\.to_"),
    Style("bare", "PEFT, get_peft_model_state_dict without base_model.model.", "diffusers", _ALL, _dotted("")),
    Style("peft", "PEFT, save_pretrained", "diffusers", _ALL, _dotted("base_model.model.")),
    Style("peft_adapter", "PEFT, state_dict of a model", "diffusers", _ALL, _dotted("base_model.model."), _DEFAULT),
    Style("diffsynth", "DiffSynth-Studio, diffusion/training_module.py: mapping_lora_state_dict; examples/*/lora/*.sh",
          "diffusers", frozenset({"sdxl", "sd1", "flux2", "z_image", "qwen_image", "ernie_image"}), _dotted(""),
          _DEFAULT),
    Style("kohya_diffusers", _SD_SCRIPTS + "lora.py; musubi-tuner, networks/lora_zimage.py, lora_qwen_image.py; "
          "PEFT's convert_state_dict_to_kohya", "diffusers", _ALL, _flat("lora_unet."), _KOHYA),
    Style("lycoris", "LyCORIS, wrapper.py: LORA_PREFIX; ai-toolkit's old LoKr", "diffusers", _ALL, _flat("lycoris."),
          _KOHYA),
    Style("onetrainer", "OneTrainer, modules/util/convert_lora_util.py: convert_to_mixture; ai-toolkit, "
          "lora_special.py without peft_format", "diffusers", _ALL, _flat_diffusers, _KOHYA),
    Style("onetrainer_dotted", "OneTrainer, *LoRASaver._convert_legacy of FLUX.2, Z-Image, Qwen-Image, ERNIE-Image",
          "diffusers", DITS, _diffusers, _KOHYA),
    Style("ai_toolkit_diffusers", "ai-toolkit, diffusion_models/z_image and qwen_image: "
          "convert_lora_weights_before_save", "diffusers", frozenset({"z_image", "qwen_image"}),
          _dotted("diffusion_model.")),
    # Original names.
    Style("kohya", _SD_SCRIPTS + "lora.py (SDXL), lora_flux.py, lora_sd3.py, lora_anima.py; musubi-tuner, "
          "networks/lora_wan.py, lora_flux_2.py; OneTrainer's KOHYA", "original", _ALL, _flat("lora_unet."), _KOHYA),
    Style("comfyui", "ComfyUI, comfy/lora.py: model_lora_keys_unet, 'generic lora format'; ai-toolkit (Wan, FLUX.2, "
          "Chroma, Anima, ERNIE-Image); OneTrainer's COMFY", "original", _ALL, _dotted("diffusion_model.")),
    Style("comfyui_down_up", "Wan's extracted LoRAs", "original", _WAN, _dotted("diffusion_model."), _KOHYA),
    Style("transformer_original", "ai-toolkit before its conversion, e.g. FLUX.2 and Chroma", "original", DITS,
          _dotted("transformer.")),
    Style("onetrainer_omi", "OneTrainer of 2025, modules/util/convert/lora/convert_sdxl_lora.py; backups have it",
          "original", UNETS - {"sd2"}, _dotted("unet."), _KOHYA),
    Style("original", "OneTrainer's ORIGINAL; BFL's control LoRAs", "original", _ALL, _dotted("")),
    Style("original_diffsynth", "DiffSynth-Studio, examples/wanvideo and anima", "original", _WAN | {"anima"},
          _dotted(""), _DEFAULT),
    Style("original_peft", "PEFT on the author's classes", "original", _ALL, _dotted("base_model.model.")),
    Style("model_diffusion_model", "checkpoints' own prefix", "original", _ALL, _dotted("model.diffusion_model.")),
    Style("kohya_model", "LoRAs of checkpoints' own names, flattened", "original", _ALL,
          _flat("lora_unet.model.diffusion_model."), _KOHYA),
)  # fmt: skip
STYLES: Mapping[str, Style] = {style.name: style for style in _STYLES}


@dataclass(frozen=True)
class TextStyle:
    """A tool's naming of text encoders: the prefix by family and encoder (a data file's name), and the rest's form.

    Attributes
    ----------
    name, source : str
        As of `Style`.
    prefixes : mapping of (str, str) to str
        By family and encoder.
    flat : bool
        Whether dots become underscores.
    bare : bool
        Whether ``text_model.`` or ``model.`` is left out, as transformers 5.6 does for `CLIPTextModel`.
    endings : mapping of str to str
        What follows the module's name, by role.
    """

    name: str
    source: str
    prefixes: Mapping[tuple[str, str], str]
    flat: bool = False
    bare: bool = False
    endings: Mapping[str, str] = field(default_factory=lambda: dict(_LORA_AB))

    def __str__(self) -> str:
        return self.name

    def module(self, name: str, family: str, encoder: str) -> str:
        """Return the module's name in the file."""
        if self.bare:
            name = name.removeprefix("text_model.").removeprefix("model.")
        name = self.prefixes[family, encoder] + name
        return name.replace(".", "_") if self.flat else name

    def tensors(self, name: str, family: str, encoder: str) -> dict[str, str]:
        """Return the names of the module's tensors by role."""
        return {role: self.module(name, family, encoder) + ending for role, ending in self.endings.items()}


_FIRST = {
    ("sd1", "text_clip"): "text_encoder.",
    ("sd2", "text_open_clip"): "text_encoder.",
    ("sdxl", "text_clip"): "text_encoder.",
    ("sd3", "text_clip"): "text_encoder.",
    ("flux", "text_clip"): "text_encoder.",
}
_PLAIN = {pair: prefix for pair, prefix in _FIRST.items() if pair[0] != "sd3"}  # SD3's has a projection
_AS_KOHYA = {
    ("sd1", "text_clip"): "lora_te1.",
    ("sd2", "text_open_clip"): "lora_te1.",
    ("sdxl", "text_clip"): "lora_te1.",
    ("sdxl", "text_open_clip"): "lora_te2.",
}
_SECOND = {
    ("sdxl", "text_open_clip"): "text_encoder_2.",
    ("sd3", "text_clip_g"): "text_encoder_2.",
    ("sd3", "text_t5"): "text_encoder_3.",
    ("flux", "text_t5"): "text_encoder_2.",
    ("chroma", "text_t5"): "text_encoder.",
}
_TEXT = (
    TextStyle("diffusers", "diffusers, save_lora_weights, transformers 4", _FIRST | _SECOND),
    TextStyle("diffusers_5", "diffusers, save_lora_weights, transformers 5: CLIPTextModel has no text_model", _PLAIN,
              bare=True),
    TextStyle("diffusers_kohya", "diffusers, convert_state_dict_to_kohya, transformers 4", _AS_KOHYA, flat=True,
              endings=_KOHYA),
    TextStyle("diffusers_kohya_5", "diffusers, convert_state_dict_to_kohya, transformers 5",
              {pair: prefix for pair, prefix in _AS_KOHYA.items() if pair in _PLAIN}, flat=True, bare=True,
              endings=_KOHYA),
    TextStyle("diffusers_linear_layer", "diffusers, convert_state_dict_to_diffusers of a text encoder",
              _FIRST | _SECOND,
              endings={"down": ".lora_linear_layer.down.weight", "up": ".lora_linear_layer.up.weight"}),
    TextStyle("kohya", _SD_SCRIPTS + "lora.py, lora_flux.py, lora_sd3.py: LORA_PREFIX_TEXT_ENCODER*", {
        ("sd1", "text_clip"): "lora_te.", ("sd2", "text_open_clip"): "lora_te.",
        ("sdxl", "text_clip"): "lora_te1.", ("sdxl", "text_open_clip"): "lora_te2.",
        ("sd3", "text_clip"): "lora_te1.", ("sd3", "text_clip_g"): "lora_te2.", ("sd3", "text_t5"): "lora_te3.",
        ("flux", "text_clip"): "lora_te1.", ("flux", "text_t5"): "lora_te3.",
    }, flat=True, endings=_KOHYA),
    TextStyle("kohya_qwen3", _SD_SCRIPTS + "lora_anima.py", {("anima", "text_qwen3"): "lora_te."}, flat=True, bare=True,
              endings=_KOHYA),
    TextStyle("comfyui_qwen3", _SD_SCRIPTS + "convert_anima_lora_to_comfy.py",
              {("anima", "text_qwen3"): "text_encoders.qwen3_06b.transformer."}),
    TextStyle("onetrainer", "OneTrainer, modules/util/convert_lora_util.py: convert_to_mixture; ChromaLoRASaver", {
        ("sdxl", "text_clip"): "lora_te1.", ("sdxl", "text_open_clip"): "lora_te2.",
        ("sd3", "text_clip"): "lora_te1.", ("sd3", "text_clip_g"): "lora_te2.", ("sd3", "text_t5"): "lora_te3.",
        ("flux", "text_clip"): "lora_te1.", ("flux", "text_t5"): "lora_te2.",
        ("chroma", "text_t5"): "lora_te.",
    }, flat=True, endings=_KOHYA),
    TextStyle("onetrainer_omi", "OneTrainer of 2025, modules/util/convert/lora/convert_clip.py, convert_t5.py", {
        ("sd1", "text_clip"): "clip_l.",
        ("sdxl", "text_clip"): "clip_l.", ("sdxl", "text_open_clip"): "clip_g.",
        ("sd3", "text_clip"): "clip_l.", ("sd3", "text_clip_g"): "clip_g.", ("sd3", "text_t5"): "t5.",
        ("flux", "text_clip"): "clip_l.", ("flux", "text_t5"): "t5.",
    }, endings=_KOHYA),
    TextStyle("comfyui", "ComfyUI, comfy/lora.py: model_lora_keys_clip; OneTrainer's COMFY_LORA", {
        ("sd1", "text_clip"): "text_encoders.clip_l.transformer.",
        ("sdxl", "text_clip"): "text_encoders.clip_l.transformer.",
        ("sdxl", "text_open_clip"): "text_encoders.clip_g.transformer.",
        ("sd3", "text_clip"): "text_encoders.clip_l.transformer.",
        ("sd3", "text_clip_g"): "text_encoders.clip_g.transformer.",
        ("sd3", "text_t5"): "text_encoders.t5xxl.transformer.",
        ("flux", "text_clip"): "text_encoders.clip_l.transformer.",
        ("flux", "text_t5"): "text_encoders.t5xxl.transformer.",
        ("chroma", "text_t5"): "text_encoders.t5xxl.transformer.",
    }),
)  # fmt: skip
TEXT_STYLES: Mapping[str, TextStyle] = {style.name: style for style in _TEXT}


def text_names(family: str) -> list[str]:
    """Return the encoders that a family's LoRAs have parts for."""
    return sorted({encoder for style in _TEXT for of, encoder in style.prefixes if of == family})
