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
from tiny_model import TinyModel

Pixels = npt.NDArray[np.uint8]

# As many test processes run as there are cores.
THREADS = 1
# Where sd-cli's flag is not the keyword with dashes.
FLAGS = {"sampler": "--sampling-method", "init_image": "--init-img"}


@dataclass(frozen=True)
class SdCli:
    """The program at `path`."""

    path: Path

    def command(self, model: TinyModel, output: Path, **parameters: Any) -> list[str]:
        """The command line that draws with `model`; parameters are named as for `Engine` and `Engine.generate`."""
        return self.words({**model.engine_arguments(), **parameters}, output)

    def words(self, parameters: Mapping[str, Any], output: Path) -> list[str]:
        """The command line for parameters named as ours; True makes a flag alone, None leaves it out."""
        words = [str(self.path)]
        for name, value in {"threads": THREADS, **parameters, "output": output}.items():
            if value is None:
                continue
            words.append(FLAGS.get(name, "--" + name.replace("_", "-")))
            if value is not True:
                words.append(str(value))
        return words

    def draw(self, model: TinyModel, directory: Path, **parameters: Any) -> list[Pixels]:
        """Draw into `directory` and read the pictures back, in the order of the batch."""
        return self.pictures(model.engine_arguments() | parameters, directory)

    def pictures(self, parameters: Mapping[str, Any], directory: Path, *flags: str) -> list[Pixels]:
        """The same for files of any kind among the parameters, and with sd-cli's own flags after them."""
        run([*self.words(parameters, directory / "sd-cli.png"), *flags])
        return [np.asarray(Image.open(path).convert("RGB")) for path in sorted(directory.glob("sd-cli*.png"))]


def run(command: list[str]) -> str:
    """Run sd-cli, check that it succeeded and give its log."""
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    done = subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}"
    return done.stdout
