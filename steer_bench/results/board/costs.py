"""What arms cost at every dose, besides the score.

rows -> mean cost of every target, arm and level of damage (or factor, on a grid) -> table
"""

import math
from collections.abc import Iterator, Sequence
from statistics import fmean

import numpy as np

from steer_bench.results.board.table import Line, Table, Text, number_cell
from steer_bench.results.file import Results
from steer_bench.results.measures import PERPLEXITY, REPLIES
from steer_bench.results.rows import RATING, Array, Rows
from steer_bench.vectors.arms import UNSTEERED

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
    """Return costs of every target, arm and dose, means over concepts and items; None where nothing but the score was measured."""
    capability = tuple(dict.fromkeys(task for result in results for task in result.run.capability))
    several, lines, invalid = len(results) > 1, [], 0
    for result in results:
        found: dict[tuple[str, str, str, float, float], dict[str, list[float]]] = {}
        for cost, rows, values in _costs(result.rows, capability):
            by_level = rows.numbers["level"] > 0  # there each concept has a factor of its own
            for chosen, column in ((by_level, "level"), (~by_level, "factor")):
                some = rows.take(chosen)
                for target, source, arm, number, mean in some.means(
                    values[chosen], ("target", "source", "arm", column)
                ):
                    doses = (number, 0.0) if column == "level" else (0.0, number)
                    key = (target, source, result.run.pooled.get(arm, arm), *doses)
                    found.setdefault(key, {}).setdefault(cost, []).append(mean)
        for task in capability:
            invalid += int(np.isnan(result.rows.where(task=task).numbers["value"]).sum())
        for (target, source, arm, level, factor), costs in sorted(found.items()):
            means = {cost: fmean(values) for cost, values in costs.items()}
            if not means.keys() & {"ratio", "kl", "perplexity", *capability}:
                continue
            means |= {name: math.exp(means[name]) for name in GEOMETRIC if name in means}
            dose = Text(f"damage {level:g}", level) if level else Text(f"factor {factor:g}" if factor else "-", factor)
            keys = (Text(target), Text(source or "-"), Text(arm), dose, *((Text(result.run.name),) if several else ()))
            digits = {**{name: digits for name, (_, digits) in COLUMNS.items()}, **dict.fromkeys(capability, 2)}
            lines.append(Line((*keys, *(number_cell(means.get(name), d) for name, d in digits.items()))))
    if not lines:
        return None
    columns = ("target", "source", "arm", "dose", *(("run",) if several else ()))
    columns += (*(heading for heading, _ in COLUMNS.values()), *capability)
    remark = (
        "Means over concepts and items. Perplexity ratio and KL (unsteered to steered, nats a token): on the neutral text of "
        "steered_perplexity, every text counted once. Reply perplexity: of the generated tokens only, under the unsteered model; beside "
        "it distinct-2 and length, for a loop has a low perplexity."
    )
    bad = f"{invalid} capability samples had log-likelihoods that are not finite: invalid, neither right nor wrong."
    return Table("Costs at every dose", columns, tuple(lines), (remark, bad) if invalid else (remark,))


def _costs(rows: Rows, capability: Sequence[str]) -> Iterator[tuple[str, Rows, Array]]:
    """Yield (cost, rows, its value in each); logarithms for those of GEOMETRIC, NaN where there is none."""
    neutral = rows.where(task=PERPLEXITY)
    plain = neutral.where(arm=UNSTEERED)
    base = dict(zip(_texts(plain), plain.numbers["value"].tolist(), strict=True))
    yield "ratio", neutral, np.array([base.get(text, math.nan) for text in _texts(neutral)]) - neutral.numbers["value"]
    yield "kl", neutral, _rating(neutral, "kl")
    replies = rows.take(np.any([rows.texts["task"].equal_to(task) for task in REPLIES], axis=0))
    yield "tokens", replies, replies.numbers["tokens"]
    yield "distinct_2", replies, _rating(replies, "distinct_2")
    perplexity = _rating(replies, "perplexity")
    yield "perplexity", replies, np.log(perplexity, out=np.full(len(replies), np.nan), where=perplexity > 0)
    for task in capability:
        asked = rows.where(task=task)
        yield task, asked, asked.numbers["value"]


def _texts(rows: Rows) -> list[tuple[str, str]]:
    """Return which neutral text every row is of: its target and item."""
    return list(zip(rows.texts["target"].tolist(), rows.texts["item"].tolist(), strict=True))


def _rating(rows: Rows, aspect: str) -> Array:
    return rows.numbers.get(RATING + aspect, np.full(len(rows), np.nan))
