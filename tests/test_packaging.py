"""The wheel holds what the package needs, and lm-eval reads every task YAML of ours."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from lm_eval.tasks import TaskManager
from steered import make_arms

from steer_bench.concepts.concept import Concept, Prompt
from steer_bench.harness.protocol import Protocol
from steer_bench.judge.config import EmbeddingConfig

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        yield {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_every_yaml_data_file_and_the_autoload_module(wheel):
    for kind in ("tasks", "adapters"):
        for file in (ROOT / kind).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                assert f"steer_bench/{file.relative_to(ROOT)}" in wheel
    for file in (*(ROOT / "steer_bench").rglob("*.yaml"), *(ROOT / "steer_bench").rglob("*.j2")):
        assert str(file.relative_to(ROOT)) in wheel
    assert {"_steer_bench_autoload.py", "steer_bench/py.typed"} <= set(wheel)


def test_the_entry_points_lead_to_the_model_and_the_command(wheel):
    points = wheel[next(name for name in wheel if name.endswith("entry_points.txt"))].decode()
    assert "steer-bench = steer_bench.cli:main" in points
    assert "steer_bench = steer_bench.harness.model:SteeredLM" in points
    assert "steer_bench = _steer_bench_autoload:autoload" in points


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    """An arms file and protocol.json with one topic, one rule and one rule to suppress."""
    folder = tmp_path_factory.mktemp("run")
    names = ("sea", "rule-question", "suppress-question")
    made = make_arms(concepts=names)
    made.save(folder / "arms" / "tiny.safetensors")
    texts = tuple(f"A text about the sea, number {i}." for i in range(3))
    concepts = {
        "sea": Concept("sea", "the sea", "passage", texts, ("Something else.", "And more.")),
        "rule-question": Concept("rule-question", "questions", "passage", ("Is it?",), ("It is.",), "rule", "question"),
        "suppress-question": Concept(
            "suppress-question", "no questions", "passage", ("Was it?",), ("It was.",), "suppress", "question"
        ),
    }
    prompts = (Prompt("p1", "Write."), Prompt("p2", "Tell."))
    neutral = {"n1": "The lid of the box is blue.", "n2": "It closes with a click."}
    grids = dict.fromkeys((file.stem for file in (ROOT / "tasks").glob("*.yaml")), (0.1, 0.2))
    Protocol(concepts, neutral, prompts, {}, grids, EmbeddingConfig()).save(folder / "protocol.json")
    return str(folder / "arms" / "tiny.safetensors")


@pytest.mark.parametrize("file", sorted((ROOT / "tasks").glob("*.yaml")), ids=lambda file: file.stem)
def test_lm_eval_reads_the_task_and_its_rows_are_as_many_as_the_formula_says(file, arms):
    manager = TaskManager(include_path=str(ROOT / "tasks"), include_defaults=False, metadata={"arms": arms})
    loaded = (
        manager.load_task_or_group(file.stem) if hasattr(manager, "load_task_or_group") else manager.load([file.stem])
    )
    task = next(iter((loaded.get("tasks") or loaded).values()))
    cells, texts, neutral, prompts = 2 * 2, 3, 2, 2  # arms x factors; one concept of each kind
    expected = {
        "concept_likelihood": (cells + 1) * (texts + neutral),
        "steered_perplexity": (3 * cells + 1) * neutral,  # what a topic, a rule and its suppression cost
        "concept_steering": (cells + 1) * prompts,
        "rule_following": (cells + 1) * prompts,
        "rule_suppression": (cells + 1) * prompts,
        "specificity": (2 + 1) * 2,  # two arms at the largest factor, and unsteered, on two texts of the one topic
        "capability_choices": 60,
    }
    assert len(task.test_docs()) == expected[file.stem]
    assert yaml.safe_load(file.read_text().replace("!function ", ""))["task"] == file.stem
