"""Entries: every number of a line, on rows small enough to work out by hand."""

import math

import numpy as np
import pytest
from level_rows import TARGET, scores, texts

from steer_bench.results.board.entries import ArmEntry, best, entries, pooled
from steer_bench.results.file import Results
from steer_bench.results.provenance import Provenance, Unreached
from steer_bench.results.rows import Row

KINDS = {"native": "baseline", "linear": "transfer", "mlp": "transfer", "prompt": "ceiling"}


def results_of(rows: list[Row], name: str = "run", **run) -> Results:
    names = sorted({row.arm for row in rows} - {"unsteered"})
    arms = [
        {
            "arm": arm,
            "adapter": arm.rstrip("-0123456789"),
            "variant": arm.rpartition("-")[2] if arm.startswith("few-shot-") else "",
            "kind": KINDS.get(arm, "control"),
            "method": arm.rstrip("-0123456789"),
        }
        for arm in names
    ]
    return Results(Provenance.model_validate({"name": name, "arms": arms, "complete": True, **run}), rows)


def entry(found: list[ArmEntry], arm: str, source: str | None = None) -> ArmEntry:
    return next(one for one in found if one.arm == arm and source in (None, one.source))


def shifted(arm: str, shift: float, n: int = 12, **options) -> list[Row]:
    """Rows of one prompt a concept, whose values are (shift + a wobble of the concept), always within 0..1."""
    return scores(arm, {f"c{i:02}": [0.3 + 0.02 * (i % 3) + shift] for i in range(n)}, **options)


class TestCells:
    rows = [
        *scores("unsteered", {"c": [0.1, 0.1], "d": [0.1]}),
        *scores("wrong-concept", {"c": [0.1, 0.3], "d": [0.6]}),
        *scores("native", {"c": [0.5, 0.7], "d": [0.8]}),
        *scores("linear", {"c": [0.4, None], "d": [0.5]}, source="a", factor=0.6),
        *scores("linear", {"c": [0.9, 0.9], "d": [0.9]}, source="a", level=1.6),
    ]

    def test_value_effect_and_recovered_fraction_by_hand(self):
        cell = entry(entries(results_of(self.rows)), "linear").cells["rule_following"]
        # values 0.4 and 0.5; effects 0.4 - 0.1 = 0.3 and 0.5 - 0.6 = -0.1; native's 0.4 and 0.2
        assert (cell.level, cell.value.value, cell.effect.value) == (1.3, pytest.approx(0.45), pytest.approx(0.1))
        assert cell.recovered == (pytest.approx(0.2 / 0.6), None, None, 2)
        assert (cell.values, cell.effects) == (
            {"c": 0.4, "d": 0.5},
            {"c": pytest.approx(0.3), "d": pytest.approx(-0.1)},
        )
        assert (cell.scored, cell.total, cell.unscored, cell.reasons) == (2, 3, 1, ("timeout",))
        assert (cell.factor, cell.damage) == (0.6, None)

    def test_shares_of_the_wrong_way_are_of_effects_not_of_values(self):
        # Against unsteered every sample of linear rose; against wrong-concept d's fell: 1 of 2 concepts, 1 of 2 samples.
        cell = entry(entries(results_of(self.rows)), "linear").cells["rule_following"]
        assert (cell.anti_concepts, cell.anti_samples) == (0.5, (0.5, 2))

    def test_each_level_stands_beside_the_headlines(self):
        line = entry(entries(results_of(self.rows)), "linear")
        assert sorted(line.levels["rule_following"]) == [1.3, 1.6]
        assert line.cells["rule_following"] is line.levels["rule_following"][1.3]
        far = line.levels["rule_following"][1.6]
        assert (far.value.value, far.effect.value, far.verdict) == (
            pytest.approx(0.9),
            None,
            None,
        )  # no wrong-concept there
        assert entry(entries(results_of(self.rows, headline=1.7)), "linear").cells["rule_following"].level == 1.6

    def test_native_recovers_itself_and_wrong_concept_and_unsteered_have_no_effect(self):
        found = entries(results_of(self.rows))
        assert entry(found, "native").cells["rule_following"].recovered == (1.0, 1.0, 1.0, 2)
        for arm in ("wrong-concept", "unsteered"):
            cell = entry(found, arm).cells["rule_following"]
            assert (cell.effect.value, cell.effects, cell.anti_concepts, cell.verdict) == (None, {}, None, None)

    def test_without_wrong_concept_there_are_values_and_no_effects(self):
        found = entries(results_of([row for row in self.rows if row.arm != "wrong-concept"]))
        cell = entry(found, "linear").cells["rule_following"]
        assert cell.value.value == pytest.approx(0.45)
        assert (cell.effect.value, cell.recovered.value) == (None, None)
        assert cell.verdict == ("no evidence", "the run has no wrong-concept to compare with", False)

    def test_likelihood_has_the_neutral_change_and_the_damage_really_done(self):
        rows = [
            *texts("unsteered", "c", [-2.0], [-1.0]), *texts("native", "c", [-1.9], [-1.4]),
            *texts("wrong-concept", "c", [-2.2], [-1.2]),
        ]  # fmt: skip
        cell = entry(entries(results_of(rows)), "native").cells["concept_likelihood"]
        assert (cell.value.value, cell.effect.value) == (pytest.approx(0.1), pytest.approx(0.3))
        assert (cell.neutral.value, cell.damage) == (pytest.approx(-0.4), pytest.approx(math.exp(0.4)))

    def test_a_share_that_is_zero_everywhere_has_the_exact_bound(self):
        rows = [
            *scores("native", {f"c{i}": [0.0] for i in range(6)}),
            *scores("wrong-concept", {f"c{i}": [0.0] for i in range(6)}),
        ]
        cell = entry(entries(results_of(rows)), "native").cells["rule_following"]
        q = 1 - 0.05 ** (1 / 6)
        assert cell.value[:3] == (0.0, 0.0, pytest.approx(q))
        assert cell.effect[:3] == (0.0, pytest.approx(-q), pytest.approx(q))

    def test_few_shot_equivalents_are_of_effects(self):
        rows = [*shifted("wrong-concept", 0.0), *shifted("native", 0.3)]
        rows += [row for n, shift in ((2, 0.1), (8, 0.4)) for row in shifted(f"few-shot-{n}", shift)]
        found = entries(results_of(rows))
        assert entry(found, "native").cells["rule_following"].few_shot.n == pytest.approx(2 * 4 ** (2 / 3))
        assert entry(found, "few-shot-2").cells["rule_following"].few_shot == (2.0, "")
        assert entry(entries(results_of(self.rows)), "native").cells["rule_following"].few_shot is None


class TestUnreached:
    rows = [
        *shifted("wrong-concept", 0.0), *shifted("native", 0.4), *shifted("linear", 0.3, source="a"),
        *shifted("random", 0.0, n=9),
    ]  # fmt: skip

    @staticmethod
    def missed(arm: str, *concepts: str, level: float = 1.3) -> list[dict]:
        return [
            Unreached(
                target=TARGET, arm=arm, source="", concept=c, level=level, factor=None, reason="limit"
            ).model_dump()
            for c in concepts
        ]

    def test_concepts_without_the_level_are_named(self):
        found = entries(results_of(self.rows, unreached=self.missed("random", "c09", "c10", "c11", "elsewhere")))
        assert entry(found, "random").cells["rule_following"].unreached == ("c09", "c10", "c11")
        linear = entry(found, "linear").cells["rule_following"]
        assert linear.unreached == ()
        assert linear.verdict.word == "transfers"
        assert "random without 3" in linear.verdict.why

    def test_an_arm_that_reaches_it_nowhere_has_a_line_and_is_beaten_by_none(self):
        rows = [row for row in self.rows if row.arm != "random"]
        arms = [
            *results_of(rows).run.model_dump()["arms"],
            {"arm": "random", "adapter": "random", "kind": "control", "method": "random"},
        ]
        missed = self.missed("random", *(f"c{i:02}" for i in range(12)))
        found = entries(results_of(rows, arms=arms, unreached=missed))
        cell = entry(found, "random").cells["rule_following"]
        assert (cell.value.value, cell.total, len(cell.unreached)) == (None, 0, 12)
        assert entry(found, "linear").cells["rule_following"].verdict.word == "no evidence"
        assert entry(entries(results_of(rows)), "linear").cells["rule_following"].verdict.word == "transfers"


class TestVerdicts:
    def test_a_control_of_the_same_lift_per_damage_does_not_transfer_though_its_factor_is_ten_times_the_arms(self):
        # At equal damage both do the same to the concept's texts, so neither beats the other, whatever its factor.
        rng, rows = np.random.default_rng(0), []
        for i in range(12):
            concept = f"c{i:02}"
            rows += texts("unsteered", concept, [-2.0, -3.0], [-1.5, -1.0])
            for arm, lift, factor in (
                ("native", 0.5, 0.2),
                ("linear", 0.2, 0.2),
                ("random", 0.2, 2.0),
                ("wrong-concept", 0.0, 0.2),
            ):
                moved = lift - 0.26 + rng.normal(0, 0.05, 2)
                rows += texts(
                    arm, concept, [-2.0 + moved[0], -3.0 + moved[1]], [-1.76, -1.26],
                    source="a" if arm == "linear" else "", factor=factor,
                )  # fmt: skip
        found = entries(results_of(rows))
        verdict = entry(found, "linear").cells["concept_likelihood"].verdict
        assert verdict.word == "no evidence"
        assert verdict.why.startswith("against random, p = ")
        assert entry(found, "random").cells["concept_likelihood"].factor == 2.0
        without = entries(results_of([row for row in rows if row.arm != "random"]))
        assert entry(without, "linear").cells["concept_likelihood"].verdict.word == "transfers"

    def test_the_family_is_every_claim_of_the_run_over_sources_and_tasks(self):
        # Two sources x two tasks = 4 claims: 8 concepts can pass (4 / 256), 7 cannot (4 / 128).
        for n, word in ((8, "transfers"), (7, "too few concepts")):
            rows = [
                row
                for task in ("rule_following", "concept_steering")
                for arm, shift, source in (
                    ("native", 0.4, ""), ("wrong-concept", 0.0, ""), ("linear", 0.3, "a"), ("linear", 0.3, "b"),
                )
                for row in shifted(arm, shift, n, source=source, task=task)
            ]  # fmt: skip
            found = entries(results_of(rows))
            cells = [cell for one in found if one.arm == "linear" for cell in one.cells.values()]
            assert [cell.verdict.word for cell in cells] == [word] * 4

    def test_claims_name_the_family_and_other_arms_are_exploratory(self):
        rows = [*shifted("native", 0.4, 6), *shifted("wrong-concept", 0.0, 6)]
        rows += [*shifted("linear", 0.3, 6, source="a"), *shifted("mlp", 0.2, 6, source="a")]
        found = entries(results_of(rows, claims=["linear"]))
        cells = [entry(found, arm).cells["rule_following"] for arm in ("linear", "mlp")]
        assert [(cell.verdict.word, cell.verdict.exploratory) for cell in cells] == [
            ("transfers", False),
            ("transfers", True),
        ]
        assert entry(entries(results_of(rows)), "linear").cells["rule_following"].verdict.word == "too few concepts"

    def test_native_has_a_verdict_only_where_it_does_not_steer(self):
        dead = [*shifted("native", 0.0), *shifted("wrong-concept", 0.0), *shifted("linear", 0.3, source="a")]
        found = entries(results_of(dead))
        words = {arm: entry(found, arm).cells["rule_following"].verdict.word for arm in ("native", "linear")}
        assert set(words.values()) == {"native itself does not steer"}


class TestRanking:
    base = [*shifted("wrong-concept", 0.0), *shifted("native", 0.4)]

    def test_pooled_over_pairs_it_is_a_ratio_of_sums_over_concepts_and_pairs(self):
        # linear's effects: from a 0.3, from b 0.1 of native's 0.4: (0.3 + 0.1) / 0.8 = 0.5, from 0.25 to 0.75.
        rows = [*self.base, *shifted("linear", 0.3, source="a"), *shifted("linear", 0.1, source="b")]
        line = next(line for line in pooled(entries(results_of(rows))) if line.arm == "linear")
        assert line[:3] == ("rule_following", "linear", "transfer")
        assert line.recovered == (
            pytest.approx(0.5),
            pytest.approx(0.5),
            pytest.approx(0.5),
            12,
        )  # the concept is the unit
        assert (line.least, line.most, line.pairs) == (pytest.approx(0.25), pytest.approx(0.75), 2)

    def test_the_best_is_above_the_second_only_where_their_paired_difference_is(self):
        for shift, noise, clear in ((0.29, 0.1, False), (0.1, 0.02, True)):
            values = {f"c{i:02}": [0.3 + 0.02 * (i % 3) + shift + (noise if i % 2 else -noise)] for i in range(12)}
            second = scores("mlp", values, source="a")
            found = entries(results_of([*self.base, *shifted("linear", 0.3, source="a"), *second]))
            first, above = best(found, "rule_following")
            assert (first.arm, above) == ("linear", clear)

    def test_an_arm_that_may_not_claim_is_not_the_best(self):
        found = entries(results_of([*self.base, *shifted("linear", 0.3, source="a"), *shifted("mean", 0.35)]))
        assert best(found, "rule_following") == (None, False)
        assert best([], "rule_following") == (None, False)


def test_the_same_results_give_the_same_entries_in_any_order_of_rows():
    rows = [*TestUnreached.rows, *TestCells.rows[:1]]
    assert entries(results_of(rows)) == entries(results_of(rows[::-1]))
    assert {one.target for one in entries(results_of(rows))} == {TARGET}
