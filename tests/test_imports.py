"""The package's modules form a directed graph, and importing the package costs next to nothing."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import sdcffi
from sdcffi.params.struct import StrPath

PACKAGE = Path(sdcffi.__file__).parent

# What each folder, or file at the top of the package, imports besides `GROUND`, in the order in which data flows.
GROUND = {"errors", "events", "_files", "_numbers", "_public", "_quoting", "_version", "_warnings"}
ALLOWED: dict[str, set[str]] = {
    "_public": set(),
    "_version": set(),
    "_warnings": {"_quoting"},
    "_numbers": {"_quoting"},
    "_quoting": set(),
    "errors": {"_public"},
    "events": {"_public", "_quoting"},
    "_files": {"errors", "_numbers", "_quoting"},
    "images": set(),
    "_machine": set(),
    "params": {"images"},
    "_references": set(),
    "_models": {"params", "_references"},
    "_catalogue": {"params", "_machine", "_models", "_defaults", "_references"},
    "_records": {"images", "params", "_machine", "_references"},
    "_bindings": {"params", "_machine"},
    "_process": {"_bindings", "_machine"},
    "_checks": {"_models", "params", "images", "_machine", "_references"},
    "_defaults": {"_models", "params"},
    "engine": {
        *("images", "_machine", "params", "_models", "_catalogue", "_records", "_bindings", "_process", "_checks"),
        *("_defaults", "_references"),
    },
    "inventory": {"params", "_machine", "_bindings", "_process"},
    "demo": {"images", "engine"},
    "tuning": {"images", "_machine", "params", "_models", "_records", "engine"},
    "reproduction": {"images", "params", "_records", "engine"},
    "parameter_files": {"images", "params", "_records", "engine", "reproduction", "_references"},
    "_batches": {"params", "engine", "parameter_files"},
    "serve": {
        *("images", "params", "_models", "_records", "_checks", "_defaults", "_process", "engine"),
        *("demo", "parameter_files", "_references"),
    },
    "ray": {"images", "params", "_records", "engine", "parameter_files", "_batches", "serve"},
    "_build": {"_machine"},
    "_pyinstaller": {"_process"},
    "cli": {
        *("images", "_machine", "params", "_models", "_catalogue", "_defaults", "_bindings", "_process", "engine"),
        "_references",
        *("inventory", "demo", "tuning", "reproduction", "parameter_files", "_batches", "ray", "serve", "_build"),
    },
    "__init__": set(),
    "__main__": {"cli"},
}


def module_of(path: Path) -> str:
    """The dotted name of a file within the package; of a folder's `__init__`, the folder's."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path) -> set[str]:
    """The modules of this package that a file imports, anywhere in it and for type checking too."""
    folder = path.relative_to(PACKAGE).parts[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = ["sdcffi", *folder][: len(folder) + 2 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [name if (name := f"{base}.{alias.name}")[7:] in MODULES else base for alias in node.names]
        else:
            continue
        found |= {name[7:] or "__init__" for name in names if name == "sdcffi" or name.startswith("sdcffi.")}
    return found


def room(module: str) -> str:
    return module.partition(".")[0]


def test_folders_import_only_what_is_below_them() -> None:
    wrong, used = {}, dict[str, set[str]]()
    for module, path in MODULES.items():
        above = room(module)
        found = imports(path)
        legal = ALLOWED[above] | {above} | (set() if above in GROUND else GROUND)
        if extra := {other for other in found if room(other) not in legal}:
            wrong[module] = extra
        used.setdefault(above, set()).update(map(room, found))
    assert not wrong
    assert {name: ALLOWED[name] - found for name, found in used.items()} == {name: set() for name in ALLOWED}


def test_no_file_imports_itself_by_way_of_others() -> None:
    graph = {module: imports(path) - {module} for module, path in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"circle: {' -> '.join((*above[above.index(module) :], module))}"
        if module not in done:
            for other in sorted(graph.get(module, ())):
                visit(other, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())
    assert done >= set(graph)


def test_only_the_command_line_prints() -> None:
    printing = set()
    for path in PACKAGE.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        if any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls):
            printing.add(path.relative_to(PACKAGE).parts[0])
    assert printing == {"cli", "_build", "__main__.py"}


def test_import_is_light_and_loads_nothing() -> None:
    code = (
        "import json, sys, time; t = time.perf_counter(); import sdcffi; t = time.perf_counter() - t;"
        "print(json.dumps([t, sorted(sys.modules)]))"
    )
    runs = [
        json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    modules = set(runs[0][1])
    assert not modules & {"numpy", "PIL", "cffi", "_cffi_backend", "tqdm", "safetensors"}
    assert not {name for name in modules if name.startswith(("sdcffi._bindings", "sdcffi.engine"))}
    assert min(seconds for seconds, _ in runs) < 0.1


def test_every_public_name_resolves() -> None:
    for name in sdcffi.__all__:
        assert getattr(sdcffi, name) is not None
    assert set(sdcffi.__all__) <= set(dir(sdcffi))


def test_public_classes_show_the_name_they_are_imported_by() -> None:
    classes = [value for name in sdcffi.__all__ if isinstance(value := getattr(sdcffi, name), type)]
    assert len(classes) > 40
    for kind in classes:
        assert f"{kind.__module__}.{kind.__qualname__}" == f"sdcffi.{kind.__name__}"
        assert getattr(sdcffi, kind.__name__) is kind
    assert get_type_hints(sdcffi.Lora)["path"] == StrPath  # though they are not looked up where the class is defined


def test_the_public_names_are_these() -> None:
    """Whoever adds or takes one away writes it into CHANGELOG.md too."""
    assert sorted(sdcffi.__all__) == [
        "BackendReport",
        "BackendUnavailableError",
        "BuildError",
        "Cache",
        "CancelledError",
        "Capabilities",
        "ContextParams",
        "Default",
        "Device",
        "DownloadError",
        "Embedding",
        "EncoderTokens",
        "Engine",
        "FileRecord",
        "GenerationError",
        "GenerationTimeoutError",
        "Guidance",
        "Hires",
        "ImageLike",
        "ImageParams",
        "ImageRecord",
        "Inventory",
        "LayoutMismatchError",
        "LibraryNotFoundError",
        "Log",
        "Lora",
        "LoraError",
        "LoraNotFoundError",
        "LoraQualityWarning",
        "LoraReport",
        "LoraWarning",
        "MaskLike",
        "Mismatch",
        "ModelLoadError",
        "NativeAssertError",
        "NativeCrashError",
        "NativeError",
        "OutOfMemoryError",
        "OutputError",
        "PathNotFoundError",
        "PhotoMaker",
        "Preview",
        "Progress",
        "PromptTokens",
        "Record",
        "Replay",
        "Result",
        "SDError",
        "SampleParams",
        "SkipLayerGuidance",
        "Tiling",
        "Token",
        "TokenChunk",
        "Trial",
        "Tuning",
        "UnsupportedParameterError",
        "UpscaleResult",
        "Upscaler",
        "Variant",
        "VideoParams",
        "VideoResult",
        "__version__",
        "canny",
        "convert",
        "demo_model",
        "list_devices",
        "read_arguments",
        "replay",
        "tune",
    ]
