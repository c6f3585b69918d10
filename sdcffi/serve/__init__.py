"""A server: HTTP for real clients, on engines in child processes that may crash and be cancelled.

It needs the extra: ``pip install 'sdcffi[serve]'``.
"""

from __future__ import annotations

from importlib.util import find_spec

if missing := [name for name in ("fastapi", "uvicorn", "prometheus_client", "httpx") if find_spec(name) is None]:
    raise ImportError(f"sdcffi.serve needs {', '.join(missing)}: pip install 'sdcffi[serve]'")

from .client import Client
from .config import ModelConfig, ServeConfig
from .http import app

__all__ = ["Client", "ModelConfig", "ServeConfig", "app"]
