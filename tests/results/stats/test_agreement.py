"""Agreement of judges, by hand and against scikit-learn."""

import numpy as np
import pytest

from steer_bench.results.stats.agreement import agreement


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
