"""Blocks: the rows of one task and target as arrays over arms, concepts, factors and items.

    rows -> [samples and seeds averaged, rows of all concepts given to each] -> block -> effects

Samples of a prompt are averaged first, then the seeds of a random control: they share the prompt and are no items of their own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steer_bench.results.rows import Array, Integers, Row, Rows, Selection, Texts
from steer_bench.vectors.arms import UNSTEERED

SAMPLE_MARK = "#"
"""Between a prompt's id and the number of one of several sampled replies to it, in a row's item."""
Pooled = Mapping[str, str]
"""Arm -> the arm it is shown as: repeats with other seeds are one arm (`Provenance.pooled`)."""


class ArmKey(NamedTuple):
    """What steers: an arm, and the model its vectors were learned on ("" where there is none)."""

    source: str
    name: str


NATIVE = ArmKey("", "native")


def nan_mean(values: Array, axis: int = -1) -> Array:
    """Return the mean over what is measured; NaN, without a warning, where nothing is."""
    known = np.isfinite(values)
    if values.shape[axis] and known.all():
        return values.mean(axis=axis)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


@dataclass(frozen=True)
class RoleGrid:
    """The values of one role; items of a concept stand first, sorted, and what is beyond them is NaN."""

    widths: Integers
    """(n_concepts,): items of each concept, whichever arm they were measured on."""
    values: Array
    """(n_arms, n_concepts, n_factors, n_items): NaN where unscored or not measured."""
    asked: NDArray[np.bool_]
    """The same shape: where there is a row, scored or not."""
    base: Array
    """(n_concepts, n_items): unsteered values."""
    tokens: Array
    """(n_concepts, n_items): tokens of the unsteered rows; 0 where there are none."""
    counts: Integers
    """(n_arms, n_concepts, n_factors, 2): replies that have a value, and replies; every sample and seed is one."""
    base_counts: Integers
    """(n_concepts, 2): the same of the unsteered arm."""


@dataclass(frozen=True)
class ValueGrid:
    """The rows of one task and target."""

    arms: tuple[ArmKey, ...]
    """Steered ones, sorted; seeds of a random control are one arm."""
    concepts: tuple[str, ...]
    factors: Array
    """(n_factors,): every factor of any arm, ascending."""
    measured: NDArray[np.bool_]
    """(n_arms, n_concepts, n_factors): where there is a row of any role."""
    roles: tuple[str, ...]
    """The names that `GridRows.role` numbers."""
    lines: "GridRows"

    def role(self, role: str, *, shared: bool = False) -> RoleGrid:
        """Return the values of one role. `shared`: every concept has the items of all, in the same places."""
        shape = (len(self.arms), len(self.concepts), len(self.factors))
        lines = self.lines.take(self.lines.role == (self.roles.index(role) if role in self.roles else -1))
        items, item = np.unique(lines.item, return_inverse=True)
        mine = lines.concept * len(items) + item
        pairs = np.arange(shape[1] * len(items)) if shared else np.unique(mine)
        starts = np.searchsorted(pairs, np.arange(shape[1]) * len(items))
        widths = np.diff(np.append(starts, len(pairs)))
        slot = np.searchsorted(pairs, mine) - starts[lines.concept]
        width = int(widths.max(initial=0))
        plain = lines.arm < 0
        at = (lines.arm[~plain], lines.concept[~plain], lines.factor[~plain])
        at_plain = (lines.concept[plain], slot[plain])
        values, base = np.full((*shape, width), np.nan), np.full((shape[1], width), np.nan)
        tokens = np.zeros((shape[1], width))
        asked = np.zeros((*shape, width), dtype=bool)
        values[(*at, slot[~plain])], asked[(*at, slot[~plain])] = lines.value[~plain], True
        base[at_plain], tokens[at_plain] = lines.value[plain], lines.tokens[plain]
        counts, base_counts = np.zeros((*shape, 2), dtype=np.int64), np.zeros((shape[1], 2), dtype=np.int64)
        replies = np.stack([lines.scored, lines.rows], axis=-1)
        np.add.at(counts, at, replies[~plain])
        np.add.at(base_counts, at_plain[0], replies[plain])
        return RoleGrid(widths, values, asked, base, tokens, counts, base_counts)


def value_grid(rows: Iterable[Row], task: str, target: str, pooled: Pooled | None = None) -> ValueGrid:
    """Return the rows of a task and target as a block; `pooled` arms as one, the mean over them item by item.

    A row without a concept stands for each concept: a steered one where its arm has no row of that concept, an unsteered one
    where the concept has no row of its own on that item.
    """
    rows = Rows.of(rows).where(task=task, target=target)
    texts = rows.texts
    prompts = Texts.of([name.partition(SAMPLE_MARK)[0] for name in texts["item"].names])
    roles = texts["role"]
    arms, arm = _arms(texts["source"], texts["arm"], pooled or {})
    names = texts["concept"].present()
    concepts = tuple(name for name in names if name) or tuple(names)
    place = {name: index for index, name in enumerate(concepts)}
    concept = np.array([place.get(name, -1) for name in texts["concept"].names], dtype=np.int64)[texts["concept"].codes]
    factors = np.unique(rows.numbers["factor"][arm >= 0])
    factor = np.where(arm < 0, 0, np.searchsorted(factors, rows.numbers["factor"]))
    value = rows.numbers["value"]
    known = np.isfinite(value).astype(np.int64)
    item, tokens = prompts.codes[texts["item"].codes], rows.numbers["tokens"]
    lines = GridRows(arm, concept, factor, roles.codes, item, value, tokens, known, np.ones_like(known))
    samples_averaged = _averaged(lines, (texts["source"].codes, texts["arm"].codes))
    lines = _given_to_each(_averaged(samples_averaged, ()), len(arms), len(concepts))
    measured = np.zeros((len(arms), len(concepts), len(factors)), dtype=bool)
    steered = lines.take(lines.arm >= 0)
    measured[steered.arm, steered.concept, steered.factor] = True
    return ValueGrid(arms, concepts, factors, measured, roles.names, lines)


class GridRows(NamedTuple):
    """Rows as places in a block, (n_lines,) each."""

    arm: Integers
    """-1: unsteered."""
    concept: Integers
    """-1: none."""
    factor: Integers
    role: Integers
    item: Integers
    value: Array
    tokens: Array
    scored: Integers
    """Rows behind a line that have a value."""
    rows: Integers
    """Rows behind a line."""

    def take(self, chosen: Selection) -> "GridRows":
        """Return the lines at those places."""
        return GridRows._make(column[chosen] for column in self)


def _arms(source: Texts, name: Texts, pooled: Pooled) -> tuple[tuple[ArmKey, ...], Integers]:
    """Return the steered arms, sorted, and each row's place in them; -1 for unsteered."""
    pairs, inverse = np.unique(source.codes * len(name.names) + name.codes, return_inverse=True)
    found = [(source.names[pair // len(name.names)], name.names[pair % len(name.names)]) for pair in pairs.tolist()]
    shown = [None if name == UNSTEERED else ArmKey(source, pooled.get(name, name)) for source, name in found]
    arms = sorted({arm for arm in shown if arm is not None})
    return tuple(arms), np.array([-1 if arm is None else arms.index(arm) for arm in shown], dtype=np.int64)[inverse]


def _averaged(lines: GridRows, further: Sequence[Integers]) -> GridRows:
    """Return rows of equal keys as one, with the mean of what is scored."""
    number = np.zeros(len(lines.arm), dtype=np.int64)
    for key in (lines.arm, lines.concept, lines.factor, lines.role, lines.item, *further):
        number = number * (int(key.max(initial=0)) + 2) + key + 1
    _, first, inverse = np.unique(number, return_index=True, return_inverse=True)
    if len(first) == len(number):
        return lines
    known = np.isfinite(lines.value)
    count = np.bincount(inverse, weights=known)
    total = np.bincount(inverse, weights=np.where(known, lines.value, 0.0))
    means = np.divide(total, count, out=np.full(len(first), np.nan), where=count > 0)
    scored, rows = (np.bincount(inverse, weights=one).astype(np.int64) for one in (lines.scored, lines.rows))
    return lines.take(first)._replace(value=means, scored=scored, rows=rows)


def _given_to_each(lines: GridRows, n_arms: int, n_concepts: int) -> GridRows:
    """Repeat rows without a concept for each concept that lacks them, before the others."""
    blank = np.flatnonzero(lines.concept < 0)
    if not len(blank):
        return lines
    own = lines.take(lines.concept >= 0)
    has = np.zeros((n_arms + 1, n_concepts), dtype=bool)  # the last is unsteered: item by item, below
    has[own.arm, own.concept] = True
    has[-1] = False
    spread = lines.take(np.repeat(blank, n_concepts))._replace(concept=np.tile(np.arange(n_concepts), len(blank)))
    missing = ~has[spread.arm, spread.concept]
    width, roles = int(lines.item.max()) + 1, int(lines.role.max()) + 1
    places = [(side.concept * roles + side.role) * width + side.item for side in (spread, own)]
    missing &= (spread.arm >= 0) | ~np.isin(places[0], places[1][own.arm < 0])
    return GridRows._make(map(np.concatenate, zip(spread.take(missing), own, strict=True)))
