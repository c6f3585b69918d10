"""Many machines, through Ray: batches of prompts on a cluster (`generate`).

It needs ``pip install 'sdcffi[ray]'``.
"""

from __future__ import annotations

try:
    import ray.data  # noqa: F401
except ImportError as error:
    raise ImportError(f"sdcffi.ray needs Ray: pip install 'sdcffi[ray]' ({error})", name=error.name) from error

from .batches import generate

__all__ = ["generate"]
