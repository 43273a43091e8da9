"""What stands beside a score, on tables small enough to work out by hand: the sums stand in the comments."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from steer_bench.results.rows import Row
from steer_bench.results.stats.behind_score import FewShot, anti_steered, behind_scores, few_shot_equal
from steer_bench.results.stats.bootstrap import Estimate, hierarchical_bootstrap
from steer_bench.results.stats.effects import TaskEffects, likelihood_curves, measure_generation, measure_likelihood
from steer_bench.results.stats.grid import ArmKey, value_grid
from steer_bench.results.stats.specificity import specificity
from steer_bench.results.stats.verdict import holm, tost

SEEDS = {f"random-{seed}": "random" for seed in range(1, 6)}
FEW_SHOT = {f"few-shot-{n}": n for n in (1, 2, 4, 8)}
NATIVE, LINEAR, WRONG, RANDOM = (
    ArmKey("", "native"),
    ArmKey("a", "linear"),
    ArmKey("", "wrong-concept"),
    ArmKey("", "random"),
)


def of_means(arms: dict[ArmKey, list[float]]):
    """A bootstrap of one item a concept."""
    return hierarchical_bootstrap({arm: np.array(values, float)[:, None] for arm, values in arms.items()})


def measured_of(arms: dict[ArmKey, list[float]], gate: list[bool] | None = None) -> TaskEffects:
    """One item a concept, no neutral texts."""
    effects = {arm: np.array(values, float)[:, None] for arm, values in arms.items()}
    n = len(arms[NATIVE])
    nothing = {arm: np.empty((n, 0)) for arm in arms}
    ones = {arm: np.ones(n) for arm in arms}
    concepts = tuple(f"c{i}" for i in range(n))
    held = None if gate is None else np.array(gate)
    counts = dict.fromkeys(arms, n)
    return TaskEffects(concepts, effects, nothing, effects, ones, ones, counts, counts, held)


class TestRecovered:
    arms = {NATIVE: [1.0, 0.8, 0.6], LINEAR: [0.7, 0.7, 0.4], WRONG: [0.1, 0.2, 0.0]}

    def test_the_specific_fraction_takes_what_a_wrong_concept_does_off_both(self):
        # sum(linear - wrong) = 0.6 + 0.5 + 0.4 = 1.5; sum(native - wrong) = 0.9 + 0.6 + 0.6 = 2.1: 1.5 / 2.1 = 0.714286.
        # Without wrong-concept: 1.8 / 2.4 = 0.75.
        boot = of_means(self.arms)
        assert boot.recovered(LINEAR, NATIVE).value == pytest.approx(0.75)
        found = behind_scores(measured_of(self.arms), boot, {})
        assert found[LINEAR].specific.value == pytest.approx(1.5 / 2.1)
        assert found[NATIVE].specific.value == pytest.approx(1.0)
        assert found[WRONG].specific == (None, None, None, 0)  # of itself nothing can be said

    def test_the_interval_is_that_of_the_ratio_over_resampled_concepts(self):
        # By concept 0.6 / 0.9, 0.5 / 0.6, 0.4 / 0.6. The largest ratio, 0.5 / 0.6, needs the second concept three times: 1 of 27
        # draws, 3.7 %, so the 97.5th percentile is that; the smallest, 2 / 3, comes of every draw without it.
        found = of_means(self.arms).recovered(LINEAR, NATIVE, null=WRONG)
        assert (found.low, found.high) == (pytest.approx(2 / 3), pytest.approx(5 / 6))

    def test_only_concepts_that_pass_the_gate_count(self):
        # without the second: (0.6 + 0.4) / (0.9 + 0.6) = 1 / 1.5; not specific: 1.1 / 1.6
        gate = np.array([True, False, True])
        boot = of_means(self.arms)
        assert boot.gated(gate).recovered(LINEAR, NATIVE, null=WRONG)[::3] == (pytest.approx(1 / 1.5), 2)
        assert boot.gated(gate).recovered(LINEAR, NATIVE)[::3] == (pytest.approx(1.1 / 1.6), 2)
        assert boot.gated(np.array([True, False, False])).recovered(LINEAR, NATIVE) == (None, None, None, 1)
        assert behind_scores(measured_of(self.arms, [True, False, True]), boot, {})[LINEAR].specific.n == 2

    def test_a_native_no_better_than_a_wrong_concept_leaves_nothing_specific_to_recover(self):
        arms = {**self.arms, WRONG: [1.1, 0.7, 0.6]}  # native - wrong: -0.1, 0.1, 0
        assert of_means(arms).recovered(LINEAR, NATIVE, null=WRONG) == (None, None, None, 3)
        assert of_means(arms).recovered(LINEAR, NATIVE).value == pytest.approx(0.75)

    def test_the_gate_is_natives_effect_on_the_selection_prompts_and_not_on_the_scored_ones(self):
        def rows(arm: str, concept: str, select: list[float], score: list[float], factor: float) -> list[Row]:
            both = (("select", select), ("score", score))
            return [
                Row("concept_steering", "t", "", arm, concept, factor, f"{role}{i}", role, value)
                for role, values in both
                for i, value in enumerate(values)
            ]

        table = [
            # c0: selection 0.2 -> 1.0, up. c1: (0.4 + 0.6) / 2 -> (0.7 + 0.3) / 2, not up, though the scored ones are.
            *rows("unsteered", "c0", [0.2, 0.2], [0.0], 0.0), *rows("native", "c0", [1.0, 1.0], [1.0], 0.2),
            *rows("unsteered", "c1", [0.4, 0.6], [0.0], 0.0), *rows("native", "c1", [0.7, 0.3], [2.0], 0.2),
            # c2: the better factor on selection (0.4: 0.9) decides, 0.2 alone would not pass.
            *rows("unsteered", "c2", [0.5, 0.5], [0.0], 0.0), *rows("native", "c2", [0.1, 0.1], [0.0], 0.2),
            *rows("native", "c2", [0.9, 0.9], [0.6], 0.4),
        ]  # fmt: skip
        measured = measure_generation(value_grid(table, "concept_steering", "t"))
        assert measured.gate is not None
        assert measured.gate.tolist() == [True, False, True]
        assert measured.factors[NATIVE].tolist() == [0.2, 0.2, 0.4]
        np.testing.assert_allclose(measured.effects[NATIVE], [[1.0], [2.0], [0.6]])

    def test_without_selection_prompts_there_is_no_gate(self):
        table = [Row("concept_steering", "t", "", "native", "c", 0.2, "p", "score", 1.0)]
        assert measure_generation(value_grid(table, "concept_steering", "t")).gate is None


class TestAntiSteered:
    def test_counts_the_samples_that_fell(self):
        # 2 concepts x 2: -0.1 fell, 0 did not, one was not measured: 1 of 3
        effects = {NATIVE: np.array([[0.3, -0.1], [0.0, math.nan]])}
        measured = TaskEffects(
            ("a", "b"), effects, {NATIVE: np.empty((2, 0))}, effects, {}, {}, {NATIVE: 3}, {NATIVE: 4}
        )
        assert anti_steered(measured, NATIVE) == (pytest.approx(1 / 3), 3)

    def test_of_likelihoods_what_neutral_texts_lost_is_taken_off_first(self):
        # a: neutral mean (-0.4 - 0.2) / 2 = -0.3: -0.1 is +0.2 beside it, -0.5 is -0.2. b: neutral 0.1: 0.05 is -0.05, 0.3 is 0.2.
        effects = {NATIVE: np.array([[-0.1, -0.5], [0.05, 0.3]])}
        neutral = {NATIVE: np.array([[-0.4, -0.2], [0.1, math.nan]])}
        measured = TaskEffects(("a", "b"), effects, neutral, effects, {}, {}, {NATIVE: 8}, {NATIVE: 8})
        assert anti_steered(measured, NATIVE) == (0.5, 4)

    def test_of_nothing_there_is_no_share(self):
        effects = {NATIVE: np.full((1, 2), math.nan)}
        assert anti_steered(
            TaskEffects(("a",), effects, {NATIVE: np.empty((1, 0))}, effects, {}, {}, {NATIVE: 0}, {NATIVE: 2}), NATIVE
        ) == (None, 0)


class TestFewShot:
    def test_n_eq_lies_between_the_ns_in_log_n(self):
        # effects 0.1 at n=1, 0.2 at 2, 0.4 at 8. 0.25 is a quarter of the way from log 2 to log 8: 2 * 4 ** 0.25 = 2.828427.
        arms = {ArmKey("", f"few-shot-{n}"): [effect, effect] for n, effect in ((8, 0.4), (1, 0.1), (2, 0.2))}
        arms |= {NATIVE: [0.5, 0.5], LINEAR: [0.3, 0.2]}
        found = behind_scores(measured_of(arms), of_means(arms), FEW_SHOT)
        assert found[LINEAR].few_shot == (pytest.approx(2 * 4**0.25), "")
        assert str(found[LINEAR].few_shot) == "2.83"
        assert found[NATIVE].few_shot == (8.0, ">")  # more than any that was measured

    def test_a_few_shot_arm_is_its_own_n_though_a_smaller_one_did_better(self):
        arms = {NATIVE: [0.5, 0.5], ArmKey("", "few-shot-1"): [0.3, 0.3], ArmKey("", "few-shot-4"): [0.2, 0.2]}
        found = behind_scores(measured_of(arms), of_means(arms), FEW_SHOT)
        assert [str(found[ArmKey("", f"few-shot-{n}")].few_shot) for n in (1, 4)] == ["1", "4"]

    def test_at_a_measured_n_it_is_that_n_and_where_the_curve_falls_the_first_crossing_counts(self):
        assert few_shot_equal({1: 0.1, 2: 0.2, 8: 0.4}, 0.2) == (2.0, "")
        assert few_shot_equal({1: 0.1, 2: 0.3, 4: 0.1, 8: 0.4}, 0.2) == (pytest.approx(math.sqrt(2)), "")
        assert few_shot_equal({1: 0.1, 2: 0.3}, 0.05) == (1.0, "<")

    def test_without_few_shot_arms_or_an_effect_it_can_not_be_said(self):
        assert str(few_shot_equal({}, 0.3)) == "n/a"
        assert few_shot_equal({1: 0.1}, None) == FewShot(None)


def text(arm: str, concept: str, item: str, value: float | None) -> Row:
    """A row of the task `specificity`; the item names the concept of its text."""
    factor = 0.0 if arm == "unsteered" else 0.3
    return Row("specificity", "t", "", arm, concept, factor, item, item.rpartition("-")[0], value, 10)


class TestSpecificity:
    plain = [text("unsteered", "", f"{c}-{i}", -3.0 - i) for c in ("law", "sea") for i in (0, 1)]

    def matrix(self, arm: str = "native", *, miss: float | None = -3.2) -> list[Row]:
        # changes     law texts             sea texts
        # law vector  +0.5, +0.3: mean 0.4  -0.1, +0.3: mean 0.1
        # sea vector  -0.2, -0.2: mean -0.2 +0.6, +0.4: mean 0.5
        values = {("law", "law"): (-2.5, -3.7), ("law", "sea"): (-3.1, -3.7), ("sea", "sea"): (-2.4, -3.6)}
        rows = [text(arm, v, f"{c}-{i}", value) for (v, c), two in values.items() for i, value in enumerate(two)]
        return [*rows, text(arm, "sea", "law-0", miss), text(arm, "sea", "law-1", None if miss is None else -4.2)]

    def test_rows_are_vectors_and_columns_the_concepts_of_the_texts(self):
        found = specificity([*self.plain, *self.matrix()], "t")[NATIVE]
        assert found.concepts == ("law", "sea")
        np.testing.assert_allclose(found.matrix, [[0.4, 0.1], [-0.2, 0.5]])
        np.testing.assert_allclose(found.own, [0.4, 0.5])
        np.testing.assert_allclose(found.others, [0.1, -0.2])
        # (0.4 - 0.1 + 0.5 + 0.2) / 2 = 0.5; of two concepts resampled the ends are 0.3 and 0.7
        assert found.difference == (pytest.approx(0.5), pytest.approx(0.3), pytest.approx(0.7), 2)
        assert found.top1 == 1.0

    def test_a_vector_that_raises_other_texts_more_is_not_its_own_concepts(self):
        shifted = [
            text("native", v, i, -2.0) for v in ("law", "sea") for i in ("law-0",)
        ]  # +1.0 on law, whatever the vector
        shifted += [text("native", v, "sea-0", -2.8) for v in ("law", "sea")]
        found = specificity([*self.plain, *shifted], "t")[NATIVE]
        np.testing.assert_allclose(found.matrix, [[1.0, 0.2], [1.0, 0.2]])
        assert found.top1 == 0.5
        assert found.difference.value == pytest.approx(0.0)

    def test_an_unmeasured_cell_is_missing_and_its_row_does_not_count_as_whole(self):
        found = specificity([*self.plain, *self.matrix(miss=None)], "t")[NATIVE]
        assert np.isnan(found.matrix[1, 0])
        assert found.top1 == 1.0  # of the one whole row
        assert found.difference == (pytest.approx(0.3), None, None, 1)

    def test_seeds_of_random_are_one_matrix_of_their_means(self):
        first, second = self.matrix("random-1"), [text("random-2", r.concept, r.item, -3.0) for r in self.matrix()]
        found = specificity([*self.plain, *first, *second], "t", SEEDS)
        assert list(found) == [RANDOM]
        # random-2 says -3 of every text: changes 0 (first text) and +1 (second), mean 0.5. Half of [0.4 0.1; -0.2 0.5] + 0.5:
        np.testing.assert_allclose(found[RANDOM].matrix, [[0.45, 0.3], [0.15, 0.5]])


class TestPooling:
    """Five seeds of random are one arm: the mean over seeds, text by text, before any factor or concept is averaged."""

    values = (-1.9, -2.1, -2.2, -1.8, -2.5)

    def table(self) -> list[Row]:
        def row(arm: str, concept: str, factor: float, item: str, role: str, value: float | None) -> Row:
            return Row("concept_likelihood", "t", "", arm, concept, factor, item, role, value, 10)

        rows = [row("unsteered", "c", 0.0, "x", "concept", -2.0), row("unsteered", "", 0.0, "n", "neutral", -1.0)]
        for seed, value in enumerate(self.values, 1):
            rows.append(row(f"random-{seed}", "c", 0.4, "x", "concept", value))
            rows.append(row(f"random-{seed}", "c", 0.4, "n", "neutral", -1.0 - 0.02 * seed))
        return rows

    def test_the_mean_over_seeds_by_item(self):
        # concept text: mean of -1.9 -2.1 -2.2 -1.8 -2.5 is -2.1, change -0.1. Neutral: mean of 0.02 .. 0.10 is 0.06 lost.
        curves = likelihood_curves(self.table(), "t", pooled=SEEDS)
        assert list(curves) == [RANDOM]
        np.testing.assert_allclose(curves[RANDOM]["c"].concept, [[-0.1]])
        np.testing.assert_allclose(curves[RANDOM]["c"].ratios, [math.exp(0.06)])
        boot = hierarchical_bootstrap(*(getattr(measure_likelihood(curves), f) for f in ("effects", "neutral")))
        assert boot.effect(RANDOM)[::3] == (pytest.approx(-0.04), 1)  # one concept, however many seeds

    def test_a_seed_that_is_unscored_leaves_the_mean_of_the_others(self):
        rows = [
            Row(*r.key[:6], r.item, r.role, None, 10) if r.arm == "random-5" and r.role == "concept" else r
            for r in self.table()
        ]
        # mean of the four others: -2.0, change 0
        np.testing.assert_allclose(likelihood_curves(rows, "t", pooled=SEEDS)[RANDOM]["c"].concept, [[0.0]], atol=1e-12)


class TestEquivalence:
    def test_the_interval_by_hand(self):
        # Differences 0.06 and -0.02: a resample of two has mean -0.02 (1/4), 0.02 (1/2) or 0.06 (1/4), so the 90 % interval is
        # [-0.02, 0.06]. Native's effect is 1: equivalent at a margin of 0.1, not of 0.05.
        boot = of_means({NATIVE: [1.2, 0.8], LINEAR: [1.26, 0.78]})
        assert tost(boot, LINEAR, NATIVE) == (True, pytest.approx(-0.02), pytest.approx(0.06), pytest.approx(0.1))
        assert tost(boot, LINEAR, NATIVE, 0.05) == (
            False,
            pytest.approx(-0.02),
            pytest.approx(0.06),
            pytest.approx(0.05),
        )

    @pytest.mark.parametrize(("shift", "equivalent"), [(0.0, True), (-0.05, True), (-0.09, False), (0.3, False)])
    def test_it_decides_as_two_one_sided_t_tests_do(self, shift, equivalent):
        # 40 concepts, differences with sd 0.1, so a standard error of 0.016, against a margin of 0.1 of about 1
        rng = np.random.default_rng(5)
        native, noise = rng.normal(1, 0.2, 40), rng.normal(0, 0.1, 40)
        native, linear = native / native.mean(), native / native.mean() + shift + noise - noise.mean()
        difference = linear - native
        below = scipy_stats.ttest_1samp(difference, -0.1, alternative="greater").pvalue
        above = scipy_stats.ttest_1samp(difference, 0.1, alternative="less").pvalue
        assert (max(below, above) < 0.05) == equivalent
        assert tost(of_means({NATIVE: list(native), LINEAR: list(linear)}), LINEAR, NATIVE).equivalent == equivalent

    def test_to_a_native_that_does_nothing_no_arm_is_equivalent(self):
        boot = of_means({NATIVE: [-0.1, -0.2], LINEAR: [-0.1, -0.2]})
        assert tost(boot, LINEAR, NATIVE)[::3] == (False, None)


def test_holm_never_lets_a_larger_p_overtake_a_smaller():
    # sorted 0.010, 0.020, 0.022, 0.09 times 4, 3, 2, 1: 0.04, 0.06, 0.044, 0.09; the third takes the second's 0.06
    assert holm([0.022, 0.09, 0.010, 0.020]) == pytest.approx([0.06, 0.09, 0.04, 0.06])


def test_an_estimate_of_one_concept_claims_nothing():
    assert not Estimate(9.0, 8.0, 10.0, 1).positive
