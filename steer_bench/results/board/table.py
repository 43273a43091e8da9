"""Tables: cells, lines and tables of a board, before any format.

Numbers become text here and nowhere else.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from steer_bench.results.stats.estimate import Estimate

MISSING = "n/a"
UNBOUNDED = "unbounded"


class Text(NamedTuple):
    """A cell: what is shown, and what it is sorted by."""

    text: str
    sort: float | None = None


@dataclass(frozen=True)
class Line:
    """A row of a table."""

    cells: tuple[Text, ...]
    strong: bool = False
    """Whether it is the best transfer arm: the cell in the column "arm" is written in bold."""
    group: str = ""
    """Lines of one group stand together; a format may name it once."""
    entry: int | None = None
    """Place of its entry in `Board.entries`, which has its curves over levels of damage."""


@dataclass(frozen=True)
class Table:
    """A table with its title and remarks."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    remarks: tuple[str, ...] = ()

    def is_strong(self, line: Line, column: int) -> bool:
        """Return whether a cell is the name of the best transfer arm."""
        return line.strong and self.columns[column] == "arm"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number as every table shows it.

    >>> number(0.2449), number(-0.0001), number(12.345), number(1234.5), number(None)
    ('0.245', '0.000', '12.3', '1234', 'n/a')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    decimals = digits if abs(value) < 10 else 1 if abs(value) < 100 else 0
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text


def interval(estimate: Estimate, digits: int = 2) -> str:
    """Return a number with its interval.

    >>> interval(Estimate(0.245, 0.2, 0.29, 12)), interval(Estimate(0.5, None, None, 1))
    ('0.24 [0.20, 0.29]', '0.50 [n/a]')
    >>> interval(Estimate(0.5, 0.2, math.inf, 12)), interval(Estimate(0.5, -math.inf, math.inf, 12))
    ('0.50 [0.20, unbounded]', '0.50 [unbounded]')
    """
    value, low, high, _ = estimate
    if value is None:
        return MISSING
    ends = [UNBOUNDED if end is not None and math.isinf(end) else number(end, digits) for end in (low, high)]
    return f"{number(value, digits)} [{ends[0] if ends[0] == ends[1] in (MISSING, UNBOUNDED) else ', '.join(ends)}]"


def number_cell(value: float | None, digits: int = 3) -> Text:
    """Return a number as a cell."""
    return Text(number(value, digits), value)


def interval_cell(estimate: Estimate, digits: int = 2) -> Text:
    """Return a number with its interval as a cell."""
    return Text(interval(estimate, digits), estimate.value)


def inline(value: object) -> str:
    """Return a provenance value in one line.

    >>> inline({"torch": "2.13.0", "factors": [0.1, 0.2]})
    'torch 2.13.0, factors 0.1 0.2'
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {inline(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(inline, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
