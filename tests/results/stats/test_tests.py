"""Tests: patterns counted by hand, and corrections from their definitions."""

import math

import pytest

from steer_bench.results.stats.tests import holm


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
