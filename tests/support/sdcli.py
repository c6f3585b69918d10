"""Run upstream's own command line, built from the same patched source: the reference of the tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

# As many test processes run as there are cores.
THREADS = 1
# Where sd-cli's flag is not the keyword with dashes.
FLAGS = {
    "sampler": "--sampling-method",
    "init_image": "--init-img",
    "end_image": "--end-img",
    "control_frames": "--control-video",
    "clip_vision": "--clip_vision",
    "control_net_on_cpu": "--control-net-cpu",
    "high_noise_sampler": "--high-noise-sampling-method",
}


def flags(**keywords: Any) -> list[str]:
    """Keywords of `Engine` and its calls as flags of our command line."""
    return [word for name, value in keywords.items() for word in ("--" + name.replace("_", "-"), str(value))]


@dataclass(frozen=True)
class SdCli:
    """The program at `path`."""

    path: Path

    def words(self, parameters: Mapping[str, Any], output: Path) -> list[str]:
        """The command line for parameters named as for `Engine` and its calls; True makes a flag alone, None none."""
        words = [str(self.path)]
        given = {"threads": THREADS, **parameters, "output": output}
        for name, value in ((name, value) for name, value in given.items() if value is not None):
            words.append(FLAGS.get(name, "--" + name.replace("_", "-")))
            if value is not True:
                words.append(str(value))
        return words

    def generate(
        self, parameters: Mapping[str, Any], directory: Path, *flags: str, name: str = "sd-cli.png"
    ) -> list[Pixels]:
        """Generate into `directory` and read the images back, in the order of the batch or of the frames."""
        run([*self.words(parameters, directory / name), *flags])
        return [np.asarray(Image.open(path).convert("RGB")) for path in sorted(directory.glob("sd-cli*.png"))]

    def generate_video(self, parameters: Mapping[str, Any], directory: Path) -> list[Pixels]:
        return self.generate(parameters, directory, "-M", "vid_gen", name="sd-cli%02d.png")


def run(command: list[str]) -> str:
    """Run sd-cli, check that it succeeded and give its log."""
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    done = subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}"
    return done.stdout
