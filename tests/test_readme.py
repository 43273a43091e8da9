"""README promises only what is there."""

import ast
import re
from pathlib import Path

import pytest
from typer.main import get_command

from steer_bench.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)


def test_every_command_of_the_readme_exists():
    verbs = {
        verb
        for language, block in BLOCKS
        if language == "bash"
        for verb in re.findall(r"steer-bench ([a-z][a-z-]*)", block)
    }
    assert verbs
    assert verbs <= set(get_command(app).commands)


def test_every_make_target_of_the_readme_exists():
    targets = {target for _, block in BLOCKS for target in re.findall(r"^make (\w+)", block, flags=re.MULTILINE)}
    assert {"quickstart", "test"} <= targets
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


def test_the_file_tree_is_the_tree():
    tree = next(block for language, block in BLOCKS if not language and "steer_bench/" in block)
    named, parent = [], Path()
    for line in tree.splitlines():
        parent = parent if line.startswith(" ") else Path(line.split()[0])
        named.append(parent / line.split()[0] if line.startswith(" ") else parent)
        assert (ROOT / named[-1]).exists(), line
        assert (ROOT / named[-1]).is_dir() == line.split()[0].endswith("/"), line
    assert len(named) == len(set(named))
    package = {path.relative_to(ROOT) for path in (ROOT / "steer_bench").iterdir()}
    said_nothing_of = {Path("steer_bench") / name for name in ("__init__.py", "__main__.py", "py.typed", "__pycache__")}
    assert {path for path in named if path.parent.name == "steer_bench"} | said_nothing_of >= package
    rooms = [path.stem for path in named if path.parent.name == "steer_bench"]
    assert rooms == [*order_of_imports(), "experiments"]


def order_of_imports() -> list[str]:
    """The rooms as tests/test_import_order.py has them."""
    text = (ROOT / "tests" / "test_import_order.py").read_text()
    return [
        room for room in ast.literal_eval(re.search(r"^ORDER = (\[.*?\])", text, re.DOTALL | re.MULTILINE)[1]) if room
    ]


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)]+)\)", README))))
def test_every_link_to_a_file_leads_somewhere(link):
    assert (ROOT / link).exists()
