"""Estimates: intervals against scipy and against the equations they solve."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from steer_bench.results.stats.estimate import HALL, Estimate, mean_estimate, ratio_estimate


class TestMean:
    def test_of_symmetric_values_it_is_students_interval(self):
        values = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
        want = stats.t.interval(0.95, 6, loc=4, scale=values.std(ddof=1) / math.sqrt(7))
        assert mean_estimate(values) == (4.0, pytest.approx(want[0]), pytest.approx(want[1]), 7)

    def test_of_skewed_values_it_lies_between_students_and_halls(self):
        values = np.array([0.1, 0.2, 0.2, 0.3, 0.4, 0.5, 0.9, 2.0])
        n, mean, sd = 8, values.mean(), values.std(ddof=1)
        third = stats.skew(values, bias=False)

        def hall(t):  # Hall (1992): g(T) = T + c T^2 / 3 + c^2 T^3 / 27 + c / (6 n) has Student's quantiles
            return optimize.brentq(lambda x: x + third * x**2 / 3 + third**2 * x**3 / 27 + third / (6 * n) - t, -50, 50)

        t = stats.t.ppf(0.975, n - 1) / math.sqrt(n)
        low = mean - sd * ((1 - HALL) * t + HALL * hall(t))
        high = mean - sd * ((1 - HALL) * -t + HALL * hall(-t))
        got = mean_estimate(values)
        assert got == (pytest.approx(mean), pytest.approx(low), pytest.approx(high), 8)
        assert got.high - mean > mean - got.low  # the long tail is above

    def test_the_mirror_image_has_the_mirrored_interval(self):
        values = np.random.default_rng(0).lognormal(size=9)
        got, mirrored = mean_estimate(values), mean_estimate(-values)
        assert (mirrored.low, mirrored.high) == (pytest.approx(-got.high), pytest.approx(-got.low))

    def test_the_concept_is_the_unit_so_more_items_of_the_same_mean_change_nothing(self):
        items = np.random.default_rng(1).normal(size=(8, 4))
        assert mean_estimate(np.tile(items, 50).mean(axis=1)) == pytest.approx(mean_estimate(items.mean(axis=1)))

    def test_below_five_concepts_there_is_no_interval_and_unmeasured_ones_are_left_out(self):
        assert mean_estimate(np.array([0.5, math.nan, 1.0, 0.0, 0.7])) == (pytest.approx(0.55), None, None, 4)
        assert mean_estimate(np.array([0.5, math.nan, 1.0, 0.0, 0.7, 0.8])).low is not None
        assert mean_estimate(np.array([math.nan])) == (None, None, None, 0)

    def test_all_equal_ratings_get_the_exact_bound(self):
        # 12 concepts at 0 of 0..2: were more than q = 1 - 0.05 ** (1 / 12) = 0.2209 of all concepts above 0, 12 at 0 would come up
        # in less than 5 % of samples; so the mean is at most 2 q = 0.4418.
        assert mean_estimate(np.zeros(12), bounds=(0.0, 2.0)) == (0.0, 0.0, pytest.approx(0.4418, abs=1e-4), 12)
        q = 1 - 0.05 ** (1 / 6)
        assert mean_estimate(np.full(6, 0.5), bounds=(0.0, 1.0))[1:3] == pytest.approx((0.5 - 0.5 * q, 0.5 + 0.5 * q))
        assert mean_estimate(np.full(6, 0.5)) == (0.5, None, None, 6)
        rounded = np.array([0.3, 0.1 + 0.2, 0.3, 0.3, 0.3, 0.3])  # 0.30000000000000004
        assert mean_estimate(rounded).low is None

    def test_an_interval_keeps_within_what_a_value_can_be(self):
        values = np.array([0.0, 0.0, 0.0, 0.0, 0.2])
        assert mean_estimate(values).low < 0
        assert mean_estimate(values, bounds=(0.0, 1.0)).low == 0

    def test_two_equal_values_open_no_gate(self):
        assert not mean_estimate(np.array([0.5, 0.5])).positive
        assert not mean_estimate(np.full(8, 0.5)).positive  # no interval, no claim
        assert Estimate(0.5, 0.1, 0.9, 5).positive
        assert not Estimate(0.5, 0.0, 0.9, 5).positive


class TestRatio:
    native = np.array([0.3, 0.1, 0.4, 0.2, 0.5, 0.3])
    arm = np.array([0.2, 0.1, 0.3, 0.2, 0.4, 0.1])

    def test_its_ends_are_where_the_difference_of_means_just_reaches_students_quantile(self):
        got = ratio_estimate(self.arm, self.native)
        assert got.value == pytest.approx(1.3 / 1.8)
        for end in (got.low, got.high):
            difference = self.arm - end * self.native
            t = difference.mean() / (difference.std(ddof=1) / math.sqrt(6))
            assert abs(t) == pytest.approx(stats.t.ppf(0.975, 5))
        assert got.low < got.value < got.high

    def test_it_is_a_ratio_of_sums_and_not_clipped(self):
        # (0.9 + 0.1 + 2) / (1 + 0.1 + 1) = 3 / 2.1; the mean of ratios would be 1.3
        assert ratio_estimate(np.array([0.9, 0.1, 2.0]), np.array([1.0, 0.1, 1.0])) == (
            pytest.approx(3 / 2.1),
            None,
            None,
            3,
        )

    def test_where_native_may_do_nothing_it_is_unbounded(self):
        got = ratio_estimate(self.arm, np.array([1.0, -0.9, 0.2, -0.1, 0.8, -0.5]))
        assert got == (pytest.approx(1.3 / 0.5), -math.inf, math.inf, 6)
        assert not got.positive

    def test_of_a_native_that_does_nothing_there_is_no_fraction(self):
        assert ratio_estimate(self.arm, -self.native) == (None, None, None, 6)
        assert ratio_estimate(np.array([]), np.array([])) == (None, None, None, 0)

    def test_a_concept_that_one_lacks_is_in_neither_sum(self):
        arm = np.array([0.2, math.nan, 0.3, 0.2, 0.4, 0.1])
        assert ratio_estimate(arm, self.native) == ratio_estimate(np.delete(self.arm, 1), np.delete(self.native, 1))

    def test_of_itself_it_is_one(self):
        assert ratio_estimate(self.native, self.native) == (1.0, pytest.approx(1.0), pytest.approx(1.0), 6)
