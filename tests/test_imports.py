"""The package's modules form a directed graph, and importing the package costs next to nothing."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import sdcffi

PACKAGE = Path(sdcffi.__file__).parent

# What each module may import of ours, in the order in which data flows.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "events": set(),
    "_struct": set(),
    "_sampling_params": {"_struct"},
    "_video_params": {"_struct"},
    "params": {"_sampling_params", "_struct", "_video_params"},
    "_pixels": set(),
    "images": {"_pixels"},
    "_resize": set(),
    "_files": set(),
    "_tensor_header": set(),
    "_lora_architecture": set(),
    "_lora_file": {"errors", "_lora_architecture", "_tensor_header"},
    "_lora_names": {"errors", "params"},
    "lora": {"errors", "params", "_lora_file", "_lora_names"},
    "contact_sheet": set(),
    "_digest": {"_build", "_files"},
    "_serialize": {"lora", "params"},
    "_infotext": {"lora"},
    "_picture_text": set(),
    "_records": {"params", "_digest", "_serialize"},
    "metadata": {"", "params", "_files", "_infotext", "_picture_text", "_records", "_serialize"},
    "result": {"images", "metadata", "_files", "_picture_text", "_records"},
    "_lora_commands": {"contact_sheet", "result", "_files", "_lora_file"},
    "_ranges": set(),
    "_kernel": set(),
    "_cores": {"_kernel"},
    "_prompt": set(),
    "_weight_types": set(),
    "_model_architecture": {"_lora_architecture"},
    "_model_file": {"params", "_model_architecture", "_tensor_header"},
    "_pictures": {"images", "params", "_model_file", "_pixels", "_ranges", "_resize"},
    "_upscaler_file": {"_model_file"},
    "_validate_call": {"images", "params", "_model_file", "_pixels", "_ranges"},
    "_validate_image": {
        *("params", "_model_file", "_pictures", "_pixels", "_prompt", "_ranges", "_upscaler_file"),
        "_validate_call",
    },
    "_validate_video": {
        *("params", "_model_architecture", "_model_file", "_pictures", "_pixels", "_prompt", "_ranges"),
        *("_validate_call", "_validate_image"),
    },
    "_validate": {"params", "_cores", "_model_file", "_ranges", "_validate_call", "_validate_image", "_weight_types"},
    "_free_memory": {"_kernel"},
    "_memory": {"errors", "params", "_free_memory", "_model_file", "_tensor_header", "_weight_types"},
    "_layout": {"errors"},
    "_locate": {"errors", "_backends"},
    "_backends": set(),
    "_devices": {"errors", "_backends"},
    "_drivers": {"_build"},
    "_plugins": {"errors", "_backends", "_devices", "_drivers"},
    "_library": {"errors", "_backends", "_layout", "_locate", "_plugins"},
    "_job": {"errors", "events"},
    "_phases": {"events"},
    "_callbacks": {"events", "_phases"},
    "_marshal": {"errors", "params"},
    "_requests": set(),
    "_session": {"_cores", "_requests", "errors", "lora", "result", "_callbacks", "_library", "_marshal"},
    "_inprocess": {"errors", "_job", "_session"},
    "_shm": set(),
    "_channel": {"_shm", "errors"},
    "_child": {"errors", "events", "_channel", "_inprocess", "_job", "_session"},
    "_worker": {"errors", "_channel", "_job", "_shm"},
    "_crash": {"errors", "_job"},
    "_calls": {"errors", "events", "_callbacks", "_crash", "_inprocess", "_job", "_ranges", "_requests", "_worker"},
    "_async": {"_calls"},
    "_handle": {"events", "_backends", "_calls", "_ranges"},
    "upscaler": {
        *("events", "images", "result", "_async", "_calls", "_cores", "_digest", "_files", "_handle", "_ranges"),
        *("_records", "_requests", "_upscaler_file"),
    },
    "edges": {"events", "images", "_calls", "_ranges", "_requests"},
    "_conversion_check": {"errors", "_model_file", "_tensor_header", "_weight_types"},
    "conversion": {"events", "_calls", "_conversion_check", "_files", "_model_file", "_requests", "_weight_types"},
    "_lora_policy": {"errors"},
    "_parameters": {"params"},
    "_tuning_store": {"params", "_build", "_cores", "_files", "_parameters", "_serialize"},
    "_drawing": {
        "events",
        "lora",
        "_records",
        "params",
        "_callbacks",
        "_calls",
        "_handle",
        "_lora_policy",
        "_ranges",
        "_validate",
    },
    "_video_file": {"errors", "images", "_ranges"},
    "video": {"images", "result", "_files", "_video_file"},
    "_video_generation": {
        *("events", "images", "lora", "params", "video", "_async", "_drawing", "_pictures"),
        *("_resize", "_validate", "_validate_video", "_video_file"),
    },
    "capabilities": {"_weight_types"},
    "engine": {
        *("events", "images", "lora", "params", "result", "_async", "_calls", "_drawing", "_records", "capabilities"),
        *("_memory", "_pictures", "_ranges", "_requests", "_resize", "_tuning_store", "_validate"),
        "_video_generation",
    },
    "inventory": {"errors", "events", "_backends", "_build", "_calls", "_devices", "_locate", "_requests"},
    "reproduction": {
        *("errors", "engine", "images", "metadata", "params", "result", "upscaler", "video", "_digest", "_records"),
        *("_resize", "_serialize"),
    },
    "_arguments": {"engine", "lora", "metadata", "params", "reproduction", "_parameters", "_serialize"},
    "comparison": set(),
    "demo": {"_files", "contact_sheet", "engine", "result"},
    "tuning": {
        *("comparison", "engine", "errors", "events", "_cores", "_model_file", "_ranges", "_tuning_store"),
    },
    "_doctor": {
        *("", "demo", "engine", "errors", "events", "inventory", "_backends", "_build", "comparison", "_locate"),
    },
    "_model_report": {"params", "_memory", "_model_file", "_upscaler_file"},
    "_parameter_table": {"engine", "params", "_calls", "_parameters", "_requests"},
    "cli": {
        *("", "errors", "events", "params", "_build", "conversion", "demo", "engine", "lora", "result", "_requests"),
        *("_arguments", "_backends", "_calls", "_doctor", "_files", "_lora_commands", "_model_report"),
        *("_parameter_table", "_parameters", "images", "inventory", "reproduction", "tuning", "upscaler", "video"),
        *("_ranges", "_upscaler_file"),
    },
    "__init__": {"errors"},
    "__main__": {"cli"},
    "_build": {"", "errors", "_backends", "_locate"},
}


def imports(path: Path) -> set[str]:
    """Modules of this package that a file imports when it runs, not those for type checking only."""
    found: set[str] = set()
    level = len(path.relative_to(PACKAGE).parts)

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.ImportFrom) and node.level == level:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found.update("" if name == "__version__" else name.partition(".")[0] for name in names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def test_modules_import_only_what_stands_before_them() -> None:
    wrong = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if extra := imports(path) - ALLOWED[module]:
            wrong[str(path.relative_to(PACKAGE))] = extra
    assert not wrong


def test_the_import_graph_has_no_cycle() -> None:
    order: list[str] = []

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"cycle: {' -> '.join((*above, module))}"
        for other in ALLOWED.get(module, ()):
            visit(other, (*above, module))
        order.append(module)

    for module in ALLOWED:
        visit(module, ())
    assert order


def test_only_the_command_line_prints() -> None:
    printing = set()
    for path in PACKAGE.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        if any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls):
            printing.add(path.relative_to(PACKAGE).parts[0])
    assert printing == {"cli", "_build"}


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
    assert not modules & {"numpy", "PIL", "cffi", "_cffi_backend", "tqdm", "safetensors", "sdcffi._library"}
    assert min(seconds for seconds, _ in runs) < 0.1


def test_every_public_name_resolves() -> None:
    for name in sdcffi.__all__:
        assert getattr(sdcffi, name) is not None
    assert set(sdcffi.__all__) <= set(dir(sdcffi))
