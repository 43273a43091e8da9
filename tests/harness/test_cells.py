"""Rows of a task from plain values, as the dry run asks for them, and from the files of a run."""

from collections import Counter
from dataclasses import replace

import pytest
from steered import make_arms

from steer_bench.concepts.concept import Concept, Prompt
from steer_bench.harness.cells import BUILDERS, ArmAtFactor, TaskRows
from steer_bench.harness.options import TaskOptions
from steer_bench.harness.protocol import Protocol
from steer_bench.judge.config import EmbeddingConfig
from steer_bench.vectors.arms import ArmEntry, ArmsCard, Dose

SEA = Concept("sea", "the sea", "text", ("A grey wave.", "A tall mast, a sail."), ("Bread.", "Salt."))
PROTOCOL = Protocol(
    {"sea": SEA},
    {"n": "The lid of the box is blue."},
    (Prompt("p", "Write."),),
    {"steered_perplexity": (1.1, 1.3)},
    {"concept_likelihood": (0.1, 0.2), "concept_steering": (0.1,)},
    EmbeddingConfig(),
)
ENTRIES = (
    ArmEntry(adapter="native", concepts=("sea",)),
    ArmEntry(adapter="linear", source="other", concepts=("sea",)),
    ArmEntry(adapter="mlp", source="other"),
)
PROMPT = {"prompt": {"topic": "About {concept}: {instruction}"}}


def rows(task="concept_likelihood", protocol=PROTOCOL, doses=(), **options):
    given = TaskOptions(**options)
    return TaskRows(task, given, target="tiny", entries=ENTRIES, asked=PROMPT, protocol=protocol, doses=doses)


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
    with pytest.raises(ValueError, match="task rule_following: no level of damage and no factors; give"):
        rows("rule_following")
    with pytest.raises(ValueError, match=r"no doses for damage 1\.3; steer-bench dose RUN finds them"):
        rows("steered_perplexity", damage=(1.3,))
    with pytest.raises(ValueError, match=r"arms=RUN/arms/MODEL\.safetensors"):
        TaskRows.load("concept_likelihood", TaskOptions())


def test_an_arm_of_a_source_is_named_with_it():
    assert ArmAtFactor("linear", "other", "sea", 0.1).label == "linear<other"
    assert ArmAtFactor("native", "", "sea", 0.1).label == "native"


def dose(arm, level, factor, source=""):
    return Dose(arm=arm, source=source, concept="sea", level=level, factor=factor, reason="" if factor else "too weak")


def test_at_levels_each_arm_has_its_own_factor_and_no_row_where_it_does_not_reach_the_level():
    doses = [
        dose("native", 1.1, 0.2),
        dose("native", 1.3, 0.5),
        dose("linear", 1.1, 0.3, "other"),
        dose("linear", 1.3, None, "other"),
    ]
    docs = list(BUILDERS["steered_perplexity"](rows("steered_perplexity", doses=doses)))
    assert [(doc["arm"], doc["factor"], doc["level"]) for doc in docs] == [
        ("unsteered", 0.0, 0.0), ("native", 0.2, 1.1), ("native", 0.5, 1.3), ("linear", 0.3, 1.1),
    ]  # fmt: skip
    only = list(BUILDERS["steered_perplexity"](rows("steered_perplexity", doses=doses, damage=(1.3,))))
    assert [(doc["arm"], doc["level"]) for doc in only] == [("unsteered", 0.0), ("native", 1.3)]
    with pytest.raises(ValueError, match=r"no doses for damage 1\.6"):
        rows("steered_perplexity", doses=doses, damage=(1.6,))


def many(n_concepts=6, n_items=120):
    """A protocol with pools of prompts and neutral texts, and several concepts that draw from them."""
    concepts = {f"c{i}": replace(SEA, id=f"c{i}") for i in range(n_concepts)}
    prompts = tuple(Prompt(f"p{i}", f"Write {i}.") for i in range(n_items))
    neutral = {f"n{i}": f"Text {i}." for i in range(n_items)}
    return replace(PROTOCOL, concepts=concepts, prompts=prompts, neutral=neutral)


def test_each_concept_draws_its_own_prompts_and_texts_which_all_its_arms_share_and_more_keep_the_first():
    protocol = many()
    few = rows("concept_steering", protocol, max_prompts=4)
    docs = list(BUILDERS["concept_steering"](few))
    items = {c: {doc["item"] for doc in docs if doc["concept"] == c} for c in protocol.concepts}
    assert [len(mine) for mine in items.values()] == [4] * 6
    pairs = [(a, b) for a in items for b in items if a < b]
    assert sum(len(items[a] & items[b]) for a, b in pairs) < len(pairs)  # 4 of 120, so 0.13 are expected in common
    for concept in items:
        arms = {doc["arm"] for doc in docs if doc["concept"] == concept}
        assert all(
            {doc["item"] for doc in docs if (doc["arm"], doc["concept"]) == (arm, concept)} == items[concept]
            for arm in arms
        )
        more = [prompt.id for prompt, _ in rows("concept_steering", protocol, max_prompts=9).prompts(concept)]
        assert items[concept] == set(more[:4])
    assert {len(few.neutral(concept)) for concept in items} == {120}
    assert few.neutral("c0") != few.neutral("c1")
    other = replace(protocol, seed=1)
    assert other.prompts_of("c0", 4) != protocol.prompts_of("c0", 4)


def test_on_a_grid_a_concept_selects_on_prompts_that_it_does_not_score():
    grid = rows("concept_steering", replace(many(), factors={"concept_steering": (0.1, 0.2)}), max_prompts=3)
    by_role = {role: {p.id for p, r in grid.prompts("c0") if r == role} for role in ("select", "score")}
    assert {role: len(found) for role, found in by_role.items()} == {"select": 3, "score": 3}
    assert not by_role["select"] & by_role["score"]


def test_with_its_choices_a_grid_scores_at_the_chosen_factor_alone_and_before_them_not_at_all():
    """2 + 2 prompts, arms native and linear, factors 0.1 and 0.2: chosen are 0.2 of native, and none of linear, which keeps all."""
    grid = replace(many(), concepts={"sea": SEA}, factors={"concept_steering": (0.1, 0.2)})

    def counted(**options):
        docs = BUILDERS["concept_steering"](rows("concept_steering", grid, max_prompts=2, **options))
        return Counter((doc["arm"], doc["factor"], doc["role"]) for doc in docs)

    select = {(arm, factor, "select"): 2 for arm in ("native", "linear") for factor in (0.1, 0.2)}
    plain = {(arm, 0.0, role): 2 for arm in ("unsteered", "prompt") for role in ("select", "score")}
    assert counted() == select | plain | {(arm, factor, "score"): n for (arm, factor, _), n in select.items()}
    assert counted(chosen=()) == select
    chosen = (("native", "", "sea", 0.2), ("linear", "other", "sea", None))
    assert counted(chosen=chosen) == select | plain | {
        (arm, factor, "score"): 2 for arm, factor in (("native", 0.2), ("linear", 0.1), ("linear", 0.2))
    }
    one = replace(grid, factors={"concept_steering": (0.1,)})  # nothing is chosen of one factor
    docs = list(BUILDERS["concept_steering"](rows("concept_steering", one, max_prompts=2, chosen=())))
    assert [doc["role"] for doc in docs] == ["score"] * 2 * (2 + 2)
