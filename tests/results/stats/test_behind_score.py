"""What stands beside a score, on tables small enough to work out by hand."""

import math

import numpy as np
import pytest

from steer_bench.results.stats.behind_score import FewShot, anti_steered, few_shot_equal
from steer_bench.results.stats.grid import NATIVE
from steer_bench.results.stats.simulate import values_of
from steer_bench.results.stats.values import REFERENCE


class TestFewShot:
    def test_n_eq_lies_between_the_ns_in_log_n(self):
        # effects 0.1 at n=1, 0.2 at 2, 0.4 at 8. 0.25 is a quarter of the way from log 2 to log 8: 2 * 4 ** 0.25 = 2.828427.
        found = few_shot_equal({8: 0.4, 1: 0.1, 2: 0.2}, 0.25)
        assert found == (pytest.approx(2 * 4**0.25), "")
        assert str(found) == "2.83"
        assert few_shot_equal({8: 0.4, 1: 0.1, 2: 0.2}, 0.5) == (8.0, ">")  # more than any that was measured

    def test_at_a_measured_n_it_is_that_n_and_where_the_curve_falls_the_first_crossing_counts(self):
        assert few_shot_equal({1: 0.1, 2: 0.2, 8: 0.4}, 0.2) == (2.0, "")
        assert few_shot_equal({1: 0.1, 2: 0.3, 4: 0.1, 8: 0.4}, 0.2) == (pytest.approx(math.sqrt(2)), "")
        assert few_shot_equal({1: 0.1, 2: 0.3}, 0.05) == (1.0, "<")

    def test_without_few_shot_arms_or_an_effect_it_cannot_be_said(self):
        assert str(few_shot_equal({}, 0.3)) == "n/a"
        assert few_shot_equal({1: 0.1}, None) == FewShot(None)


class TestAntiSteered:
    def test_a_sample_goes_the_wrong_way_where_its_effect_is_below_zero(self):
        # Effects over wrong-concept: 0.2, -0.1; 0.0, unmeasured: 1 of 3, though every value is above 0.
        values = values_of(
            {NATIVE: np.array([[0.5, 0.2], [0.4, math.nan]]), REFERENCE: np.array([[0.3, 0.3], [0.4, 0.1]])}
        )
        assert anti_steered(values, NATIVE) == (pytest.approx(1 / 3), 3)

    def test_of_nothing_there_is_no_share(self):
        values = values_of({NATIVE: np.full((1, 2), math.nan), REFERENCE: np.zeros((1, 2))})
        assert anti_steered(values, NATIVE) == (None, 0)
