"""Headline: the one number that lm-eval prints for an arm.

rows of one arm, with the unsteered ones -> float
"""

import math
from collections.abc import Sequence

from steer_bench.results.measures import PERPLEXITY, SPECIFICITY, headline_level
from steer_bench.results.rows import Row, Rows
from steer_bench.results.stats.grid import PLAIN, nan_mean
from steer_bench.results.stats.specificity import specificity
from steer_bench.results.stats.values import task_levels, task_values


def headline(rows: Sequence[Row], *, measure: str, target: str) -> float:
    """Return the arm's number, a mean over concepts; NaN where rows are missing (`--limit`).

    concept_likelihood: change of log-likelihood on the concept's texts, nats a token. steered_perplexity: perplexity ratio,
    geometric mean. specificity: change on texts of the vector's own concept minus that on the others', nats a token. Other tasks:
    the score. On a grid of factors without selection rows it is that at the largest factor.
    """
    if measure == SPECIFICITY:
        differences = [matrix.difference.value for matrix in specificity(rows, target).values()]
        return next((value for value in differences if value is not None), math.nan)
    table = Rows.of(rows)
    level = headline_level(task_levels(table, measure, target))
    if level == 0 and "select" not in table.texts["role"].present():
        factor = table.numbers["factor"]
        table = table.take((factor == factor.max(initial=0.0)) | table.texts["arm"].equal_to(PLAIN.name))
    found = task_values(table, measure, target, level=level)
    values = found.damage if measure == PERPLEXITY else {arm: nan_mean(items) for arm, items in found.items.items()}
    known = [value for arm in values if arm != PLAIN for value in values[arm].tolist() if math.isfinite(value)]
    if measure == PERPLEXITY:
        return math.exp(math.fsum(map(math.log, known)) / len(known)) if known else math.nan
    return math.fsum(known) / len(known) if known else math.nan
