"""Calibration on a tiny trained model: every case passes, and the command says when one does not."""

import json
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny import save_tiny, tiny_llama, tiny_tokenizer, train_tiny

from steer_bench.cli.app import app
from steer_bench.experiment import calibration
from steer_bench.experiment.calibration import Sizes, calibrate, checks
from steer_bench.experiment.calibration.bench import NATIVE, NULL, ROTATED, SAME, SHUFFLED_PAIRS, dead
from steer_bench.experiment.calibration.scoring import is_dead, is_null, measure
from steer_bench.experiment.calibration.twin import Pairs, make_twin
from steer_bench.experiment.calibration.twins import random_rotation
from steer_bench.results.stats.grid import ArmKey

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


def made_up_language(n_concepts: int = 16) -> tuple[list[dict], list[str], list[str]]:
    """(concepts, shared negatives, neutral texts): a concept is six words of its own among words that all texts have."""
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
    return concepts, [text([]) for _ in range(120)], [text([]) for _ in range(20)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(folder of a trained Llama of width 32, folder of its data)."""
    torch.set_num_threads(1)
    concepts, negatives, neutral = made_up_language()
    folder = tmp_path_factory.mktemp("tiny")
    lines = [*concepts, {"genre": "text", "negatives": negatives}]
    (folder / "concepts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    texts = [json.dumps({"id": f"n{i}", "text": text}) + "\n" for i, text in enumerate(neutral)]
    (folder / "neutral.jsonl").write_text("".join(texts))
    corpus = [text for concept in concepts for text in concept["positives"]] + negatives
    tokenizer = tiny_tokenizer(corpus, vocab_size=600)
    model = train_tiny(tiny_llama(32, n_layers=3, vocab_size=600), tokenizer, corpus, steps=160)
    return save_tiny(folder / "model", model, tokenizer), folder


@pytest.fixture(scope="module")
def whole(tiny):
    """A calibration: its checks, and the bench, rows and twins behind them."""
    model, data = tiny
    kept: dict = {"twins": {}}

    def keep_rows(bench, arms):
        kept.update(bench=bench, rows=measure(bench, arms))
        return kept["rows"]

    def keep_twin(bench, name, *args):
        kept["twins"][name] = make_twin(bench, name, *args)
        return kept["twins"][name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "measure", keep_rows)
        patch.setattr(calibration, "make_twin", keep_twin)
        found = calibrate(model, sizes=SIZES, device="cpu", dtype="float32", data=data)
    return SimpleNamespace(found=found, **kept)


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


def test_the_command_exits_with_1_when_a_case_fails(monkeypatch):
    from typer.testing import CliRunner

    checks = [calibration.Check("one", True, "1", "1"), calibration.Check("two", False, "0.5", "1")]
    monkeypatch.setattr(calibration, "calibrate", lambda model: checks)
    done = CliRunner().invoke(app, ["calibrate"])
    assert done.exit_code == 1
    assert done.output == "pass  one: 1 (expected 1)\nFAIL  two: 0.5 (expected 1)\n"
    monkeypatch.setattr(calibration, "calibrate", lambda model: checks[:1])
    assert CliRunner().invoke(app, ["calibrate"]).exit_code == 0


# ------------------------------------------------------------------------------------------ a check that can not fail is none


def living(rows):
    return [row for row in rows if not (is_dead(row) or is_null(row))]


def relabelled(rows, of, name):
    """The rows, with those of the arm `of` standing again under another name."""
    return [*rows, *(replace(row, source=name.source, arm=name.name) for row in rows if (row.source, row.arm) == of)]


def test_shuffled_pairs_fails_where_the_pairs_are_not_shuffled(whole, monkeypatch):
    monkeypatch.setattr(Pairs, "shuffled", lambda pairs, seed: pairs)
    twin = make_twin(whole.bench, ROTATED, random_rotation(whole.bench.width, 0), (), ("linear",))
    false, true = ArmKey(SHUFFLED_PAIRS, "linear"), ArmKey(ROTATED, "linear")
    for concept, vector in twin.arms[false].items():  # it is the map of the true pairs, whose rows are there
        torch.testing.assert_close(vector, whole.twins[ROTATED].arms[true][concept])
    rows = [row for row in living(whole.rows) if row.source != SHUFFLED_PAIRS]
    check = checks.shuffled_pairs(checks.bootstrap(whole.bench, relabelled(rows, true, false)), twin)
    assert not check.passed
    assert check.measured == "1 of linear: linear"


def test_shuffled_pairs_fails_where_no_adapter_was_tried_or_nothing_steers(whole):
    twin = whole.twins[ROTATED]
    results = checks.bootstrap(whole.bench, living(whole.rows))
    assert checks.shuffled_pairs(results, twin).passed
    assert not checks.shuffled_pairs(results, replace(twin, arms={})).passed
    still = checks.bootstrap(whole.bench, [replace(row, value=-3.0) for row in living(whole.rows)])
    assert not checks.shuffled_pairs(still, twin).passed
    assert not checks.native_steers(still).passed


def test_a_twin_that_is_not_the_model_fails(whole):
    results = checks.bootstrap(whole.bench, living(whole.rows))
    twin = whole.twins[ROTATED]
    identity, linear = ArmKey(ROTATED, "identity"), ArmKey(ROTATED, "linear")

    def failing(twin):
        return [
            check.name.removeprefix(ROTATED)
            for check in checks.like_native(whole.bench, results, twin)
            if not check.passed
        ]

    assert failing(twin) == []
    assert failing(replace(twin, logits=2e-3)) == [": same logits"]
    assert failing(replace(twin, cosine=0.99)) == [": its vectors are Q v"]
    assert failing(replace(twin, likelihood=2e-3)) == [": steered by Q v it is the model steered by v"]
    assert failing(replace(twin, arms={**twin.arms, linear: twin.arms[identity]})) == [", linear: finds Q"]
    assert failing(replace(twin, arms={**twin.arms, identity: twin.arms[linear]})) == [
        ", identity: vectors look random"
    ]


def test_a_map_that_does_nothing_and_an_identity_that_transfers_fail(whole):
    names = {"identity": "linear", "linear": "identity"}
    swapped = [
        replace(row, arm=names.get(row.arm, row.arm)) if row.source == ROTATED else row for row in living(whole.rows)
    ]
    found = checks.like_native(whole.bench, checks.bootstrap(whole.bench, swapped), whole.twins[ROTATED])
    failed = {check.name.removeprefix(f"{ROTATED}, ") for check in found if not check.passed}
    assert failed == {"identity: no transfer", "linear: recovers native", "linear: transfers"}


def test_same_model_fails_where_identity_does_other_than_native(whole):
    moved = [
        replace(row, value=row.value + 1e-6 * (row.role == "concept")) if row.source == SAME else row
        for row in whole.rows
    ]
    exact, recovers = checks.same_model(whole.bench, checks.bootstrap(whole.bench, living(moved)))
    assert exact.passed
    assert not recovers.passed


def test_dead_concepts_fails_where_they_live(whole):
    alive = [replace(row, concept=dead(row.concept)) if row.concept else row for row in living(whole.rows)]
    check = checks.dead_concepts(whole.bench, alive)
    assert not check.passed
    assert check.measured.endswith("verdict: no evidence")  # not: native itself does not steer


def test_false_positives_fails_where_null_arms_steer_and_where_there_are_none(whole):
    rows = [row for row in whole.rows if not is_null(row)]
    assert not checks.false_positives(whole.bench, rows).passed
    for n, passed in ((2, True), (3, False)):
        made = list(whole.rows)
        for i in range(1, n + 1):
            null = ArmKey("", f"{NULL}{i}")
            made = relabelled([row for row in made if row.arm != null.name], NATIVE, null)
        check = checks.false_positives(whole.bench, made)
        assert check.measured.startswith(f"{n} of 20 get a verdict of transfer, native does")
        assert check.passed == passed


def test_false_positives_fails_where_not_even_native_would_get_the_verdict(whole):
    few = [row for row in whole.rows if row.concept in ("", "c0", "c1", "c2")]  # 3 concepts: no p below 2 / 8
    check = checks.false_positives(whole.bench, few)
    assert not check.passed
    assert check.measured.startswith("0 of 20 get a verdict of transfer, native does not (0.")
