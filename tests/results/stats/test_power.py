"""Power: against the definition and against the test itself."""

import math

import numpy as np
import pytest
from scipy import stats

from steer_bench.results.stats.power import detectable
from steer_bench.results.stats.tests import ALPHA, sign_flip_p


def test_the_t_test_finds_it_four_times_of_five():
    shift = detectable(70, 0.2, n_claims=3) / 0.2 * math.sqrt(70)
    assert stats.nct.sf(stats.t.ppf(1 - ALPHA / 3, 69), 69, shift) == pytest.approx(0.8)


def test_where_all_differences_have_to_be_above_zero_it_is_when_they_are_so_four_times_of_five():
    assert stats.norm.cdf(detectable(6, 1.0)) ** 6 == pytest.approx(0.8)
    assert stats.norm.cdf(detectable(8, 1.0, n_claims=4)) ** 8 == pytest.approx(0.8)


def test_it_is_proportional_to_the_spread_and_falls_with_concepts_and_rises_with_claims():
    assert detectable(24, 0.4) == pytest.approx(2 * detectable(24, 0.2))
    assert detectable(70, 0.2) < detectable(24, 0.2) < detectable(12, 0.2) < detectable(12, 0.2, n_claims=12)


def test_so_few_concepts_find_nothing():
    assert detectable(5, 0.2) is None
    assert detectable(7, 0.2, n_claims=4) is None
    assert detectable(8, 0.2, n_claims=4) is not None


@pytest.mark.parametrize("n", [6, 8, 12, 24])
def test_the_sign_flip_test_finds_it_as_often(n):
    rng = np.random.default_rng(n)
    shift = detectable(n, 1.0)
    found = np.mean([sign_flip_p(rng.normal(shift, 1, n), draws=2000) <= ALPHA for _ in range(400)])
    assert found == pytest.approx(0.8, abs=0.06)
