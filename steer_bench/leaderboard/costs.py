"""What arms cost at every factor: the effect-cost curve's other axis, in numbers.

rows -> mean cost of every target, arm and factor -> table
"""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

from steer_bench.leaderboard.entries import REPLIES, capability_tasks
from steer_bench.leaderboard.table import Line, Table, Text, number
from steer_bench.results import Results, Row
from steer_bench.stats import PERPLEXITY, UNSTEERED

COLUMNS = {
    "ratio": ("perplexity ratio", 2),
    "kl": ("KL", 2),
    "perplexity": ("reply perplexity", 1),
    "distinct_2": ("distinct-2", 2),
    "tokens": ("reply tokens", 1),
}
"""Cost -> its heading and decimals; capability tasks come after them, two decimals each."""
GEOMETRIC = ("ratio", "perplexity")
"""Costs whose mean is taken over logarithms."""


def costs_table(results: Sequence[Results]) -> Table | None:
    """Costs of every target, arm and factor, means over concepts and items; None where nothing but the score was measured."""
    capability = tuple(dict.fromkeys(task for result in results for task in capability_tasks(result.run)))
    several, lines, invalid = len(results) > 1, [], 0
    for result in results:
        plain = {(row.target, row.item): row for row in result.rows if row.task == PERPLEXITY and row.arm == UNSTEERED}
        found: dict[tuple[str, str, str, float], dict[str, list[float]]] = {}
        for row in result.rows:
            if row.task not in (PERPLEXITY, *REPLIES, *capability):
                continue
            where = found.setdefault((row.target, row.source, row.arm, row.factor), {})
            for name, value in _costs(row, plain.get((row.target, row.item)), capability):
                where.setdefault(name, []).append(value)
            invalid += row.task in capability and row.value is None
        for (target, source, arm, factor), costs in sorted(found.items()):
            if not costs.keys() & {"ratio", "kl", "perplexity", *capability}:
                continue
            means = {name: fmean(values) for name, values in costs.items()}
            means |= {name: math.exp(means[name]) for name in GEOMETRIC if name in means}
            keys = [Text(target), Text(source or "-"), Text(arm), Text(number(factor, 2), factor)]
            keys += [Text(str(result.run.get("name", "")))] if several else []
            digits = {**{name: digits for name, (_, digits) in COLUMNS.items()}, **dict.fromkeys(capability, 2)}
            lines.append(
                Line((*keys, *(Text(number(means.get(name), d), means.get(name)) for name, d in digits.items())))
            )
    if not lines:
        return None
    columns = ("target", "source", "arm", "factor", *(("run",) if several else ()))
    columns += (*(heading for heading, _ in COLUMNS.values()), *capability)
    remark = (
        "Means over concepts and items at every factor. Perplexity ratio and KL (unsteered to steered, nats a token): on neutral text. "
        "Reply perplexity: of the generated tokens only, under the unsteered model; beside it distinct-2 and length, for a loop has a low "
        "perplexity."
    )
    bad = f"{invalid} capability samples had log-likelihoods that are not finite: invalid, neither right nor wrong."
    return Table("Costs at every factor", columns, tuple(lines), (remark, bad) if invalid else (remark,))


def _costs(row: Row, plain: Row | None, capability: Sequence[str]) -> Iterable[tuple[str, float]]:
    """(cost, value) pairs of a row; logarithms for those of GEOMETRIC."""
    if row.task == PERPLEXITY:
        if row.value is not None and plain is not None and plain.value is not None:
            yield "ratio", plain.value - row.value
        if "kl" in row.ratings:
            yield "kl", row.ratings["kl"]
    elif row.task in REPLIES:
        yield "tokens", float(row.tokens)
        if "distinct_2" in row.ratings:
            yield "distinct_2", row.ratings["distinct_2"]
        if row.ratings.get("perplexity", 0.0) > 0:
            yield "perplexity", math.log(row.ratings["perplexity"])
    elif row.task in capability and row.value is not None:
        yield row.task, row.value
