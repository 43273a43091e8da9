"""Tests: patterns counted by hand, and corrections from their definitions."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from steer_bench.results.stats.tests import ALPHA, benjamini_hochberg, fewest_concepts, holm, sign_flip_p


class TestSignFlips:
    def test_counts_the_patterns_that_reach_the_sum(self):
        assert sign_flip_p([1.0, 2.0, 3.0]) == 1 / 8  # only +++ reaches 6
        assert sign_flip_p([1.0, 1.0, -1.0]) == 4 / 8  # sum 1: +++ and three with one minus
        assert sign_flip_p([-1.0, -2.0, -3.0]) == 1.0  # one-sided: all patterns reach -6
        assert sign_flip_p([0.0, 0.0]) == 1.0

    def test_six_concepts_all_above_zero_are_the_fewest_that_pass(self):
        assert sign_flip_p([1.0] * 5) == 1 / 32 > ALPHA
        assert sign_flip_p([1.0] * 6) == 1 / 64 < ALPHA

    def test_agrees_with_scipy(self):
        values = np.random.default_rng(3).normal(0.4, 1, 10)
        want = stats.permutation_test(
            (values,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="greater"
        )
        assert sign_flip_p(values) == pytest.approx(want.pvalue)

    def test_many_concepts_are_sampled_and_agree_with_the_exact_count(self):
        values = np.random.default_rng(4).normal(0.4, 1, 17)
        patterns = np.array(list(itertools.product([-1, 1], repeat=17)))
        exact = np.mean(patterns @ values >= values.sum() - 1e-9)
        assert 0.01 < exact < 0.2
        assert sign_flip_p(values) == pytest.approx(exact, abs=0.01)
        assert sign_flip_p(values) == sign_flip_p(values)

    def test_a_sampled_p_is_never_zero(self):
        assert sign_flip_p([1.0] * 70, draws=999) == 1 / 1000

    def test_unmeasured_concepts_are_left_out_and_of_none_p_is_one(self):
        assert sign_flip_p([1.0, math.nan, 2.0, 3.0]) == 1 / 8
        assert sign_flip_p([math.nan]) == 1.0


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


def test_benjamini_hochberg_agrees_with_scipy():
    p = [0.03, 0.01, 0.2, 0.02, 0.9, 0.01]
    assert benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p))
    assert benjamini_hochberg([]) == []


@pytest.mark.parametrize(("n_claims", "fewest"), [(0, 6), (1, 6), (2, 7), (4, 8), (12, 9), (100, 12)])
def test_fewest_concepts_is_the_first_n_at_which_all_differences_above_zero_pass(n_claims, fewest):
    assert fewest_concepts(n_claims) == fewest
    assert 2.0**-fewest * max(n_claims, 1) <= ALPHA < 2.0 ** -(fewest - 1) * max(n_claims, 1)
