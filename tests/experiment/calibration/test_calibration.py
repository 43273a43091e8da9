"""Calibration on a tiny trained model: every case passes, and the command says when one does not."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from steer_bench.results.stats.bootstrap import Bootstrap
from tiny import save_tiny, tiny_llama, tiny_tokenizer, train_tiny

from steer_bench.cli.app import app
from steer_bench.concepts.load import load_concepts
from steer_bench.experiment.calibration import calibrate as calibrating
from steer_bench.experiment.calibration import checks
from steer_bench.experiment.calibration.calibrate import calibrate
from steer_bench.experiment.calibration.checks import Check, Twin
from steer_bench.experiment.calibration.experiments import Sizes
from steer_bench.experiment.calibration.twins import random_rotation
from steer_bench.experiment.folder import Folder
from steer_bench.results.file import Results, load_results
from steer_bench.results.rows import Row
from steer_bench.results.stats.grid import ArmKey
from steer_bench.vectors.arms import Arms
from steer_bench.vectors.store import Vector, VectorStore

SIZES = Sizes(
    concepts=10,
    positives=24,
    negatives=48,
    scored=6,
    words=20,
    factors=(0.3, 0.6),
    pairs=40,
    map_texts=60,
    null_texts=6,
)
SYLLABLES = [a + b for a in "bdfgklmnprst" for b in "aeiou"]


def made_up_language(n_concepts: int = 16) -> tuple[list[dict], list[str], list[str], list[str]]:
    """(concepts, shared negatives, neutral texts, map texts): a concept is six words of its own among words of all texts."""
    dice = random.Random(0)
    words = sorted({"".join(dice.choices(SYLLABLES, k=2)) for _ in range(400)})
    dice.shuffle(words)
    common, own = words[:40], [words[40 + 6 * i : 46 + 6 * i] for i in range(n_concepts)]

    def text(special: list[str]) -> str:
        return " ".join(dice.choice(special if special and dice.random() < 0.7 else common) for _ in range(20))

    concepts = [
        {
            "id": f"c{i}",
            "description": f"words such as {' '.join(mine[:2])}",
            "positives": [text(mine) for _ in range(60)],
        }
        for i, mine in enumerate(own)
    ]
    negatives, neutral = [text([]) for _ in range(120)], [text([]) for _ in range(20)]
    return concepts, negatives, neutral, [text(own[i % n_concepts]) for i in range(160)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(folder of a trained Llama of width 32, folder of its data)."""
    torch.set_num_threads(1)
    concepts, negatives, neutral, corpus = made_up_language()
    folder = tmp_path_factory.mktemp("tiny")
    lines = [*concepts, {"genre": "text", "negatives": negatives}]
    (folder / "concepts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, texts in (("neutral", neutral), ("neutral_map", corpus)):
        lines = [{"id": f"{name}{i}", "text": text} for i, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    known = [text for concept in concepts for text in concept["positives"]] + negatives
    tokenizer = tiny_tokenizer(known, vocab_size=600)
    model = train_tiny(tiny_llama(32, n_layers=3, vocab_size=600), tokenizer, known, steps=160)
    return save_tiny(folder / "model", model, tokenizer), folder


class Calibrated(NamedTuple):
    """A finished calibration."""

    model: str
    out: Path
    found: list[Check]
    said: list[str]

    def results(self, name: str) -> Results:
        return load_results(self.out / "runs" / name / "results.json")

    def rows(self, name: str) -> list[Row]:
        return list(self.results(name).rows)

    def bootstrap(self, name: str = "twins") -> Bootstrap:
        return checks.bootstrap(self.rows(name), self.model)

    def arms(self, name: str = "twins") -> Arms:
        return Arms.load(Folder(self.out / "runs" / name).arms(self.model))

    def vectors(self, model: str) -> dict[str, Vector]:
        return VectorStore.load(Folder(self.out / "runs" / "twins").vectors(model)).vectors

    @property
    def twin(self) -> Twin:
        return Twin("rotated twin", str(self.out / "rotated"), random_rotation(32, 0))


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    model, data = tiny
    out, said = tmp_path_factory.mktemp("calibration"), []
    found = calibrate(model, out, sizes=SIZES, device="cpu", data=data, progress=said.append)
    return Calibrated(model, out, found, said)


@pytest.fixture(scope="module")
def found(whole):
    return whole.found


def test_every_case_passes_on_a_tiny_model(found):
    assert [str(check) for check in found if not check.passed] == []


def test_it_holds_every_case_of_the_list(found):
    names = " | ".join(check.name for check in found)
    for case in (
        "same model: identity recovers native", "rotated twin: same logits", "rotated twin, linear: finds Q",
        "rotated twin, procrustes: recovers native", "rotated twin, identity: vectors look random",
        "permuted twin, linear: finds Q", "permuted twin, identity: no transfer", "shuffled pairs", "dead concepts",
        "false positives: 20 random arms",
    ):  # fmt: skip
        assert case in names


def test_there_is_a_line_of_progress_for_each_experiment(whole):
    assert [line.rsplit(": ", 1)[1] for line in whole.said if ":" in line] == ["twins", "same", "dead", "nulls"]


def test_what_is_finished_is_not_computed_again(whole, tiny):
    files = {path: path.stat().st_mtime_ns for path in whole.out.rglob("*.safetensors")}
    again = calibrate(whole.model, whole.out, sizes=SIZES, device="cpu", data=tiny[1])
    assert again == whole.found
    assert {path: path.stat().st_mtime_ns for path in whole.out.rglob("*.safetensors")} == files


def test_the_command_exits_with_1_when_a_case_fails(monkeypatch):
    from typer.testing import CliRunner

    checks = [Check("one", True, "1", "1"), Check("two", False, "0.5", "1")]
    monkeypatch.setattr(calibrating, "calibrate", lambda model, out, progress: checks)
    done = CliRunner().invoke(app, ["calibrate"])
    assert done.exit_code == 1
    assert done.output == "pass  one: 1 (expected 1)\nFAIL  two: 0.5 (expected 1)\n"
    monkeypatch.setattr(calibrating, "calibrate", lambda model, out, progress: checks[:1])
    assert CliRunner().invoke(app, ["calibrate"]).exit_code == 0


# ------------------------------------------------------------------------------------------ a check that cannot fail is none


def relabelled(rows, of, name):
    """The rows, with those of the arm `of` standing again under another name."""
    return [*rows, *(replace(row, source=name.source, arm=name.name) for row in rows if (row.source, row.arm) == of)]


def test_shuffled_pairs_fails_where_the_pairs_are_not_shuffled(whole):
    true = ArmKey(whole.twin.folder, "linear")
    assert checks.shuffled_pairs(whole.bootstrap(), whole.results("twins")).passed
    rows = [row for row in whole.rows("twins") if (row.source, row.arm) != (true.source, "shuffled-map")]
    results = checks.bootstrap(relabelled(rows, true, ArmKey(true.source, "shuffled-map")), whole.model)
    check = checks.shuffled_pairs(results, whole.results("twins"))
    assert not check.passed
    assert check.measured.startswith("1 of 12 (")
    assert check.measured.endswith(": shuffled-map")


def test_shuffled_pairs_fails_where_no_adapter_was_tried_or_nothing_steers(whole):
    rows = whole.rows("twins")
    none = checks.bootstrap([row for row in rows if not row.arm.startswith("shuffled")], whole.model)
    assert not checks.shuffled_pairs(none, whole.results("twins")).passed
    still = checks.bootstrap([replace(row, value=-3.0) for row in rows], whole.model)
    assert not checks.shuffled_pairs(still, whole.results("twins")).passed
    assert not checks.native_steers(still).passed


def test_a_twin_that_is_not_the_model_fails(whole):
    own, vectors, rows = whole.vectors(whole.model), whole.vectors(whole.twin.folder), whole.rows("same")

    def failing(logits=0.0, vectors=vectors, rows=rows):
        checked = checks.is_the_model(whole.twin, logits, own, vectors, rows, whole.model)
        return [check.name.removeprefix("rotated twin: ") for check in checked if not check.passed]

    assert failing() == []
    assert failing(logits=2e-3) == ["same logits"]
    assert failing(vectors=own) == ["its vectors are Q v"]
    one = next(row for row in rows if row.target == whole.twin.folder and row.arm == "native")
    steered = "steered by Q v it is the model steered by v"
    assert failing(rows=[replace(row, value=row.value + 2e-3) if row == one else row for row in rows]) == [steered]
    assert failing(rows=[row for row in rows if row != one]) == [steered]
    assert failing(rows=[]) == [steered]


def test_maps_that_do_not_find_q_and_an_identity_that_does_fail(whole):
    identity, linear = ArmKey(whole.twin.folder, "identity"), ArmKey(whole.twin.folder, "linear")

    def failing(instead):
        arms = whole.arms()
        vectors = {}
        for (arm, concept), vector in arms.vectors.items():
            taken = instead.get((arm.source, arm.name))
            vectors[arm, concept] = vector if taken is None else arms.find(taken.name, taken.source, concept)
        found = checks.like_native(whole.twin, whole.bootstrap(), replace(arms, vectors=vectors))
        return [check.name.removeprefix("rotated twin, ") for check in found if not check.passed]

    assert failing({}) == []
    assert failing({linear: identity}) == ["linear: finds Q"]
    assert failing({identity: linear}) == ["identity: vectors look random"]


def test_a_map_that_does_nothing_and_an_identity_that_transfers_fail(whole):
    names = {"identity": "linear", "linear": "identity"}
    swapped = [
        replace(row, arm=names.get(row.arm, row.arm)) if row.source == whole.twin.folder else row
        for row in whole.rows("twins")
    ]
    found = checks.like_native(whole.twin, checks.bootstrap(swapped, whole.model), whole.arms())
    failed = {check.name.removeprefix("rotated twin, ") for check in found if not check.passed}
    assert failed == {"identity: no transfer", "linear: recovers native", "linear: transfers"}


def test_same_model_fails_where_identity_does_other_than_native(whole):
    def failing(rows, arms):
        found = checks.same_model(whole.model, arms, checks.bootstrap(rows, whole.model))
        return [check.name.removeprefix("same model: identity ") for check in found if not check.passed]

    rows, arms = whole.rows("same"), whole.arms("same")
    assert failing(rows, arms) == []
    moved = [
        replace(row, value=row.value + 1e-6 * (row.role == "concept")) if row.arm == "identity" else row for row in rows
    ]
    assert failing(moved, arms) == ["recovers native"]
    vectors = {key: vector * (1 + 1e-6 * (key[0].name == "identity")) for key, vector in arms.vectors.items()}
    assert failing(rows, replace(arms, vectors=vectors)) == ["gives native's vectors"]


def test_dead_concepts_are_halves_of_the_same_texts_and_fail_where_they_live(whole):
    living, dead = (load_concepts(whole.out / f"{name}.jsonl") for name in ("concepts", "dead"))
    for one, other in zip(living, dead, strict=False):
        assert one.id == other.id
        assert len(set(one.positives) & {*other.positives, *other.negatives}) == len(one.positives)
        assert not set(one.negatives) & {*other.positives, *other.negatives}
    assert checks.dead_concepts(whole.rows("dead"), whole.model).passed
    alive = checks.dead_concepts(whole.rows("same"), whole.model)
    assert not alive.passed
    assert alive.measured.endswith("verdict: no evidence")  # not: native itself does not steer


def test_false_positives_fails_where_null_arms_steer_and_where_there_are_none(whole):
    nulls = whole.results("nulls")
    assert checks.false_positives(nulls, whole.model).passed
    without = Results(nulls.run, [row for row in nulls.rows if not row.arm.startswith("random")])
    assert not checks.false_positives(without, whole.model).passed
    unnamed = nulls.run.model_copy(update={"arms": ()})
    assert not checks.false_positives(Results(unnamed, nulls.rows), whole.model).passed
    for n, passed in ((2, True), (3, False)):
        rows = list(nulls.rows)
        for i in range(2, 2 * n + 1, 2):  # every other: the next one is the random control, the first is native's
            arm = ArmKey("", f"random-{i}")
            rows = relabelled([row for row in rows if row.arm != arm.name], checks.NATIVE, arm)
        check = checks.false_positives(Results(nulls.run, rows), whole.model)
        assert check.measured.startswith(f"{n} of 20 get a verdict of transfer, native does")
        assert check.passed == passed


def test_false_positives_fails_where_not_even_native_would_get_the_verdict(whole):
    nulls = whole.results("nulls")
    few = [row for row in nulls.rows if row.concept in ("", "c0", "c1", "c2")]  # 3 concepts: no p below 2 / 8
    check = checks.false_positives(Results(nulls.run, few), whole.model)
    assert not check.passed
    assert check.measured.startswith("0 of 20 get a verdict of transfer, native does not (0.")
