"""Headline: the one number that lm-eval prints for an arm, by the statistics of the leaderboard.

rows of one arm, with the unsteered ones -> float
"""

import math
from collections.abc import Sequence

from steer_bench.results.measures import LIKELIHOOD, PERPLEXITY, SPECIFICITY
from steer_bench.results.rows import Row
from steer_bench.results.stats.effects import likelihood_curves, measure_generation, measure_likelihood
from steer_bench.results.stats.grid import nan_mean, value_grid
from steer_bench.results.stats.specificity import specificity
from steer_bench.vectors.arms import UNSTEERED


def headline(rows: Sequence[Row], *, measure: str, target: str) -> float:
    """Return the arm's number; NaN where rows are missing (`--limit`).

    concept_likelihood: mean lift at matched damage, nats per token. steered_perplexity: perplexity ratio at the largest
    factor. specificity: change on texts of the vector's own concept minus that on the others', nats per token. Generation
    tasks: mean score at the selected factors.
    """
    if measure == PERPLEXITY:
        return _perplexity_ratio(rows)
    if measure == SPECIFICITY:
        differences = [matrix.difference.value for matrix in specificity(rows, target).values()]
        return next((value for value in differences if value is not None), math.nan)
    if measure == LIKELIHOOD:
        found = measure_likelihood(likelihood_curves(rows, target))
        per_concept = [nan_mean(found.effects[arm]) - nan_mean(found.neutral[arm]) for arm in found.effects]
    else:
        scores = measure_generation(value_grid(rows, measure, target))
        per_concept = [nan_mean(values) for arm, values in scores.scores.items() if arm.name != UNSTEERED]
    values = [float(value) for arm in per_concept for value in arm if math.isfinite(value)]
    return math.fsum(values) / len(values) if values else math.nan


def _perplexity_ratio(rows: Sequence[Row]) -> float:
    """Return perplexity over unsteered perplexity on the texts that both have, at the largest factor."""
    top = max(row.factor for row in rows)
    plain = {row.item: row for row in rows if row.arm == UNSTEERED}
    pairs = [(row, plain[row.item]) for row in rows if row.factor == top and row.item in plain and top > 0]
    pairs = [(row, base) for row, base in pairs if row.value is not None and base.value is not None]
    tokens = sum(row.tokens for row, _ in pairs)
    change = math.fsum(((row.value or 0.0) - (base.value or 0.0)) * row.tokens for row, base in pairs)
    return math.exp(-change / tokens) if tokens else math.nan
