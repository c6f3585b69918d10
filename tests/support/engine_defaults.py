"""The engine's own defaults for calls, for tests of checks that load no native library.

tests/engine/test_engine.py compares them with those of the library.
"""

from __future__ import annotations

from sdcffi.params.image import Hires, ImageParams
from sdcffi.params.sampling import Cache
from sdcffi.params.video import VideoParams

CACHE = Cache(mode="disabled", start_percent=0.15, end_percent=0.95)
IMAGE = ImageParams(width=512, height=512, cache=CACHE, hires=Hires(enabled=False, scale=2.0))
VIDEO = VideoParams(width=512, height=512, cache=CACHE)
