"""Rows: measured values with the keys that say what was measured, one by one (`Row`) or by the hundred thousand (`Rows`).

    a sample of lm-eval -> Row; a results file -> Rows -> statistics

A board of many runs holds hundreds of thousands of them: statistics are done on columns.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Columns = dict[str, list[Any]]
"""Name -> texts, or numbers and None; of equal length."""
Selection = NDArray[np.bool_] | Integers | slice

KEYS = ("task", "target", "source", "arm", "concept", "factor", "level", "item", "role")
TEXT_COLUMNS = ("task", "target", "source", "arm", "concept", "item", "role", "reason")
COLUMNS = ("task", "target", "source", "arm", "concept", "factor", "item", "role", "value", "tokens", "reason", "level")
"""The order of Row's fields."""
RATING = "ratings."
"""Prefix of the columns that hold ratings, e.g. `ratings.fluency`; nothing where a row has no such rating."""
INVALID = "non_finite"
"""Reason of a row whose logits held NaN or Inf: it has no value, and its reply is not rated."""
NOT_JUDGED = "not judged"
"""Reason of a row whose reply no judge has rated yet."""


@dataclass(frozen=True)
class Row:
    """One measured value with the keys that say what was measured."""

    task: str
    """concept_steering, concept_likelihood, steered_perplexity, rule_following, or another lm-eval task."""
    target: str
    """The model that was steered."""
    source: str
    """The model the vector was learned on; "" for arms that need none (unsteered, native, random, mean, prompt)."""
    arm: str
    """unsteered, native, an adapter (identity, linear, ...) or a control (random, mean, ...)."""
    concept: str
    """Concept or rule id; "" where the row is the same for all concepts."""
    factor: float
    """Steering factor; 0.0 for unsteered."""
    item: str
    """Id of the prompt or text."""
    role: str
    """"select" or "score" for prompts; "concept" or "neutral" for likelihood texts."""
    value: float | None
    """concept_steering 0..2; rule_following 0..1; likelihood: mean log-likelihood a token, nats. None: unscored."""
    tokens: int = 0
    """Tokens the value is averaged over (likelihood); length of the reply (generation)."""
    reason: str = ""
    """Why the row is unscored."""
    ratings: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Aspects concept, instruction, fluency, each 0..2; also perplexity and distinct_2 of the reply."""
    level: float = 0.0
    """Damage that the factor was found for, a perplexity ratio such as 1.3; 0 where the factor was given, and unsteered."""

    def __post_init__(self) -> None:
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"value {self.value} in {self.where}; a value is finite, or None with a reason")
        if not (math.isfinite(self.factor) and all(map(math.isfinite, self.ratings.values()))):
            raise ValueError(f"a factor or rating that is not finite in {self.where}; leave the rating out instead")

    @property
    def key(self) -> tuple[str, str, str, str, str, float, float, str, str]:
        """What makes a row: no two rows of a run share it."""
        return (
            self.task,
            self.target,
            self.source,
            self.arm,
            self.concept,
            self.factor,
            self.level,
            self.item,
            self.role,
        )

    @property
    def where(self) -> str:
        """The key in words, for messages."""
        return ", ".join(f"{name}={value!r}" for name, value in zip(KEYS, self.key, strict=True))


@dataclass(frozen=True)
class Texts:
    """A column of texts: each row's place in the sorted names."""

    codes: Integers
    """(n_rows,)"""
    names: tuple[str, ...]
    """Sorted, so that codes sort as their texts do; a selection of rows keeps all of them."""

    def equal_to(self, name: str) -> NDArray[np.bool_]:
        """Return where, (n_rows,), the text is `name`."""
        return self.codes == (self.names.index(name) if name in self.names else -1)

    def present(self) -> list[str]:
        """Return the texts that occur, sorted."""
        return [self.names[code] for code in np.unique(self.codes)]

    def tolist(self) -> list[str]:
        """Return the text of every row."""
        return [self.names[code] for code in self.codes]

    @classmethod
    def of(cls, column: Sequence[str]) -> "Texts":
        """Make a column from its texts."""
        names = tuple(sorted(set(column)))
        place = {name: code for code, name in enumerate(names)}
        return cls(np.fromiter(map(place.__getitem__, column), np.int64, len(column)), names)


class Rows(Sequence[Row]):
    """Rows as columns; a sequence of Row to those who read them one by one."""

    def __init__(self, texts: Mapping[str, Texts], numbers: Mapping[str, Array]) -> None:
        self.texts = texts
        """A column for each of TEXT_COLUMNS."""
        self.numbers = numbers
        """(n_rows,) each: factor, level, value, tokens and `ratings.*`; NaN where a row has none."""

    @classmethod
    def of(cls, rows: "Iterable[Row]") -> "Rows":
        """Make columns of the rows; Rows themselves are returned as they are."""
        if isinstance(rows, Rows):
            return rows
        rows = list(rows)
        columns: Columns = {name: [getattr(row, name) for row in rows] for name in COLUMNS}
        for aspect in sorted({aspect for row in rows for aspect in row.ratings}):
            columns[RATING + aspect] = [row.ratings.get(aspect) for row in rows]
        return cls.from_columns(columns)

    @classmethod
    def from_columns(cls, columns: Columns) -> "Rows":
        """Make rows of columns of equal length and right types: texts, and numbers or None.

        Raises ValueError, naming the row, for a number that is not finite.
        """
        texts = {name: Texts.of(columns[name]) for name in TEXT_COLUMNS}
        numbers = {name: np.array(columns[name], dtype=float) for name in columns if name not in TEXT_COLUMNS}
        rows = cls(texts, numbers)
        for name, values in numbers.items():
            for place in np.flatnonzero(~np.isfinite(values)).tolist():
                if columns[name][place] is not None:
                    rated = {n: columns[n][place] or 0.0 for n in columns if n.startswith(RATING)}
                    Row(**{n: columns[n][place] for n in COLUMNS}, ratings=rated)  # it raises what is wrong
        return rows

    def columns(self) -> Columns:
        """Return what `from_columns` takes, in the order of COLUMNS; the ratings there are after them."""
        columns = {n: self.texts[n].tolist() if n in TEXT_COLUMNS else _plain(self.numbers[n]) for n in COLUMNS}
        columns["tokens"] = self.numbers["tokens"].astype(int).tolist()
        rated = [n for n in sorted(self.numbers) if n.startswith(RATING) and np.isfinite(self.numbers[n]).any()]
        return columns | {n: _plain(self.numbers[n]) for n in rated}

    def __len__(self) -> int:
        return len(self.numbers["factor"])

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> "Rows": ...
    def __getitem__(self, place: int | slice) -> "Row | Rows":
        if isinstance(place, slice):
            return self.take(place)
        if not -len(self) <= place < len(self):
            raise IndexError(f"row {place} of {len(self)}")
        return next(iter(self.take(np.array([place]))))

    def __iter__(self) -> Iterator[Row]:
        columns = self.columns()
        rated = {name.removeprefix(RATING): columns[name] for name in columns if name.startswith(RATING)}
        for place, values in enumerate(zip(*(columns[name] for name in COLUMNS), strict=True)):
            ratings = {aspect: column[place] for aspect, column in rated.items() if column[place] is not None}
            yield Row(**dict(zip(COLUMNS, values, strict=True)), ratings=ratings)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def take(self, chosen: Selection) -> "Rows":
        """Return the rows at those places, in that order."""
        texts = {name: Texts(column.codes[chosen], column.names) for name, column in self.texts.items()}
        return Rows(texts, {name: column[chosen] for name, column in self.numbers.items()})

    def where(self, **texts: str) -> "Rows":
        """Return the rows whose text columns are as given: `rows.where(task=..., target=...)`."""
        chosen = np.ones(len(self), dtype=bool)
        for name, text in texts.items():
            chosen &= self.texts[name].equal_to(text)
        return self if chosen.all() else self.take(chosen)

    def means(self, values: Array, by: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Yield (*keys, mean) of `values` (n_rows,) over rows with equal columns `by`, sorted by them; NaN is left out."""
        known = np.flatnonzero(np.isfinite(values))
        groups = [self._column(name)[known] for name in by]
        order = np.lexsort(groups[::-1])
        if not len(order):
            return
        differs = np.any([group[order][1:] != group[order][:-1] for group in groups], axis=0)
        starts = np.concatenate([[0], np.flatnonzero(differs) + 1])
        sizes = np.diff(np.append(starts, len(order)))
        first = self.take(known[order[starts]])
        keys = [(first.texts if name in TEXT_COLUMNS else first.numbers)[name].tolist() for name in by]
        yield from zip(*keys, (np.add.reduceat(values[known][order], starts) / sizes).tolist(), strict=True)

    def ordered(self) -> "Rows":
        """Return the rows sorted by key."""
        return self.take(self._order())

    def repeated(self) -> Row | None:
        """Return a row whose key another has too; None where each stands once."""
        order = self._order()
        pairs = [self._column(name)[order] for name in KEYS]
        same = np.all([column[1:] == column[:-1] for column in pairs], axis=0)
        return self[int(order[int(same.argmax())])] if same.any() else None

    def _order(self) -> Integers:
        return np.lexsort([self._column(name) for name in reversed(KEYS)])

    def _column(self, name: str) -> np.ndarray:
        return self.texts[name].codes if name in TEXT_COLUMNS else self.numbers[name]


def _plain(column: Array) -> list[float | None]:
    """Return a column as Python's numbers, None where there is none."""
    return [None if value != value else value for value in column.tolist()]
