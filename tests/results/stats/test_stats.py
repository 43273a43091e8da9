"""Statistics: hand-worked numbers, independent implementations, and how often they are wrong on nothing."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as scipy_stats
from synthetic_rows import make_rows

from steer_bench.results.rows import Row
from steer_bench.results.stats.agreement import agreement
from steer_bench.results.stats.bootstrap import Bootstrap, Estimate, hierarchical_bootstrap
from steer_bench.results.stats.effects import (
    Curve,
    best_factor_index,
    factors_within_damage,
    likelihood_curves,
    matched_factor,
    measure_generation,
    measure_likelihood,
)
from steer_bench.results.stats.grid import ArmKey, value_grid
from steer_bench.results.stats.verdict import Comparison, holm, sign_flip_p, tost, verdict, verdicts

NATIVE, LINEAR, RANDOM, MEAN = (
    ArmKey("", "native"),
    ArmKey("source-model", "linear"),
    ArmKey("", "random"),
    ArmKey("", "mean"),
)


def of_means(**means) -> Bootstrap:
    """A bootstrap of arms with one item a concept, so that concepts alone are resampled."""
    return hierarchical_bootstrap(
        {ArmKey("", name): np.array(values, float)[:, None] for name, values in means.items()}
    )


class TestMatchedFactor:
    def test_interpolates_the_log_ratio_between_grid_points(self):
        # ln 1.1 = 0.09531, ln 1.5 = 0.40547, ln 1.3 = 0.26236: 0.2 + 0.2 * (0.26236 - 0.09531) / 0.31016 = 0.30773
        factor, reached = matched_factor([0.2, 0.4], [1.1, 1.5])
        assert factor == pytest.approx(0.30773, abs=1e-5)
        assert reached

    def test_a_first_point_beyond_the_limit_is_interpolated_from_the_unsteered_model(self):
        # 0.2 * ln 1.3 / ln 2 = 0.2 * 0.26236 / 0.69315 = 0.075702
        assert matched_factor([0.2], [2.0]) == (pytest.approx(0.075702, abs=1e-6), True)

    def test_the_first_crossing_counts_though_the_ratio_comes_back(self):
        factor, _ = matched_factor([0.2, 0.4, 0.6], [1.1, 1.5, 1.1])
        assert 0.2 < factor < 0.4

    def test_a_limit_never_exceeded_gives_the_largest_factor(self):
        assert matched_factor([0.4, 0.2], [1.3, 0.9]) == (0.4, False)

    @pytest.mark.parametrize(
        ("factors", "ratios", "limit"),
        [([], [], 1.3), ([0.1], [], 1.3), ([0.1], [math.nan], 1.3), ([0.0], [1.0], 1.3), ([0.1], [1.0], 1.0)],
    )
    def test_refuses_what_is_no_curve(self, factors, ratios, limit):
        with pytest.raises(ValueError, match="factors"):
            matched_factor(factors, ratios, limit)


class TestSelected:
    @staticmethod
    def place(*values: list[float | None], among: list[bool] | None = None) -> int:
        """Values of each factor on as many prompts as they are; None: unscored."""
        width = max(map(len, values), default=0)
        filled = np.array([[*line, *[None] * (width - len(line))] for line in values], dtype=float)
        asked = np.array([[place < len(line) for place in range(width)] for line in values]).reshape(filled.shape)
        return best_factor_index(filled, asked.astype(bool), np.array(among or [True] * len(values), dtype=bool)).item()

    def test_takes_the_best_mean_and_of_equals_the_smaller(self):
        assert self.place([0.5, 0.5], [1.0, 0.0], [0.2, 0.2]) == 0
        assert self.place([0.5, 0.5], [1.0, 0.2]) == 1
        assert self.place([-0.5], [-0.2], [-0.3]) == 1

    def test_a_factor_with_most_prompts_unscored_can_not_win(self):
        assert self.place([0.1, 0.1, 0.1], [2.0, None, None]) == 0
        assert self.place([0.1, 0.1], [2.0, None]) == 1  # half of them is enough

    def test_nothing_scored_selects_nothing(self):
        assert self.place([None], []) == -1
        assert self.place([1.0], [2.0], among=[False, False]) == -1

    def test_one_factor_needs_no_selection(self):
        assert self.place([]) == 0
        assert self.place([1.0], [None], among=[False, True]) == 1

    def test_of_many_arms_each_has_its_own(self):
        values = np.array([[[0.1], [0.2]], [[0.4], [0.3]], [[math.nan], [math.nan]]])
        assert best_factor_index(values, np.ones((3, 2, 1), bool), np.ones((3, 2), bool)).tolist() == [1, 0, -1]


class TestCurve:
    curve = Curve(
        factors=np.array([1.0, 2.0]),
        concept=np.array([[0.1, 0.3], [0.4, 0.8]]),
        neutral=np.array([[-0.1, -0.2], [-0.5, -0.6]]),
        tokens=np.array([30.0, 10.0]),
    )

    def test_lift_is_the_concept_change_minus_the_neutral_change(self):
        # factor 1: (0.1 + 0.3)/2 - (-0.1 - 0.2)/2 = 0.2 + 0.15 = 0.35; factor 2: 0.6 + 0.55 = 1.15
        np.testing.assert_allclose(self.curve.lifts, [0.35, 1.15])

    def test_perplexity_ratio_weights_texts_by_their_tokens(self):
        # factor 1: -(30 * -0.1 + 10 * -0.2) / 40 = 0.125; factor 2: (15 + 6) / 40 = 0.525
        np.testing.assert_allclose(self.curve.ratios, np.exp([0.125, 0.525]))

    def test_between_factors_it_is_linear_and_at_none_it_is_zero(self):
        np.testing.assert_allclose(self.curve.at(1.5).lifts, [0.75])
        np.testing.assert_allclose(self.curve.at(0.5).lifts, [0.175])
        np.testing.assert_allclose(self.curve.at(0.0).lifts, [0.0])
        np.testing.assert_allclose(self.curve.at(2.0).lifts, [1.15])

    def test_matched_factor_is_where_the_ratio_crosses(self):
        # ln 1.3 = 0.262364: 1 + (0.262364 - 0.125) / (0.525 - 0.125) = 1.343411
        assert self.curve.matched().factor == pytest.approx(1.343411, abs=1e-6)

    def test_an_unmeasured_text_is_left_out_and_not_zero(self):
        neutral = np.array([[-0.1, math.nan], [math.nan, math.nan]])
        curve = Curve(self.curve.factors, self.curve.concept, neutral, self.curve.tokens)
        np.testing.assert_allclose(curve.lifts, [0.2 + 0.1, math.nan])
        np.testing.assert_allclose(curve.ratios, [math.exp(0.1), math.nan])
        assert curve.matched() == (1.0, False)


class TestMeasure:
    def test_lift_at_matched_damage_is_the_one_put_in(self):
        # neutral -0.5 * factor: matched factor ln 1.3 / 0.5 = 0.52473, linear lift 0.9 of it = 0.47226
        measured = measure_likelihood(likelihood_curves(make_rows(wobble=0.0, n_concepts=3), "target-model"))
        boot = hierarchical_bootstrap(measured.effects, measured.neutral)
        np.testing.assert_allclose(measured.factors[LINEAR], math.log(1.3) / 0.5, rtol=1e-9)
        np.testing.assert_allclose(measured.ratios[LINEAR], 1.3, rtol=1e-9)
        assert boot.effect(LINEAR).value == pytest.approx(0.9 * math.log(1.3) / 0.5)
        assert boot.recovered(LINEAR, NATIVE).value == pytest.approx(0.9)

    def test_a_stronger_limit_compares_at_a_smaller_factor(self):
        rows = make_rows(n_concepts=2)
        assert measure_likelihood(likelihood_curves(rows, "target-model"), 1.1).factors[NATIVE][0] == pytest.approx(
            math.log(1.1) / 0.5
        )

    def test_an_arm_equal_for_all_concepts_may_have_its_rows_once(self):
        rows = [row for row in make_rows(n_concepts=3, wobble=0.0) if row.arm in ("unsteered", "native")]
        neutral = [r for r in rows if r.arm == "native" and r.role == "neutral" and r.concept == "c00"]
        once = [Row(r.task, r.target, "", "mean", "", r.factor, r.item, r.role, r.value, r.tokens) for r in neutral]
        curves = likelihood_curves([*rows, *once], "target-model")
        np.testing.assert_allclose(curves[MEAN]["c02"].ratios, curves[NATIVE]["c02"].ratios)

    def test_an_arm_without_a_factor_is_measured_as_it_is(self):
        rows = [
            Row("concept_likelihood", "t", "", arm, concept, 0.0, item, role, value, 10)
            for arm, item, role, concept, value in [
                ("unsteered", "x", "concept", "c", -2.0),
                ("unsteered", "n", "neutral", "", -1.0),
                ("prompt", "x", "concept", "c", -1.5),
                ("prompt", "n", "neutral", "c", -1.1),
            ]
        ]
        measured = measure_likelihood(likelihood_curves(rows, "t"))
        prompt = ArmKey("", "prompt")
        assert measured.factors[prompt].tolist() == [0.0]
        # lift 0.5 - (-0.1) = 0.6 at a perplexity ratio of e^0.1
        assert hierarchical_bootstrap(measured.effects, measured.neutral).effect(prompt).value == pytest.approx(0.6)
        assert measured.ratios[prompt][0] == pytest.approx(math.exp(0.1))

    @staticmethod
    def rated(arm: str, factor: float, role: str, values, concept="c"):
        return [
            Row("concept_steering", "t", "", arm, concept, factor, f"{role}{i}", role, v) for i, v in enumerate(values)
        ]

    def test_the_factor_is_chosen_on_selection_prompts_and_scored_on_the_others(self):
        rows = [
            *self.rated("unsteered", 0.0, "score", [0.2, 0.4]),
            *self.rated("native", 0.2, "select", [0.9]),
            *self.rated("native", 0.2, "score", [0.8, 0.6]),
            *self.rated("native", 0.4, "select", [0.1]),
            *self.rated("native", 0.4, "score", [2.0, 2.0]),  # better, but chosen on these it would be a leak
        ]
        measured = measure_generation(value_grid(rows, "concept_steering", "t"))
        assert measured.factors[NATIVE].tolist() == [0.2]
        np.testing.assert_allclose(measured.scores[NATIVE], [[0.8, 0.6]])
        np.testing.assert_allclose(measured.effects[NATIVE], [[0.6, 0.2]])

    def test_an_unscored_reply_is_counted_and_left_out(self):
        rows = [
            *self.rated("unsteered", 0.0, "score", [0.0, 0.0, None]),
            *self.rated("native", 0.2, "score", [1.0, None, 1.0]),
        ]
        measured = measure_generation(value_grid(rows, "concept_steering", "t"))
        assert (measured.scored[NATIVE], measured.totals[NATIVE]) == (2, 3)
        np.testing.assert_allclose(measured.effects[NATIVE], [[1.0, math.nan, math.nan]])

    def test_of_several_samples_or_seeds_each_is_counted(self):
        rows = self.rated("unsteered", 0.0, "score", [0.0, 0.5])
        for arm in ("native", "random-1", "random-2"):
            rows += [
                replace(row, item=f"{row.item}#{k}")
                for k in range(3)
                for row in self.rated(arm, 0.2, "score", [k, None])
            ]
        measured = measure_generation(
            value_grid(rows, "concept_steering", "t", {"random-1": "random", "random-2": "random"})
        )
        # two prompts of three samples, and of three samples by two seeds; those of the second prompt have no value
        assert (measured.scored[NATIVE], measured.totals[NATIVE]) == (3, 6)
        assert (measured.scored[RANDOM], measured.totals[RANDOM]) == (6, 12)
        np.testing.assert_allclose(measured.scores[NATIVE], [[1.0, math.nan]])

    def test_the_cost_at_the_selected_factor_comes_from_the_neutral_texts(self):
        rows = make_rows(n_concepts=2)
        block = value_grid(rows, "concept_steering", "target-model")
        measured = measure_generation(block, costs=likelihood_curves(rows, "target-model"))
        np.testing.assert_allclose(measured.ratios[NATIVE], math.exp(0.5 * 0.4))  # peak of the ratings is factor 0.4

    def test_with_a_limit_only_factors_up_to_the_matched_one_are_selected_from(self):
        def cost(*changes):
            """Factors 0.2, 0.4, …: log perplexity ratios, on one neutral text."""
            factors = 0.2 * np.arange(1, len(changes) + 1)
            return Curve(factors, np.zeros((len(changes), 1)), -np.array(changes)[:, None], np.ones(1))

        factors = np.array([0.2, 0.4, 0.6])

        def kept(cost, limit=1.3, factors=factors):
            among, reached = factors_within_damage(factors, cost, limit)
            return factors[among].tolist(), reached

        assert kept(cost(0.1, 0.2, 0.4)) == ([0.2, 0.4], True)  # ln 1.3 = 0.26
        assert kept(cost(0.1, 0.4, 0.1)) == ([0.2], True)  # the first crossing counts
        assert kept(cost(0.4, 0.5, 0.6)) == ([], True)  # the smallest is too much: do not steer
        assert kept(cost(0.1)) == ([0.2], False)  # above the cost's grid nothing is known
        assert kept(cost(0.1), factors=factors[1:]) == kept(None) == ([], False)
        assert kept(None, factors=np.zeros(1)) == ([0.0], False)  # a prompt changes no neutral text
        assert kept(None, math.inf) == (factors.tolist(), False)

    def test_an_arm_that_does_too_much_at_its_smallest_factor_does_not_steer(self):
        rows = make_rows({"native": 1.0}, n_concepts=2, cost=2.0)  # log ratio 0.4 at factor 0.2: more than ln 1.3
        block = value_grid(rows, "concept_steering", "target-model")
        measured = measure_generation(block, costs=likelihood_curves(rows, "target-model"), limit=1.3)
        assert measured.factors[NATIVE].tolist() == [0.0, 0.0]
        assert measured.ratios[NATIVE].tolist() == [1.0, 1.0]
        np.testing.assert_array_equal(measured.scores[NATIVE], measured.scores[ArmKey("", "unsteered")])

    def test_an_arm_that_was_not_measured_on_a_concept_has_no_score_there_at_any_limit(self):
        rows = make_rows({"native": 1.0}, n_concepts=2, cost=2.0)
        costs = likelihood_curves(rows, "target-model")
        block = value_grid(
            [r for r in rows if r.arm == "unsteered" or r.concept == "c00"], "concept_steering", "target-model"
        )
        for limit in (1.3, math.inf):
            measured = measure_generation(block, costs=costs, limit=limit)
            assert math.isnan(measured.factors[NATIVE][1])
            assert np.isnan(measured.scores[NATIVE][1]).all()
            assert np.isfinite(measured.scores[NATIVE][0]).all()

    def test_without_a_cost_no_factor_is_known_to_be_within_a_limit(self):
        block = value_grid(make_rows({"native": 1.0}, n_concepts=2), "concept_steering", "target-model")
        measured = measure_generation(block, limit=1.3)
        assert np.isnan(measured.factors[NATIVE]).all()
        assert np.isnan(measured.scores[NATIVE]).all()
        assert measured.scored[NATIVE] == 0

    def test_unsteered_rows_of_all_concepts_give_way_to_a_concepts_own(self):
        def row(arm, concept, item, value, factor=0.2):
            return Row(
                "concept_steering", "t", "", arm, concept, 0.0 if arm == "unsteered" else factor, item, "score", value
            )

        rows = [
            row("unsteered", "", "p", 0.0), row("unsteered", "", "q", 0.5), row("unsteered", "d", "q", 0.75),
            *(row("native", concept, item, 1.0) for concept in "cd" for item in "pq"),
        ]  # fmt: skip
        measured = measure_generation(value_grid(rows, "concept_steering", "t"))
        np.testing.assert_allclose(measured.effects[NATIVE], [[1.0, 0.5], [1.0, 0.25]])
        assert (measured.scored[ArmKey("", "unsteered")], measured.totals[ArmKey("", "unsteered")]) == (4, 4)

    def test_rows_of_another_target_do_not_enter(self):
        mine, other = make_rows(n_concepts=2), make_rows(n_concepts=2, target="other", cost=3.0, seed=9)
        alone, mixed = (measure_likelihood(likelihood_curves(rows, "target-model")) for rows in (mine, [*other, *mine]))
        np.testing.assert_array_equal(alone.effects[NATIVE], mixed.effects[NATIVE])


class TestBootstrap:
    def test_with_one_item_a_concept_it_is_the_bootstrap_of_the_mean(self):
        values = np.random.default_rng(1).normal(0.3, 1, 25)
        got = of_means(native=values).effect(NATIVE)
        want = scipy_stats.bootstrap(
            (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
        ).confidence_interval
        assert got.value == pytest.approx(values.mean())
        assert got[1:3] == pytest.approx((want.low, want.high), abs=0.03)

    def test_items_widen_the_interval_as_the_variance_of_two_stages_says(self):
        # Every concept holds the items -1 and 1, twice each: concepts do not differ, items have variance 1, so the
        # mean over 20 concepts x 4 drawn items has variance 1 / 80.
        boot = hierarchical_bootstrap({NATIVE: np.tile([-1.0, 1.0, -1.0, 1.0], (20, 1))}, n=20_000)
        assert boot.replicates[NATIVE].mean(axis=1).var() == pytest.approx(1 / 80, rel=0.05)

    def test_neutral_texts_are_drawn_once_for_all_concepts(self):
        # Neutral texts -1 and 1 shared by 20 concepts: the mean of 2 drawn has variance 1/2, however many concepts.
        neutral = {NATIVE: np.tile([-1.0, 1.0], (20, 1))}
        boot = hierarchical_bootstrap({NATIVE: np.zeros((20, 3))}, neutral, n=20_000)
        assert boot.replicates[NATIVE].mean(axis=1).var() == pytest.approx(0.5, rel=0.05)

    def test_arms_share_their_draws_so_that_a_constant_difference_has_no_interval(self):
        values = np.random.default_rng(0).normal(size=(6, 5))
        boot = hierarchical_bootstrap({NATIVE: values, LINEAR: values - 0.25})
        assert boot.difference(LINEAR, NATIVE) == (pytest.approx(-0.25), None, None, 6)
        assert boot.effect(NATIVE).low is not None

    def test_concepts_with_fewer_items_draw_fewer(self):
        values = np.array([[1.0, math.nan, math.nan], [2.0, 4.0, math.nan]])
        boot = hierarchical_bootstrap({NATIVE: values}, n=500)
        np.testing.assert_allclose(boot.means[NATIVE], [1.0, 3.0])
        assert set(np.unique(boot.replicates[NATIVE])) == {1.0, 2.0, 3.0, 4.0}

    def test_a_concept_missing_for_one_arm_leaves_the_pair_and_not_the_arm(self):
        boot = of_means(native=[1.0, 2.0, 9.0], linear=[0.5, 1.0, math.nan])
        linear = ArmKey("", "linear")
        assert boot.effect(NATIVE).n == 3
        assert boot.difference(linear, NATIVE)[::3] == (-0.75, 2)
        # sum(0.5, 1) / sum(1, 2) = 0.5: native's third concept is not in the ratio
        assert boot.recovered(linear, NATIVE).value == pytest.approx(0.5)

    def test_recovered_fraction_is_a_ratio_of_sums_and_not_clipped(self):
        # (0.9 + 0.1 + 2) / (1 + 0.1 + 1) = 3 / 2.1 = 1.428571; the mean of ratios would be 1.3
        boot = of_means(native=[1.0, 0.1, 1.0], linear=[0.9, 0.1, 2.0])
        assert boot.recovered(ArmKey("", "linear"), NATIVE).value == pytest.approx(1.428571, abs=1e-6)

    def test_nothing_is_recovered_of_a_native_that_may_be_zero(self):
        boot = of_means(native=[1.0, -0.9, 0.2, -0.1], linear=[0.9, 0.1, 0.2, 0.3])
        assert boot.recovered(ArmKey("", "linear"), NATIVE) == (None, None, None, 4)

    @pytest.mark.parametrize(
        ("values", "expected"),
        [([], (None, None, None, 0)), ([math.nan] * 2, (None, None, None, 0)), ([0.5], (0.5, None, None, 1))],
    )
    def test_too_few_concepts_have_no_interval_and_never_nan(self, values, expected):
        assert of_means(native=values).effect(NATIVE) == expected

    def test_a_constant_has_no_interval_but_counts_as_above_zero(self):
        estimate = of_means(native=[0.5, 0.5]).effect(NATIVE)
        assert estimate == (0.5, None, None, 2)
        assert estimate.positive
        assert not Estimate(0.5, None, None, 1).positive

    def test_the_seed_alone_decides_the_draws(self):
        values = {NATIVE: np.random.default_rng(0).normal(size=(5, 4))}
        first, second, third = (hierarchical_bootstrap(values, seed=seed).effect(NATIVE) for seed in (1, 1, 2))
        assert first == second != third

    def test_unequal_shapes_are_refused(self):
        with pytest.raises(ValueError, match="same concepts and items"):
            hierarchical_bootstrap({NATIVE: np.zeros((2, 3)), LINEAR: np.zeros((2, 4))})

    def test_intervals_cover_a_known_mean(self):
        # 200 data sets of 20 concepts; a percentile interval covers a little under 95 %.
        rng = np.random.default_rng(0)
        covered = 0
        for seed in range(200):
            truth = rng.normal(0.3, 0.5, size=(20, 1)) + rng.normal(0, 0.5, size=(20, 5))
            _, low, high, _ = hierarchical_bootstrap({NATIVE: truth}, n=500, seed=seed).effect(NATIVE)
            covered += low <= 0.3 <= high
        assert 180 <= covered <= 199


class TestPermutation:
    def test_counts_the_sign_patterns_by_hand(self):
        # |+-1 +-2 +-3| >= 6: +++ and ---, 2 of 8. Of (1, 1, -1), sum 1: all 8 reach 1.
        assert sign_flip_p([1.0, 2.0, 3.0]) == 0.25
        assert sign_flip_p([1.0, 1.0, -1.0]) == 1.0
        assert sign_flip_p([0.0, 0.0]) == 1.0

    def test_agrees_with_scipy(self):
        values = np.random.default_rng(3).normal(0.4, 1, 10)
        want = scipy_stats.permutation_test(
            (values,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
        )
        assert sign_flip_p(values) == pytest.approx(want.pvalue)

    def test_many_concepts_are_sampled_and_agree_with_the_exact_count(self):
        values = np.random.default_rng(4).normal(0.4, 1, 14)
        patterns = np.array(list(itertools.product([-1, 1], repeat=14)))
        exact = np.mean(np.abs(patterns @ values) >= abs(values.sum()) - 1e-9)
        assert sign_flip_p(values) == pytest.approx(exact, abs=0.01)
        assert sign_flip_p(values) == sign_flip_p(values)

    def test_one_difference_has_no_p_and_nan_is_refused(self):
        assert sign_flip_p([1.0]) is None
        with pytest.raises(ValueError, match="NaN"):
            sign_flip_p([1.0, math.nan])


class TestHolm:
    def test_by_hand(self):
        # sorted 0.01, 0.02, 0.03, 0.2 times 4, 3, 2, 1 = 0.04, 0.06, 0.06, 0.2
        assert holm([0.03, 0.01, 0.2, 0.02]) == pytest.approx([0.06, 0.04, 0.2, 0.06])

    def test_never_above_one_and_never_falling(self):
        assert holm([0.6, 0.5]) == [1.0, 1.0]
        assert holm([]) == []

    @pytest.mark.parametrize("p", [[0.1, math.nan], [1.2], [-0.1]])
    def test_refuses_what_is_no_probability(self, p):
        with pytest.raises(ValueError, match="not all in"):
            holm(p)


class TestEquivalence:
    def test_small_differences_are_equivalent_and_large_ones_not(self):
        native = np.full(10, 1.0)
        near, far = native + np.linspace(-0.04, 0.04, 10), native - 0.3 + np.linspace(-0.04, 0.04, 10)
        boot = of_means(native=native, near=near, far=far)
        # margin 0.1 of native's 1.0
        assert tost(boot, ArmKey("", "near"), NATIVE)[::3] == (True, pytest.approx(0.1))
        assert not tost(boot, ArmKey("", "far"), NATIVE).equivalent
        assert tost(boot, ArmKey("", "far"), NATIVE, margin=0.4).equivalent

    def test_a_wide_interval_is_not_equivalence(self):
        boot = of_means(native=np.full(6, 1.0), loose=[0.0, 2.0, 0.2, 1.8, 0.4, 1.6])
        assert not tost(boot, ArmKey("", "loose"), NATIVE).equivalent

    def test_an_arm_equal_to_native_is_equivalent_without_an_interval(self):
        boot = of_means(native=[1.0, 0.5, 2.0], same=[1.0, 0.5, 2.0])
        assert tost(boot, ArmKey("", "same"), NATIVE)[:3] == (True, None, None)


GOOD, BAD = Estimate(0.5, 0.3, 0.7, 10), Estimate(0.1, -0.1, 0.3, 10)


class TestVerdict:
    beaten = [Comparison(RANDOM, GOOD, 0.002), Comparison(MEAN, GOOD, 0.01)]

    def test_all_conditions_met_transfers(self):
        assert verdict(GOOD, GOOD, self.beaten, 0.02, False).word == "transfers"
        assert verdict(GOOD, GOOD, self.beaten, 0.02, True).word == "equivalent to native"

    @pytest.mark.parametrize(
        ("native", "effect", "comparisons", "p", "word", "why"),
        [
            (BAD, GOOD, beaten, 0.01, "native itself does not steer", "not above 0"),
            (Estimate(0.5, None, None, 1), GOOD, beaten, 0.01, "no evidence", "at least 2"),
            (GOOD, BAD, beaten, 0.01, "no evidence", "its effect 0.100"),
            (GOOD, GOOD, [], 1.0, "no evidence", "no control"),
            (
                GOOD,
                GOOD,
                [*beaten, Comparison(ArmKey("", "wrong-concept"), BAD, 0.2)],
                0.2,
                "no evidence",
                "wrong-concept",
            ),
            (GOOD, GOOD, beaten, 0.06, "no evidence", "against mean, p = 0.060 after Holm"),
        ],
    )
    def test_each_missing_condition_is_named(self, native, effect, comparisons, p, word, why):
        got = verdict(native, effect, comparisons, p, True)
        assert got.word == word
        assert why in got.why

    def test_an_arm_like_native_that_the_mean_vector_equals_is_no_evidence(self):
        rng = np.random.default_rng(0)
        native = rng.normal(1, 0.1, 10)
        boot = of_means(native=native, linear=native + rng.normal(0, 0.01, 10), mean=native + rng.normal(0, 0.01, 10))
        got = verdicts(boot, [ArmKey("", "linear")], NATIVE, [MEAN])[ArmKey("", "linear")]
        assert got.word == "no evidence"
        assert "does not beat mean" in got.why

    def test_controls_of_another_source_do_not_count(self):
        rng = np.random.default_rng(0)
        native = rng.normal(1, 0.1, (10, 1))
        arms = {NATIVE: native, LINEAR: native * 0.5, ArmKey("other", "shuffled-map"): native * 0.9, RANDOM: native * 0}
        boot = hierarchical_bootstrap(arms)
        controls = [ArmKey("other", "shuffled-map"), RANDOM]
        assert verdicts(boot, [LINEAR], NATIVE, controls)[LINEAR].word == "transfers"
        mine = hierarchical_bootstrap({**arms, ArmKey("source-model", "shuffled-map"): native * 0.9})
        controls.append(ArmKey("source-model", "shuffled-map"))
        assert verdicts(mine, [LINEAR], NATIVE, controls)[LINEAR].word == "no evidence"

    def test_holm_runs_over_the_arms(self):
        # 6 concepts, all differences above 0: p = 2 / 64 = 0.03125 alone, 0.0625 beside another such arm
        rng = np.random.default_rng(0)
        native = rng.normal(1, 0.1, (6, 1))
        arms = {
            NATIVE: native,
            LINEAR: native * 0.5,
            ArmKey("source-model", "mlp"): native * 0.6,
            RANDOM: native * 0.01,
        }
        boot = hierarchical_bootstrap(arms)
        assert verdicts(boot, [LINEAR], NATIVE, [RANDOM])[LINEAR].word == "transfers"
        both = verdicts(boot, [LINEAR, ArmKey("source-model", "mlp")], NATIVE, [RANDOM])
        assert both[LINEAR] == ("no evidence", "against random, p = 0.062 after Holm (n=6 concepts)")

    def test_without_native_there_is_no_verdict(self):
        assert (
            verdicts(of_means(linear=[1.0, 2.0]), [ArmKey("", "linear")], NATIVE, [])[ArmKey("", "linear")].word
            == "no evidence"
        )

    def test_a_null_arm_is_seldom_said_to_transfer(self):
        """20 seeds; the null arm's values come from the distribution of the controls, native's do not."""
        found = 0
        for seed in range(20):
            rng = np.random.default_rng(seed)
            shape = (20, 8)
            arms = {arm: rng.normal(0, 0.3, (20, 1)) + rng.normal(0, 0.5, shape) for arm in (LINEAR, RANDOM, MEAN)}
            arms[NATIVE] = rng.normal(1, 0.3, (20, 1)) + rng.normal(0, 0.5, shape)
            boot = hierarchical_bootstrap(arms, n=1000, seed=seed)
            found += verdicts(boot, [LINEAR], NATIVE, [RANDOM, MEAN])[LINEAR].word in (
                "transfers",
                "equivalent to native",
            )
        assert found <= 2

    def test_a_null_difference_to_one_control_is_seldom_believed(self):
        """The hardest null: arm and control steer alike, so that only the paired comparison can say no."""
        found = 0
        for seed in range(20):
            rng = np.random.default_rng(100 + seed)
            concept = rng.normal(0.5, 0.3, (20, 1))
            arms = {arm: concept + rng.normal(0, 0.5, (20, 8)) for arm in (LINEAR, MEAN)}
            arms[NATIVE] = concept + 0.5 + rng.normal(0, 0.5, (20, 8))
            boot = hierarchical_bootstrap(arms, n=1000, seed=seed)
            found += verdicts(boot, [LINEAR], NATIVE, [MEAN])[LINEAR].word != "no evidence"
        assert found <= 2

    def test_a_real_effect_is_found(self):
        measured = measure_likelihood(likelihood_curves(make_rows(n_concepts=10, wobble=0.3), "target-model"))
        boot = hierarchical_bootstrap(measured.effects, measured.neutral)
        arms = [LINEAR, ArmKey("source-model", "identity")]
        got = verdicts(boot, arms, NATIVE, [RANDOM, MEAN])
        assert [got[arm].word for arm in arms] == ["transfers", "no evidence"]


class TestAgreement:
    def test_kappa_by_hand(self):
        # a = 0 1 2 2, b = 0 1 2 1: mean (a-b)^2 = 1/4. All 16 pairs: a=0: 0+1+4+1 = 6, a=1: 1+0+1+0 = 2,
        # a=2, twice: 4+1+0+1 = 6 each. Sum 20, mean 1.25. kappa = 1 - 0.25 / 1.25 = 0.8.
        # Ranks 1 2 3.5 3.5 and 1 2.5 4 2.5: covariance 3.75, variances 4.5 and 4.5: Spearman 3.75 / 4.5 = 0.8333.
        assert agreement([0, 1, 2, 2], [0, 1, 2, 1]) == (pytest.approx(0.8), pytest.approx(0.8333, abs=1e-4), 4)

    def test_agrees_with_sklearn(self):
        from sklearn.metrics import cohen_kappa_score

        rng = np.random.default_rng(0)
        a = rng.integers(0, 3, 200)
        b = np.clip(a + rng.integers(-1, 2, 200), 0, 2)
        assert agreement(a, b).kappa == pytest.approx(cohen_kappa_score(a, b, weights="quadratic"))

    def test_unscored_pairs_are_left_out(self):
        assert agreement([0, None, 2, 1], [0, 1, 2, None]) == (pytest.approx(1.0), pytest.approx(1.0), 2)

    def test_what_can_not_be_had_is_none(self):
        assert agreement([], []) == (None, None, 0)
        assert agreement([1, 1, 1], [1, 1, 1]) == (None, None, 3)
        assert agreement([1, 1, 1], [0, 1, 2]).spearman is None
        with pytest.raises(ValueError, match="2 and 1 ratings"):
            agreement([1, 2], [1])
