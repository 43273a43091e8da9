"""Calibration on a tiny trained model: every case passes, and the command says when one does not."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from tiny import save_tiny, tiny_llama, tiny_tokenizer, train_tiny

from steer_bench.cli.app import app
from steer_bench.concepts.load import load_concepts
from steer_bench.experiment.calibration import by_hand, checks
from steer_bench.experiment.calibration import calibrate as calibrating
from steer_bench.experiment.calibration.calibrate import calibrate
from steer_bench.experiment.calibration.checks import Check, Twin
from steer_bench.experiment.calibration.experiments import Sizes
from steer_bench.experiment.calibration.twins import random_rotation
from steer_bench.experiment.folder import Folder
from steer_bench.experiment.run import open_run
from steer_bench.models.load import load_model
from steer_bench.results.board.entries import ArmEntry, entries
from steer_bench.results.file import Results, load_results
from steer_bench.results.rows import Row
from steer_bench.results.stats.grid import NATIVE, ArmKey
from steer_bench.vectors.arms import Arms
from steer_bench.vectors.store import Vector, VectorStore

pytestmark = pytest.mark.slow
SIZES = Sizes(
    concepts=10,
    positives=24,
    negatives=48,
    scored=6,
    words=20,
    damage=2.0,
    compared=10,
    dose_texts=10,
    neutral=20,
    pairs=40,
    map_texts=60,
    rules=("all-capitals", "exclamation", "question", "final-question", "numbered-list", "bullet-list"),
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

    def board(self, rows: list[Row] | None = None) -> list[ArmEntry]:
        found = self.results("twins")
        return entries(found if rows is None else Results(found.run, rows))

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
    found = calibrate(model, out, sizes=SIZES, device="cpu", data=data, n_sims=6, progress=said.append)
    return Calibrated(model, out, found, said)


@pytest.fixture(scope="module")
def found(whole):
    return whole.found


def test_every_case_passes_on_a_tiny_model(found):
    assert [str(check) for check in found if not check.passed] == []


def test_it_holds_every_case_of_the_list(found):
    names = " | ".join(check.name for check in found)
    for case in (
        "same model, concept_likelihood: identity is native", "same model, concept_steering", "same model, rule_following",
        "rotated twin: same logits", "rotated twin: its replies", "rotated twin, linear: finds Q",
        "rotated twin, procrustes: recovers native", "rotated twin, identity: vectors look random",
        "permuted twin, linear: is equivalent", "permuted twin, identity: no transfer", "shuffled pairs", "dead concepts",
        "doses", "wrong-concept", "nulls: 6 random arms", "nulls: 400 arms drawn", "twins: each text serves one purpose",
        "pairs of two tokenisations", "by hand: a vector", "by hand: damage of doses", "by hand: a text under each arm",
        "6 simulations, coverage: recovered fraction", "6 simulations, false transfers: any of 4 claims, 3 controls",
    ):  # fmt: skip
        assert case in names


def test_there_is_a_line_of_progress_for_each_experiment(whole):
    assert [line.rsplit(": ", 1)[1] for line in whole.said if ":" in line] == ["twins", "same", "dead"]


def test_what_is_finished_is_not_computed_again(whole, tiny):
    files = {path: path.stat().st_mtime_ns for path in whole.out.rglob("*.safetensors")}
    again = calibrate(whole.model, whole.out, sizes=SIZES, device="cpu", data=tiny[1], n_sims=6)
    assert again == whole.found
    assert {path: path.stat().st_mtime_ns for path in whole.out.rglob("*.safetensors")} == files


def test_the_command_exits_with_1_when_a_case_fails(monkeypatch):
    from typer.testing import CliRunner

    checks = [Check("one", True, "1", "1"), Check("two", False, "0.5", "1")]
    monkeypatch.setattr(calibrating, "calibrate", lambda model, out, **options: checks)
    done = CliRunner().invoke(app, ["calibrate"])
    assert done.exit_code == 1
    assert done.output == "pass  one: 1 (expected 1)\nFAIL  two: 0.5 (expected 1)\n"
    monkeypatch.setattr(calibrating, "calibrate", lambda model, out, **options: checks[:1])
    assert CliRunner().invoke(app, ["calibrate"]).exit_code == 0


# ------------------------------------------------------------------------------------------ a check that cannot fail is none


def relabelled(rows, of, name):
    """The rows, with those of the arm `of` standing again under another name."""
    return [*rows, *(replace(row, source=name.source, arm=name.name) for row in rows if (row.source, row.arm) == of)]


def failing(found):
    """Names of the checks that fail."""
    return [check.name for check in ([found] if isinstance(found, Check) else found) if not check.passed]


def test_shuffled_pairs_fails_where_the_pairs_are_not_shuffled_and_where_nothing_steers(whole):
    found, true = whole.results("twins"), ArmKey(whole.twin.folder, "linear")
    assert checks.shuffled_pairs(found, whole.model).passed
    rows = [row for row in found.rows if (row.source, row.arm) != (true.source, "shuffled-linear")]
    rows = relabelled(rows, true, ArmKey(true.source, "shuffled-linear"))
    check = checks.shuffled_pairs(Results(found.run, rows), whole.model)
    assert not check.passed
    assert check.measured == "1 of 12 (shuffled-linear)"
    none = [row for row in found.rows if not row.arm.startswith("shuffled")]
    assert not checks.shuffled_pairs(Results(found.run, none), whole.model).passed
    still = [replace(row, value=-3.0) for row in found.rows]
    assert not checks.shuffled_pairs(Results(found.run, still), whole.model).passed
    assert not checks.native_steers(whole.board(still)).passed


def test_a_twin_that_is_not_the_model_fails(whole):
    own, vectors, same = whole.vectors(whole.model), whole.vectors(whole.twin.folder), whole.results("same")

    def wrong(logits=0.0, vectors=vectors, rows=same.rows):
        found = checks.is_the_model(whole.twin, logits, own, vectors, Results(same.run, rows), whole.model)
        return [name.removeprefix("rotated twin: ") for name in failing(found)]

    assert wrong() == []
    assert wrong(logits=2e-3) == ["same logits"]
    assert wrong(vectors=own) == ["its vectors are Q v"]
    rows = list(same.rows)
    one = next(row for row in rows if row.target == whole.twin.folder and row.arm == "native" and row.role == "concept")
    steered = ["steered by Q v it is the model steered by v, at the model's doses"]
    assert wrong(rows=[replace(row, value=row.value + 2e-3) if row == one else row for row in rows]) == steered
    assert wrong(rows=[replace(row, factor=row.factor * 1.02) if row == one else row for row in rows]) == steered
    assert wrong(rows=[row for row in rows if row != one]) == steered
    rated = [
        replace(row, value=1.0 - row.value) if row.target == whole.twin.folder and row.task == "rule_following" else row
        for row in rows
    ]
    assert wrong(rows=rated) == ["its replies are rated as the model's"]


def test_maps_that_do_not_find_q_and_an_identity_that_does_fail(whole):
    identity, linear = ArmKey(whole.twin.folder, "identity"), ArmKey(whole.twin.folder, "linear")

    def wrong(instead):
        arms = whole.arms()
        vectors = {}
        for (arm, concept), vector in arms.vectors.items():
            taken = instead.get((arm.source, arm.name))
            vectors[arm, concept] = vector if taken is None else arms.find(taken.name, taken.source, concept)
        found = checks.like_native(whole.twin, whole.board(), replace(arms, vectors=vectors))
        return [name.removeprefix("rotated twin, ") for name in failing(found)]

    assert wrong({}) == []
    assert wrong({linear: identity}) == ["linear: finds Q"]
    assert wrong({identity: linear}) == ["identity: vectors look random"]


def test_a_map_that_does_nothing_and_an_identity_that_transfers_fail(whole):
    names = {"identity": "linear", "linear": "identity"}
    swapped = [
        replace(row, arm=names.get(row.arm, row.arm)) if row.source == whole.twin.folder else row
        for row in whole.rows("twins")
    ]
    found = checks.like_native(whole.twin, whole.board(swapped), whole.arms())
    failed = {name.removeprefix("rotated twin, ") for name in failing(found)}
    assert failed == {"identity: no transfer", "linear: recovers native", "linear: is equivalent"}


def test_same_model_fails_where_identity_does_other_than_native(whole):
    same = whole.results("same")

    def wrong(rows, arms):
        found = checks.same_model(whole.model, arms, Results(same.run, rows))
        return [name.removeprefix("same model") for name in failing(found)]

    rows, arms = list(same.rows), whole.arms("same")
    assert wrong(rows, arms) == []
    moved = [
        replace(row, value=row.value + 1e-6 * (row.role == "concept")) if row.arm == "identity" else row for row in rows
    ]
    assert wrong(moved, arms) == [", concept_likelihood: identity is native, unscored rows or not"]
    vectors = {key: vector * (1 + 1e-6 * (key[0].name == "identity")) for key, vector in arms.vectors.items()}
    assert wrong(rows, replace(arms, vectors=vectors)) == [": identity gives native's vectors"]


def test_unscored_items_that_count_as_0_or_lose_their_pair_are_seen(whole, monkeypatch):
    def unpaired(values, arm, other=checks.REFERENCE):
        return values.value(arm) - values.value(other)

    monkeypatch.setattr(checks.TaskValues, "differences", unpaired)
    found = failing(checks.same_model(whole.model, whole.arms("same"), whole.results("same")))
    assert "same model, concept_likelihood: identity is native, unscored rows or not" in found


def test_dead_concepts_are_halves_of_the_same_texts_and_fail_where_they_live(whole):
    living, dead = (load_concepts(whole.out / f"{name}.jsonl") for name in ("concepts", "dead"))
    for one, other in zip(living, dead, strict=False):
        assert one.id == other.id
        assert len(set(one.positives) & {*other.positives, *other.negatives}) == len(one.positives)
        assert not set(one.negatives) & {*other.positives, *other.negatives}
    assert checks.dead_concepts(whole.results("dead"), whole.model).passed
    alive = checks.dead_concepts(whole.results("same"), whole.model)
    assert not alive.passed
    assert alive.measured.endswith("verdict: equivalent to native")


def test_nulls_fail_where_random_arms_steer_where_there_are_none_and_where_native_would_not_get_the_verdict(whole):
    found = whole.results("twins")
    rows = list(found.rows)

    def measured(rows):
        return list(checks.nulls(Results(found.run, rows), whole.model))

    assert failing(measured(rows)) == []
    assert failing(measured([row for row in rows if not row.arm.startswith("random")])) == ["nulls: random arms"]
    for arm in ("random-2", "random-4"):
        rows = relabelled([row for row in rows if row.arm != arm], NATIVE, ArmKey("", arm))
    first, _ = measured(rows)
    assert not first.passed
    assert first.measured == "2 get a verdict of transfer; native: equivalent to native"
    few = [row for row in found.rows if row.concept in ("", "c0", "c1", "c2")]  # 3 concepts: no p below 2 / 8
    assert measured(few)[0].measured == "0 get a verdict of transfer; native: too few concepts"


def test_a_true_rate_of_a_tenth_is_seen(whole, monkeypatch):
    monkeypatch.setattr("steer_bench.results.stats.verdict.ALPHA", 0.1)
    assert failing(checks.nulls(whole.results("twins"), whole.model)) == ["nulls: 400 arms drawn from these"]


def test_a_dose_of_another_arm_is_seen_in_the_damage_done(whole):
    board = whole.board()
    assert checks.doses(board).passed
    at = next(i for i, one in enumerate(board) if one.arm == "native")
    cell = board[at].cells["concept_likelihood"]
    board[at] = replace(board[at], cells={"concept_likelihood": replace(cell, damage=2.3)})
    assert not checks.doses(board).passed
    assert checks.doses(board).measured.endswith("native 2.3")


def test_the_right_concepts_vector_as_wrong_concept_is_seen(whole):
    arms = whole.arms()
    assert checks.others_vectors(arms).passed
    native = checks.vectors_of(arms, "native")
    leaked = {key: native[key[1]] if key[0].adapter == "wrong-concept" else one for key, one in arms.vectors.items()}
    assert checks.others_vectors(replace(arms, vectors=leaked)).measured == "0 of 10 are another concept's"


def test_a_text_of_two_purposes_is_seen(whole):
    run = open_run(str(whole.out / "runs" / "twins"))
    assert checks.texts_apart("twins", run).passed
    held = dict(run.data.vector_and_held_out_texts)
    vector, scored = held["c0"]
    held["c0"] = replace(vector, positives=vector.positives + scored.positives), scored
    run.data.__dict__["vector_and_held_out_texts"] = held
    assert checks.texts_apart("twins", run).measured == "vectors and held-out"


def test_tokens_paired_by_index_are_seen(whole, monkeypatch):
    loaded = load_model(whole.model, dtype="float32", device="cpu")
    texts = ["ba de fi go", "ku la me"]
    assert by_hand.pairs_have_read_the_same(loaded, texts).passed
    monkeypatch.setattr(by_hand, "shared_ends", lambda a, b: (list(range(len(b.ids))), list(range(len(b.ids)))))
    assert not by_hand.pairs_have_read_the_same(loaded, texts).passed


def test_what_is_computed_by_hand_sees_other_texts_layers_and_doses(whole, monkeypatch):
    run, results = open_run(str(whole.out / "runs" / "twins")), whole.results("twins")

    def wrong(results=results):
        return [name.removeprefix("by hand: ") for name in failing(by_hand.by_hand(whole.model, run, results))]

    vector, damage, text = (
        "a vector from texts that are not held out", "damage of doses, on texts set apart",
        "a text under each arm at its dose",
    )  # fmt: skip
    assert wrong() == []
    rows = [replace(row, value=-row.value) if row.arm == "linear" else row for row in results.rows]
    assert wrong(Results(results.run, rows)) == [text]
    load = by_hand.Protocol.load

    def changed(**changes):
        protocol = load(run.folder.protocol)
        monkeypatch.setattr(by_hand.Protocol, "load", lambda path: replace(protocol, **changes))
        return wrong()

    assert changed(calibration=load(run.folder.protocol).neutral) == [damage]
    one = load(run.folder.protocol).concepts["c0"]
    assert changed(concepts={"c0": replace(one, positives=one.positives[:1])}) == [vector]
    arms = whole.arms()
    monkeypatch.undo()
    monkeypatch.setattr(by_hand.Arms, "load", lambda path: replace(arms, layer=arms.layer - 1))
    assert wrong() == [vector, damage, text]


def test_error_rates_are_a_line_for_each_kind_and_a_failure_names_its_values(monkeypatch):
    rates = [
        checks.Rate("coverage: mean", "normal", 5, 0.95, 200, 0.9, 0.98),
        checks.Rate("coverage: mean", "skewed", 5, 0.70, 200, 0.9, 0.98),
        checks.Rate("coverage: mean", "normal", 12, 0.96, 200, 0.93, 0.97),
        checks.Rate("false transfers: 1 claim", "rules", 12, 0.03, 200, 0.0, 0.025),
    ]
    monkeypatch.setattr(checks, "error_rates", lambda n_sims, seed: rates)
    first, second = checks.simulated(200)
    assert first.measured == "0.700 at n = 5, 0.960 at n = 12; skewed, n = 5: 0.700"
    assert (first.passed, second.passed) == (False, True)
    assert first.expected == "at least 0.9 to 0.93, but for the error of simulation"
