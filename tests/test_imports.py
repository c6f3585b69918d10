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
    "params": set(),
    "images": set(),
    "_files": set(),
    "_tensor_header": set(),
    "_lora_architecture": set(),
    "_lora_file": {"errors", "_lora_architecture", "_tensor_header"},
    "_lora_names": {"errors", "params"},
    "lora": {"errors", "params", "_lora_file", "_lora_names"},
    "contact_sheet": set(),
    "result": {"images", "_files"},
    "_lora_commands": {"contact_sheet", "result", "_files", "_lora_file"},
    "_ranges": set(),
    "_prompt": set(),
    "_weight_types": set(),
    "_model_architecture": {"_lora_architecture"},
    "_model_file": {"params", "_model_architecture", "_tensor_header"},
    "_validate_image": {"images", "params", "_model_file", "_prompt", "_ranges"},
    "_validate": {"params", "_model_file", "_ranges", "_validate_image", "_weight_types"},
    "_free_memory": set(),
    "_memory": {"errors", "params", "_free_memory", "_model_file", "_tensor_header", "_weight_types"},
    "_layout": {"errors"},
    "_locate": {"errors"},
    "_library": {"errors", "_layout", "_locate"},
    "_job": {"errors", "events"},
    "_callbacks": {"events"},
    "_marshal": {"errors", "params"},
    "_session": {"errors", "lora", "result", "_callbacks", "_library", "_marshal"},
    "_inprocess": {"errors", "_job", "_session"},
    "_shm": set(),
    "_channel": {"_shm", "errors"},
    "_child": {"errors", "events", "_channel", "_inprocess", "_job", "_session"},
    "_worker": {"errors", "_channel", "_job", "_shm"},
    "_crash": {"errors", "_job"},
    "_calls": {"errors", "events", "_callbacks", "_crash", "_inprocess", "_job", "_ranges", "_session", "_worker"},
    "_async": {"_calls"},
    "conversion": {"events", "_calls", "_files", "_model_file", "_session", "_weight_types"},
    "_lora_policy": {"errors"},
    "engine": {
        *("events", "images", "lora", "params", "result", "_async", "_callbacks", "_calls", "_library"),
        *("_lora_policy", "_memory", "_ranges", "_session", "_validate"),
    },
    "_demo_model": {"conversion", "_files"},
    "demo": {"_build", "_demo_model", "engine", "lora"},
    "cli": {
        *("", "errors", "events", "_build", "conversion", "demo", "engine", "lora", "result", "_session"),
        *("_calls", "_lora_commands"),
    },
    "__init__": {"errors"},
    "__main__": {"cli"},
    "_build": {"", "errors"},
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
    printing = []
    for path in PACKAGE.glob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        if any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls):
            printing.append(path.name)
    assert printing == ["cli.py"]


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
