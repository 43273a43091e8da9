"""Grids: the rows of one task, target and role as arrays over arms, concepts and items.

    rows -> [samples and seeds averaged] -> grid -> values

Samples of a prompt are averaged first, then the repeats of a pooled arm: they share the prompt and are no items of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from steer_bench.results.rows import Array, Integers, Rows, Selection, Texts
from steer_bench.vectors.arms import UNSTEERED

SAMPLE_MARK = "#"
"""Between a prompt's id and the number of one of several sampled replies to it, in a row's item."""
Pooled = Mapping[str, str]
"""Arm -> the arm it is shown as: repeats with other seeds are one arm (`Provenance.pooled`)."""


class ArmKey(NamedTuple):
    """What steers: an arm, and the model its vectors were learned on ("" where there is none)."""

    source: str
    name: str


NATIVE, PLAIN = ArmKey("", "native"), ArmKey("", UNSTEERED)


def nan_mean(values: Array, axis: int = -1) -> Array:
    """Return the mean over what is measured; NaN, without a warning, where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


class Lines(NamedTuple):
    """Rows as places in arrays, (n_lines,) each."""

    arm: Integers
    """-1: unsteered."""
    seed: Integers
    """Which of the rows' own arms, before any are pooled."""
    concept: Integers
    """-1: none."""
    item: Integers
    level: Array
    factor: Array
    value: Array
    tokens: Array

    def take(self, chosen: Selection) -> "Lines":
        """Return the lines at those places."""
        return Lines._make(column[chosen] for column in self)

    def at(self, level: float, chosen: Array) -> "Lines":
        """Return the lines of a level; at level 0 those at the chosen factors, (n_arms + 1, n_concepts).

        Unsteered rows, and those of arms that ask, have level 0 and factor 0, and stand at every level.
        """
        everywhere = (self.level == 0) & (self.factor == 0)
        if level:
            return self.take((self.level == level) | everywhere)
        return self.take((self.arm < 0) | ((self.level == 0) & (chosen[self.arm, self.concept] == self.factor)))


@dataclass(frozen=True)
class Grid:
    """The values of one role; items of a concept stand first, sorted, and what is beyond them is NaN."""

    values: Array
    """(n_arms + 1, n_concepts, n_items): NaN where unscored or not measured; the last arm is the unsteered one."""
    rows: Integers
    """The same shape: rows behind a value; every sample and seed is one, scored or not."""
    scored: Integers
    """(n_arms + 1,): rows that have a value."""
    tokens: Array
    """(n_concepts, n_items): tokens of the rows, at least 1."""
    factors: Array
    """(n_arms + 1, n_concepts): the factor used, the mean over seeds."""

    @property
    def totals(self) -> Integers:
        """(n_arms + 1,): rows that there should be, in the concepts where the arm has any."""
        asked = self.rows.any(axis=0) & self.rows.any(axis=2)[..., None]
        return np.maximum(self.rows, asked).sum(axis=(1, 2))


def arm_keys(rows: Rows, pooled: Pooled) -> set[ArmKey]:
    """Return the steered arms, as they are shown."""
    pairs = np.unique(np.stack([rows.texts["source"].codes, rows.texts["arm"].codes]), axis=1).T.tolist()
    found = {(rows.texts["source"].names[source], rows.texts["arm"].names[arm]) for source, arm in pairs}
    return {ArmKey(source, pooled.get(arm, arm)) for source, arm in found if arm != UNSTEERED}


def lines_of(rows: Rows, arms: Sequence[ArmKey], concepts: Sequence[str], pooled: Pooled) -> Lines:
    """Return rows as lines; those of other arms and concepts are left out, but for rows of all concepts."""
    source, name, told = (rows.texts[column] for column in ("source", "arm", "concept"))
    place = {arm: index for index, arm in enumerate(arms)}
    seed = source.codes * len(name.names) + name.codes
    pairs, inverse = np.unique(seed, return_inverse=True)
    named = [(source.names[pair // len(name.names)], name.names[pair % len(name.names)]) for pair in pairs.tolist()]
    found = [-1 if arm == UNSTEERED else place.get(ArmKey(s, pooled.get(arm, arm)), -2) for s, arm in named]
    codes = [concepts.index(text) if text in concepts else -1 if not text else -2 for text in told.names]
    prompts = Texts.of([text.partition(SAMPLE_MARK)[0] for text in rows.texts["item"].names])
    numbers = [rows.numbers[column] for column in ("level", "factor", "value", "tokens")]
    arm, concept = np.array(found, dtype=np.int64)[inverse], np.array(codes, dtype=np.int64)[told.codes]
    lines = Lines(arm, seed, concept, prompts.codes[rows.texts["item"].codes], *numbers)
    return lines.take((arm >= -1) & (concept >= -1) & ((arm == -1) | (concept >= 0)))


def grid_of(lines: Lines, n_arms: int, n_concepts: int) -> Grid:
    """Return the lines of one role at one level as arrays."""
    n_items = int(lines.item.max(initial=0)) + 1
    lines = _given_to_each(lines, n_items)
    place = lines.concept * n_items + lines.item
    pairs = np.unique(place)
    starts = np.searchsorted(pairs, np.arange(n_concepts) * n_items)
    slot = np.searchsorted(pairs, place) - starts[lines.concept]
    shape = (n_arms + 1, n_concepts, int(np.diff(np.append(starts, len(pairs))).max(initial=0)))
    rows, scored = np.zeros(shape, dtype=np.int64), np.zeros(n_arms + 1, dtype=np.int64)
    np.add.at(rows, (lines.arm, lines.concept, slot), 1)
    np.add.at(scored, lines.arm, np.isfinite(lines.value))
    values, tokens, factors = np.full(shape, np.nan), np.ones(shape[1:]), np.full(shape[:2], np.nan)
    of_seeds, means = averaged(lines.value, lines.arm, lines.seed, lines.concept, lines.item)
    lines, slot = lines.take(of_seeds)._replace(value=means), slot[of_seeds]
    first, means = averaged(lines.value, lines.arm, lines.concept, lines.item)
    values[lines.arm[first], lines.concept[first], slot[first]] = means
    tokens[lines.concept, slot] = np.maximum(lines.tokens, 1)
    first, means = averaged(lines.factor, lines.arm, lines.concept)
    factors[lines.arm[first], lines.concept[first]] = means
    return Grid(values, rows, scored, tokens, factors)


def _given_to_each(lines: Lines, n_items: int) -> Lines:
    """Give an unsteered line without a concept to each concept that has its item and no unsteered line of its own there."""
    own, blank = lines.take(lines.concept >= 0), lines.take(lines.concept < 0)
    first, means = averaged(blank.value, blank.item)
    blank = blank.take(first)._replace(value=means)
    place = own.concept * n_items + own.item
    missing = np.setdiff1d(place, place[own.arm < 0])
    of_item = np.full(n_items, -1)
    of_item[blank.item] = np.arange(len(blank.item))
    found = of_item[missing % n_items] >= 0
    spread = blank.take(of_item[missing[found] % n_items])._replace(concept=missing[found] // n_items)
    return Lines._make(map(np.concatenate, zip(own, spread, strict=True)))


def averaged(values: Array, *keys: Integers) -> tuple[Integers, Array]:
    """Return a place of each group of equal keys, and the group's mean over what is not NaN."""
    number = np.zeros(len(values), dtype=np.int64)
    for key in keys:
        number = number * (int(key.max(initial=0)) + 2) + key + 1
    _, first, group = np.unique(number, return_index=True, return_inverse=True)
    known = np.isfinite(values)
    count = np.bincount(group, weights=known, minlength=len(first))
    total = np.bincount(group, weights=np.where(known, values, 0.0), minlength=len(first))
    return first, np.divide(total, count, out=np.full(len(first), np.nan), where=count > 0)


def best_factors(lines: Lines, n_arms: int, n_concepts: int) -> Array:
    """Return (n_arms + 1, n_concepts): the factor with the best mean, of equals the smallest; NaN where there is none.

    A factor with less than half of its prompts scored cannot be chosen.
    """
    steered = lines.take(lines.arm >= 0)
    best = np.full((n_arms + 1, n_concepts), -np.inf)
    chosen = np.full(best.shape, np.nan)
    for factor in np.unique(steered.factor).tolist():
        grid = grid_of(steered.take(steered.factor == factor), n_arms, n_concepts)
        means = nan_mean(grid.values)
        asked, scored = (grid.rows > 0).sum(axis=2), np.isfinite(grid.values).sum(axis=2)
        better = (scored > 0) & (2 * scored >= asked) & (np.nan_to_num(means) > best + 1e-12)
        best, chosen = np.where(better, means, best), np.where(better, factor, chosen)
    return chosen
