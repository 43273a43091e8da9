"""Agreement: how far two judges say the same.

two lists of ratings -> [weighted kappa, Spearman]
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Agreement(NamedTuple):
    """Agreement of two judges on the replies both rated; None when undefined."""

    kappa: float | None
    """Quadratically weighted Cohen's kappa: 1 is perfect, 0 what chance gives."""
    spearman: float | None
    n: int
    """Replies both rated."""


def agreement(a: Sequence[float | None], b: Sequence[float | None]) -> Agreement:
    """Return quadratically weighted kappa (Cohen 1968) and Spearman's rank correlation; unscored pairs are left out.

    The weighted kappa is 1 - mean (a - b)^2 over the pairs / mean (a - b)^2 over all combinations of an a with a b.

    >>> agreement([0, 1, 2, None], [0, 1, 2, 1])
    Agreement(kappa=1.0, spearman=1.0, n=3)
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} ratings; give both judges' ratings of the same replies, in one order")
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    if len(pairs) < 2:
        return Agreement(None, None, len(pairs))
    first, second = np.array(pairs, dtype=float).T
    by_chance = float(np.mean((first[:, None] - second[None, :]) ** 2))
    kappa = None if by_chance == 0 else 1 - float(np.mean((first - second) ** 2)) / by_chance
    varies = np.ptp(first) > 0 and np.ptp(second) > 0
    return Agreement(kappa, float(stats.spearmanr(first, second).statistic) if varies else None, len(pairs))
