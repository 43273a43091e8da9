"""The house stays small, and what is meant for one room stays in it."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "steer_bench"
SOURCES = {str(file.relative_to(PACKAGE)): file.read_text() for file in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(text) for name, text in SOURCES.items()}

LINES, ANYS = 24_866, 119
"""Most lines of the package, on the way to 19,500, and most uses of Any."""


def names(tree: ast.AST) -> set[str]:
    """Every name, attribute and imported name in the code, not those in docstrings and comments."""
    nodes = list(ast.walk(tree))
    found = {node.id for node in nodes if isinstance(node, ast.Name)}
    found |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return found | {node.name for node in nodes if isinstance(node, ast.alias | ast.ClassDef)}


def imported(tree: ast.AST) -> set[str]:
    """The packages that are imported anywhere in the file, inside functions too."""
    nodes = list(ast.walk(tree))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in found}


def test_at_most_16_entries_stand_at_the_root():
    assert len([path for path in PACKAGE.iterdir() if path.name != "__pycache__"]) <= 16


def test_no_file_is_over_350_lines():
    assert {name for name, text in SOURCES.items() if text.count("\n") > 350} == set()


def test_the_package_is_small_and_typed():
    assert sum(text.count("\n") for text in SOURCES.values()) <= LINES
    assert sum(len(re.findall(r"\bAny\b", text)) for text in SOURCES.values()) <= ANYS


@pytest.mark.parametrize(
    ("package", "places"), [("lm_eval", "harness/"), ("openai", ("judge/", "concepts/generate/writers.py"))]
)
def test_a_library_is_imported_only_in_its_room(package, places):
    found = {name for name, tree in TREES.items() if package in imported(tree)}
    assert [name for name in found if not name.startswith(places)] == []


def test_a_run_is_named_only_by_the_experiment_and_the_commands():
    rooms = ("experiment/", "cli/", "__init__")
    assert [name for name, tree in TREES.items() if "Run" in names(tree) and not name.startswith(rooms)] == []
