"""Power: what a number of concepts can find.

n, standard deviation of the differences, number of claims -> [smallest difference found 80 % of the time]
"""

import math

from scipy import optimize, stats

from steer_bench.results.stats.tests import ALPHA, fewest_concepts

POWER = 0.8


def detectable(n: int, sd: float, n_claims: int = 1) -> float | None:
    """Return the smallest mean difference that the one-sided test finds with 80 % probability as the hardest of the claims.

    sd: of the paired differences over concepts, in their units. By the noncentral t, which the sign-flip test follows to within
    a few percent (benchmarks/STATISTICS.md). None where n concepts are too few for any verdict.
    """
    if n < fewest_concepts(n_claims):
        return None
    reached = stats.t.ppf(1 - ALPHA / n_claims, n - 1)
    shift = optimize.brentq(lambda shift: stats.nct.sf(reached, n - 1, shift) - POWER, 0.0, 10 * reached + 10)
    return float(shift) * sd / math.sqrt(n)
