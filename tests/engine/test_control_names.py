"""ControlNets in the names that diffusers gives them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import sd1_model
from full_size import SD1_UNET, SDXL_UNET, Layout, Shape, UNet, unet, write_zeros
from parity import IMAGES, generate

from sdcffi._build.places import csrc_directory

_PROGRAM = """\
#include <iostream>
#include "engine/control_names.hpp"
int main() {
    for (std::string name; std::getline(std::cin, name);) std::cout << sdcffi::control_name(name) << '\\n';
}
"""


def names(sizes: UNet) -> dict[str, str]:
    """The names of a ControlNet's layers: diffusers' and the original's, by what diffusers' own converter has."""
    layout = Layout()
    unet(layout, sizes)
    shared = {
        module.name: module.original
        for module in layout.modules
        if module.original.startswith(("time_embed.", "label_emb.", "input_blocks.", "middle_block."))
    }
    hint = {f"controlnet_cond_embedding.blocks.{i}": f"input_hint_block.{2 * i + 2}" for i in range(6)}
    ways = {f"controlnet_down_blocks.{i}": f"zero_convs.{i}.0" for i in range(3 * len(sizes.multipliers))}
    return {
        **shared,
        **hint,
        **ways,
        "controlnet_cond_embedding.conv_in": "input_hint_block.0",
        "controlnet_cond_embedding.conv_out": "input_hint_block.14",
        "controlnet_mid_block": "middle_block_out.0",
    }


@pytest.mark.parametrize("sizes", [SD1_UNET, SDXL_UNET], ids=["sd1", "sdxl"])
def test_every_name_of_diffusers_becomes_the_original(sizes: UNet, tmp_path: Path) -> None:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs g++ or clang++")
    (tmp_path / "program.cpp").write_text(_PROGRAM)
    command = [compiler, "-std=c++17", f"-I{csrc_directory()}", "program.cpp", "-o", "program"]
    subprocess.run(command, cwd=tmp_path, check=True)
    table = {f"{name}.weight": f"{original}.weight" for name, original in names(sizes).items()}
    kept = ["input_blocks.1.0.in_layers.0.weight", "conv_norm_out.weight", "down_blocks.x.resnets.0.conv1.weight"]
    done = subprocess.run(
        [tmp_path / "program"], input="\n".join([*table, *kept]), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [*table.values(), *kept]


def in_diffusers_names(tensors: Mapping[str, Shape]) -> dict[str, str]:
    table = {original: name for name, original in names(SD1_UNET).items()}
    result = {}
    for name in tensors:
        layer, _, kind = name.removeprefix("control_model.").rpartition(".")
        result[name] = f"{table[layer]}.{kind}"
    return result


@pytest.mark.slow
def test_a_control_net_of_diffusers_acts_as_the_original(tmp_path: Path) -> None:
    tensors = sd1_model.control_net()
    renamed = in_diffusers_names(tensors)
    values = sd1_model.values(tensors)
    model = sd1_model.write(sd1_model.whole().tensors, tmp_path / "sd1.safetensors")
    given = {"model": model, "taesd": sd1_model.write_taesd(tmp_path / "taesd.safetensors")}
    call = {"control_image": IMAGES["other"], "steps": 1}
    original, diffusers = (
        generate({**given, "control_net": path}, call)[0][0]
        for path in (
            write_zeros(tensors, tmp_path / "original.safetensors", values),
            write_zeros(
                {renamed[name]: shape for name, shape in tensors.items()},
                tmp_path / "diffusers.safetensors",
                {renamed[name]: value for name, value in values.items()},
            ),
        )
    )
    (without,) = generate(given, {"steps": 1})
    assert np.array_equal(original, diffusers)
    assert not np.array_equal(original, without[0])
