"""Rows of a task from plain values, as the dry run asks for them, and from the files of a run."""

import pytest
from steered import make_arms

from steer_bench.concepts.concept import Concept, Prompt
from steer_bench.harness.cells import BUILDERS, ArmAtFactor, TaskRows
from steer_bench.harness.options import TaskOptions
from steer_bench.harness.protocol import Protocol
from steer_bench.judge.config import EmbeddingConfig
from steer_bench.vectors.arms import ArmEntry, ArmsCard

SEA = Concept("sea", "the sea", "text", ("A grey wave.", "A tall mast, a sail."), ("Bread.", "Salt."))
PROTOCOL = Protocol(
    {"sea": SEA},
    {"n": "The lid of the box is blue."},
    (Prompt("p", "Write.", "score"),),
    {"concept_likelihood": (0.1, 0.2), "concept_steering": (0.1,)},
    EmbeddingConfig(),
)
ENTRIES = (
    ArmEntry(adapter="native", concepts=("sea",)),
    ArmEntry(adapter="linear", source="other", concepts=("sea",)),
    ArmEntry(adapter="mlp", source="other"),
)
PROMPT = {"prompt": {"topic": "About {concept}: {instruction}"}}


def rows(task="concept_likelihood", **options):
    return TaskRows(
        task, TaskOptions(**options), target="tiny", entries=ENTRIES, asked=PROMPT, protocol=PROTOCOL
    )  # fmt: skip


def test_rows_of_a_dry_run_know_their_target_and_are_those_of_the_files(tmp_path):
    assert rows().target == "tiny"
    PROTOCOL.save(tmp_path / "protocol.json")
    arms = make_arms(concepts=["sea"], card=ArmsCard(arms=ENTRIES, asked=PROMPT))
    arms.save(tmp_path / "arms" / "tiny.safetensors")
    read = TaskRows.load("concept_likelihood", TaskOptions(arms=str(tmp_path / "arms" / "tiny.safetensors")))
    assert read.target == "tiny"
    for task in ("concept_likelihood", "concept_steering"):
        read.task = task
        assert list(BUILDERS[task](read)) == list(BUILDERS[task](rows()))


def test_each_text_once_unsteered_and_under_every_arm_that_has_the_concept_at_every_factor():
    docs = list(BUILDERS["concept_likelihood"](rows(max_words=3, max_texts=1)))
    assert [(doc["arm"], doc["factor"], doc["item"], doc["text"]) for doc in docs] == [
        ("unsteered", 0.0, "sea-0", "A grey wave."),
        ("unsteered", 0.0, "n", "The lid of"),
        *(
            (arm, factor, item, text)
            for arm in ("native", "linear")
            for factor in (0.1, 0.2)
            for item, text in (("sea-0", "A grey wave."), ("n", "The lid of"))
        ),
    ]


def test_an_arm_that_asks_has_its_own_words_and_no_factor_and_each_sample_is_an_item():
    docs = list(BUILDERS["concept_steering"](rows("concept_steering", n_samples=2, only_arms=("prompt",))))
    assert [(doc["arm"], doc["factor"], doc["item"], doc["sample"], doc["asked"]) for doc in docs] == [
        ("unsteered", 0.0, "p#0", 0, "Write."),
        ("unsteered", 0.0, "p#1", 1, "Write."),
        ("prompt", 0.0, "p#0", 0, "About the sea: Write."),
        ("prompt", 0.0, "p#1", 1, "About the sea: Write."),
    ]


def test_an_unknown_arm_a_task_without_factors_and_a_call_without_arms_say_what_would_do():
    with pytest.raises(ValueError, match="only_arms 'nativ'; did you mean 'native'"):
        rows(only_arms=("nativ",))
    with pytest.raises(ValueError, match="task rule_following: no factors; give"):
        rows("rule_following")
    with pytest.raises(ValueError, match=r"arms=RUN/arms/MODEL\.safetensors"):
        TaskRows.load("concept_likelihood", TaskOptions())


def test_an_arm_of_a_source_is_named_with_it():
    assert ArmAtFactor("linear", "other", "sea", 0.1).label == "linear<other"
    assert ArmAtFactor("native", "", "sea", 0.1).label == "native"
