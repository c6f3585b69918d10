"""The demonstration draws the picture that README shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from sdcffi.demo import compare, run

README_PICTURE = Path(__file__).parent / "data" / "demo.png"  # without LoRA on the left, with it on the right


def test_the_demo_draws_the_pictures_of_the_readme(tmp_path: Path) -> None:
    report = run(tmp_path / "model", tmp_path, threads=2, backend="cpu")
    drawn = np.hstack([np.asarray(Image.open(path)) for path in (report.base, report.with_lora)])
    assert compare(drawn, np.asarray(Image.open(README_PICTURE))).psnr > 40  # other CPUs round differently
    assert report.difference.changed > 0.9
    assert report.difference.psnr < 30
