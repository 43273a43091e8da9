"""Power: what a number of concepts can find.

n, standard deviation of the differences, number of claims -> [smallest difference found 80 % of the time]
"""

import math

from scipy import optimize, stats

from steer_bench.results.stats.tests import ALPHA, fewest_concepts

POWER = 0.8


def detectable(n: int, sd: float, n_claims: int = 1) -> float | None:
    """Return the smallest mean difference that the one-sided test finds with 80 % probability as the hardest of the claims.

    sd: of the paired differences over concepts, in their units, taken as normal. Where only the pattern of all signs passes, that is
    when all differences are above 0; else as in a t test of the level that the patterns allow, which is near enough
    (benchmarks/STATISTICS.md). None where n concepts are too few for any verdict.
    """
    if n < fewest_concepts(n_claims):
        return None
    alpha = ALPHA / n_claims
    if n < 30:  # p is a multiple of 2 ** -n
        patterns = math.floor(alpha * 2**n)
        if patterns == 1:
            return float(stats.norm.ppf(POWER ** (1 / n))) * sd
        alpha = patterns / 2**n
    reached = stats.t.ppf(1 - alpha, n - 1)
    shift = optimize.brentq(lambda shift: stats.nct.sf(reached, n - 1, shift) - POWER, 0.0, 10 * reached + 10)
    return float(shift) * sd / math.sqrt(n)
