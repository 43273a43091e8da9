"""Run: python -m pytest tests/judge/test_check.py"""

import math
import random

import pytest

from steer_bench.judge.check import auroc


def test_auroc_counts_wins_and_half_of_the_ties() -> None:
    # pairs (2,0) (2,1) (1,0) win, (1,1) ties: 3.5 of 4
    assert auroc([2.0, 1.0], [0.0, 1.0]) == 0.875
    # pairs of (0.9, 0.5) with (0.1, 0.5, 0.7): wins 3 and 1, one tie: 4.5 of 6
    assert auroc([0.9, 0.5], [0.1, 0.5, 0.7]) == pytest.approx(0.75)


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    rng = random.Random(0)
    positives, negatives = [rng.randrange(6) for _ in range(40)], [rng.randrange(5) for _ in range(30)]
    wins = sum((a > b) + (a == b) / 2 for a in positives for b in negatives)
    assert auroc(positives, negatives) == pytest.approx(wins / 1200)


def test_auroc_of_an_empty_side_is_none_and_nan_is_refused() -> None:
    assert auroc([], [1.0]) is None
    assert auroc([1.0], []) is None
    with pytest.raises(ValueError, match="NaN"):
        auroc([math.nan], [1.0])
