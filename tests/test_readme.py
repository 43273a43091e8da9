"""README promises only what is there."""

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


def test_the_file_tree_names_what_there_is_and_misses_no_module():
    tree = next(block for language, block in BLOCKS if not language and "steer_bench/" in block)
    named, parent = set(), Path()
    for line in tree.splitlines():
        name = line.split()[0]
        parent = Path(name) if not line.startswith(" ") else parent
        path = parent / name if line.startswith(" ") else parent
        assert (ROOT / path).exists(), line
        named.add(path)
    modules = {path for path in (ROOT / "steer_bench").iterdir() if not path.name.startswith(("_", "py.typed"))}
    assert {path.relative_to(ROOT) for path in modules} <= named


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)]+)\)", README))))
def test_every_link_to_a_file_leads_somewhere(link):
    assert (ROOT / link).exists()
