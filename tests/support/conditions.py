"""What an engine's denoiser gets of prompts: `text_conditions` asks the built library, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_FIELDS = {"diffusion_model": "diffusion_model_path", "model": "model_path", "taesd": "taesd_path", "vae": "vae_path"}


def text_conditions(files: Mapping[str, Any], prompts: Sequence[str], references: Sequence[Array] = ()) -> list[Array]:
    """Return the condition of each prompt for a model of `files`, as Engine takes them; `references` are RGB images."""
    import sdcffi

    root = str(Path(sdcffi.__file__).resolve().parents[1])
    with tempfile.TemporaryDirectory() as directory:
        paths = {
            _FIELDS.get(name, f"{name}_path"): os.fspath(path) for name, path in files.items() if name != "context"
        }
        np.savez(Path(directory) / "images.npz", *references)
        task = json.dumps({"paths": paths, "prompts": list(prompts), "count": len(references)})
        run = subprocess.run(
            [sys.executable, __file__, task, directory],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path])},
        )
        assert run.returncode == 0, run.stderr
        with np.load(Path(directory) / "conditions.npz") as answers:
            return [answers[name] for name in answers.files]


def _answer(task: Mapping[str, Any], directory: Path) -> None:
    from guarded_calls import call, ffi, lib, lines, new, open_context, path

    params = new("sd_ctx_params_t *")
    lib.sd_ctx_params_init(params)
    for field, value in task["paths"].items():
        setattr(params, field, path(value))
    params.n_threads = 2
    for name in {"vae_decode_only", "free_params_immediately"} & set(dir(params)):
        setattr(params, name, False)
    opened = open_context(params)
    assert opened.status == "OK", (opened, lines[-20:])
    with np.load(directory / "images.npz") as file:
        pixels = [np.ascontiguousarray(file[name]) for name in file.files]
    images = new("sd_image_t[]", max(len(pixels), 1))
    for image, array in zip(images, pixels, strict=False):
        image.width, image.height, image.channel = array.shape[1], array.shape[0], 3
        image.data = ffi.from_buffer("uint8_t[]", array)
    answers = []
    for prompt in task["prompts"]:
        values, rows, columns = new("float **"), new("int64_t *"), new("int64_t *")
        given = (opened.value, new("char[]", prompt.encode()), images, len(pixels), values, rows, columns)
        outcome = call(lib.sdg_text_condition, *given)
        assert outcome.status == "OK", (outcome, lines[-20:])
        buffer = ffi.buffer(values[0], rows[0] * columns[0] * 4)
        answers.append(np.frombuffer(bytes(buffer), np.float32).reshape(rows[0], columns[0]))
        lib.sdg_free(values[0])
    np.savez(directory / "conditions.npz", *answers)


if __name__ == "__main__":
    _answer(json.loads(sys.argv[1]), Path(sys.argv[2]))
