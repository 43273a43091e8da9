"""The rooms of the package stand in one order, and a room imports only from those above it in the list."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "steer_bench"
ORDER = [
    "", "files", "names", "records", "concepts", "vectors", "models", "transfer", "judge", "results", "harness", "experiment", "cli",
]  # fmt: skip
INSIDE_FUNCTIONS = ("cli", "")
"""Rooms that may import our own modules inside functions: the commands and the Python door, which start fast."""


def imports(file: Path) -> list[tuple[str, bool]]:
    """(module of ours that is imported, whether inside a function), as the file says it."""
    tree = ast.parse(file.read_text())
    inside = {node for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for node in ast.walk(f)}
    found = []
    for node in ast.walk(tree):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if names == ["steer_bench"] and isinstance(node, ast.ImportFrom):
            names = [f"steer_bench.{alias.name}" for alias in node.names]
        found += [(name, node in inside) for name in names if name.split(".")[0] == "steer_bench"]
    return found


def room(module: str) -> str:
    """
    >>> room("steer_bench.models.steered.trunk"), room("steer_bench.__version__")
    ('models', '')
    """
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ORDER else ""


FILES = {file: file.relative_to(PACKAGE).with_suffix("").parts for file in sorted(PACKAGE.rglob("*.py"))}


def test_every_room_stands_in_the_order():
    assert {parts[0] for parts in FILES.values() if not parts[0].startswith("__")} <= set(ORDER)


def test_a_room_imports_only_from_those_above_it():
    up = {
        (str(file.relative_to(PACKAGE)), name)
        for file, parts in FILES.items()
        for name, _ in imports(file)
        if parts[0] not in ("__init__", "__main__") and ORDER.index(room(name)) > ORDER.index(parts[0])
    }
    assert up == set()


def test_own_imports_stand_at_the_head_of_a_file():
    hidden = {
        (str(file.relative_to(PACKAGE)), name)
        for file, parts in FILES.items()
        for name, inside in imports(file)
        if inside and parts[0] not in (*INSIDE_FUNCTIONS, "__init__", "__main__")
    }
    assert hidden == set()
