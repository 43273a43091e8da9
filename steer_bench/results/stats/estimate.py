"""Estimates: a mean, or a ratio of means, over concepts with its interval.

(n_concepts,) -> [estimate]
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

from steer_bench.results.rows import Array

FEWEST = 5
"""Concepts below which there is no interval."""
HALL = 0.35
"""Share of Hall's interval in that of a mean."""


class Estimate(NamedTuple):
    """A point estimate with its interval; None when undefined, never NaN."""

    value: float | None
    low: float | None
    high: float | None
    """The interval is None with fewer than 5 concepts; of a ratio it may be unbounded, -inf or inf."""
    n: int
    """Concepts behind it."""

    @property
    def positive(self) -> bool:
        """Whether the interval lies above 0."""
        return self.low is not None and self.low > 0


NOTHING = Estimate(None, None, None, 0)


def mean_estimate(values: Array, *, level: float = 0.95, bounds: tuple[float, float] | None = None) -> Estimate:
    """Return the mean of (n_concepts,) values with its interval; NaN is left out.

    The interval lies between Student's and Hall's (1992), which removes skewness by a cubic and so is shifted and wider on the
    side of the long tail: of those tried the one whose coverage holds best (benchmarks/STATISTICS.md). `bounds`: the least and
    the most that a value can be; with them values that are all equal have an exact bound, else no interval.
    """
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    n = len(known)
    if not n:
        return NOTHING
    mean = math.fsum(known) / n
    if n < FEWEST:
        return Estimate(mean, None, None, n)
    if np.ptp(known) <= 1e-12 * np.abs(known).max():  # equal but for rounding
        return _all_equal(float(known[0]), n, level, bounds)
    sd = math.sqrt(math.fsum((known - mean) ** 2) / (n - 1))
    skewness = math.fsum(((known - mean) / sd) ** 3) * n / (n - 1) / (n - 2)
    least, most = bounds or (-math.inf, math.inf)
    low = max(least, mean - sd * _quantile(1 - (1 - level) / 2, n, skewness))
    high = min(most, mean - sd * _quantile((1 - level) / 2, n, skewness))
    return Estimate(mean, low, high, n)


def _quantile(level: float, n: int, skewness: float) -> float:
    """Return a quantile of (mean - truth) / sd: Student's and Hall's, mixed."""
    student = _student(level, n) / math.sqrt(n)
    shifted = student - skewness / (6 * n)
    hall = 3 / skewness * (float(np.cbrt(1 + skewness * shifted)) - 1) if abs(skewness) > 1e-6 else shifted
    return (1 - HALL) * student + HALL * hall


@lru_cache(maxsize=1024)
def _student(level: float, n: int) -> float:
    return float(stats.t.ppf(level, n - 1))


def _all_equal(value: float, n: int, level: float, bounds: tuple[float, float] | None) -> Estimate:
    """Return the exact bound: were more than a share q of concepts unlike these, n alike would come up less often than 1 - level."""
    if bounds is None:
        return Estimate(value, None, None, n)
    q = 1 - (1 - level) ** (1 / n)
    return Estimate(value, value - q * (value - bounds[0]), value + q * (bounds[1] - value), n)


def ratio_estimate(top: Array, bottom: Array, *, level: float = 0.95) -> Estimate:
    """Return sum(top) / sum(bottom) over the concepts that both have, with Fieller's interval (Fieller 1954).

    The value is None where the sum of bottoms is not above 0; the interval is unbounded where bottom's own may hold 0.
    """
    both = np.isfinite(top) & np.isfinite(bottom)
    above, below = top[both], bottom[both]
    n = len(above)
    total = math.fsum(below)
    if not n or total <= 0:
        return Estimate(None, None, None, n)
    value = math.fsum(above) / total
    if n < FEWEST:
        return Estimate(value, None, None, n)
    t = _student((1 + level) / 2, n)
    x, y = math.fsum(above) / n, total / n
    scale = t * t / (n - 1) / n
    xx, yy = scale * math.fsum((above - x) ** 2), scale * math.fsum((below - y) ** 2)
    xy = scale * math.fsum((above - x) * (below - y))
    # (x - r y)^2 <= t^2 var(x - r y): a r^2 - 2 b r + c <= 0
    a, b, c = y * y - yy, x * y - xy, x * x - xx
    if a <= 0:
        return Estimate(value, -math.inf, math.inf, n)
    root = math.sqrt(max(b * b - a * c, 0.0))
    return Estimate(value, (b - root) / a, (b + root) / a, n)
