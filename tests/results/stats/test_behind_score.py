"""What stands beside a score, on tables small enough to work out by hand."""

import math

import pytest

from steer_bench.results.stats.behind_score import FewShot, few_shot_equal


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
