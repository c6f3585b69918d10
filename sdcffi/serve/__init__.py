"""A server: HTTP for real clients, on engines in child processes that may crash and be cancelled.

It needs the extra: ``pip install 'sdcffi[serve]'``.
"""

from __future__ import annotations

from .client import Client
from .config import ModelConfig, ServeConfig
from .http import app

__all__ = ["Client", "ModelConfig", "ServeConfig", "app"]
