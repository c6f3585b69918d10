"""Python bindings for stable-diffusion.cpp.

Importing this package loads nothing native and nothing heavy: names are imported on first use, from the modules that
`__init__.pyi` lists.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

# No package does this here, since the build command runs on a Python that has none installed.


@cache
def _homes() -> dict[str, str]:
    """Return the module of each public name, as the stub for type checkers has them."""
    import ast
    from pathlib import Path

    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text("utf-8"))
    return {
        item.name: f".{line.module}" for line in stub.body if isinstance(line, ast.ImportFrom) for item in line.names
    }


def __getattr__(name: str) -> object:
    if name == "__all__":
        return __dir__()
    if name not in _homes():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_homes()[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_homes())
