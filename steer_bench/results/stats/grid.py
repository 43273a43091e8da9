"""Grids: the rows of one task, target and role as arrays over arms, concepts and items.

    rows -> lines -> [samples and seeds averaged] -> grid -> values

Samples of a prompt are averaged first, then the repeats of a pooled arm: they share the prompt and are no items of their own.
"""

import math
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
    """The last one is unsteered."""
    seed: Integers
    """Which of the rows' own arms, before any are pooled."""
    concept: Integers
    """-1: none."""
    item: Integers
    factor: Array
    value: Array
    tokens: Array

    def take(self, chosen: Selection) -> "Lines":
        """Return the lines at those places."""
        return Lines._make(column[chosen] for column in self)


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
        asked = (self.rows.sum(axis=0) > 0) & (self.rows.sum(axis=2)[..., None] > 0)
        return np.maximum(self.rows, asked).sum(axis=(1, 2))


def arm_keys(rows: Rows, chosen: Selection, pooled: Pooled) -> set[ArmKey]:
    """Return the steered arms of the chosen rows, as they are shown."""
    source, name = rows.texts["source"], rows.texts["arm"]
    pairs = np.flatnonzero(np.bincount(source.codes[chosen] * len(name.names) + name.codes[chosen]))
    found = [(source.names[pair // len(name.names)], name.names[pair % len(name.names)]) for pair in pairs.tolist()]
    return {ArmKey(source, pooled.get(arm, arm)) for source, arm in found if arm != UNSTEERED}


def lines_of(rows: Rows, chosen: Selection, arms: Sequence[ArmKey], concepts: Sequence[str], pooled: Pooled) -> Lines:
    """Return the chosen rows as lines; those of other arms and concepts are left out, but for unsteered rows of all concepts."""
    source, name, told, item = (rows.texts[column] for column in ("source", "arm", "concept", "item"))
    arm_at = {arm: place for place, arm in enumerate(arms)}
    of_pair = [
        len(arms) if arm == UNSTEERED else arm_at.get(ArmKey(model, pooled.get(arm, arm)), -1)
        for model in source.names
        for arm in name.names
    ]
    concept_at = {"": -1, **{concept: place for place, concept in enumerate(concepts)}}
    of_concept = [concept_at.get(concept, -2) for concept in told.names]
    prompts = Texts.of([text.partition(SAMPLE_MARK)[0] for text in item.names])
    pair = source.codes[chosen] * len(name.names) + name.codes[chosen]
    places = [
        np.array(table, dtype=np.int64)[codes] for table, codes in ((of_pair, pair), (of_concept, told.codes[chosen]))
    ]
    numbers = [rows.numbers[column][chosen] for column in ("factor", "value", "tokens")]
    lines = Lines(places[0], pair, places[1], prompts.codes[item.codes[chosen]], *numbers)
    return lines.take((lines.arm >= 0) & ((lines.concept >= 0) | (lines.concept == -1) & (lines.arm == len(arms))))


def grid_of(lines: Lines, n_arms: int, n_concepts: int) -> Grid:
    """Return the lines of one role at one level as arrays."""
    n_items = int(lines.item.max(initial=0)) + 1
    lines = _given_to_each(lines, n_concepts, n_items)
    place = lines.concept * n_items + lines.item
    here = np.bincount(place, minlength=n_concepts * n_items).astype(bool)
    order = np.cumsum(here) - 1
    widths = here.reshape(n_concepts, n_items).sum(axis=1)
    slot = order[place] - (np.cumsum(widths) - widths)[lines.concept]
    width = int(widths.max(initial=0))
    _, seed = np.unique(lines.seed, return_inverse=True)
    shape = int(seed.max(initial=-1)) + 1, n_concepts, width
    number = (seed * n_concepts + lines.concept) * width + slot
    values, rows = _means(number, lines.value, shape)
    factors, _ = _means(seed * n_concepts + lines.concept, lines.factor, shape[:2])
    tokens = np.ones(shape[1:])
    tokens[lines.concept, slot] = np.maximum(lines.tokens, 1)
    scored = np.bincount(lines.arm[np.isfinite(lines.value)], minlength=n_arms + 1)
    arm_of_seed = np.zeros(shape[0], dtype=np.int64)
    arm_of_seed[seed] = lines.arm
    seeds = [np.flatnonzero(arm_of_seed == arm) for arm in range(n_arms + 1)]
    return Grid(
        values=np.array([nan_mean(values[mine], axis=0) for mine in seeds]),
        rows=np.array([rows[mine].sum(axis=0) for mine in seeds]),
        scored=scored,
        tokens=tokens,
        factors=np.array([nan_mean(factors[mine], axis=0) for mine in seeds]),
    )


def _given_to_each(lines: Lines, n_concepts: int, n_items: int) -> Lines:
    """Give an unsteered line without a concept to each concept that has its item and no unsteered line of its own there."""
    own, blank = lines.take(lines.concept >= 0), lines.take(lines.concept < 0)
    if not len(blank.item):
        return own
    values, rows = _means(blank.item, blank.value, (n_items,))
    tokens, _ = _means(blank.item, blank.tokens, (n_items,))
    place, size = own.concept * n_items + own.item, n_concepts * n_items
    plain = place[own.arm == blank.arm[0]]
    lacking = (np.bincount(place, minlength=size) > 0) & (np.bincount(plain, minlength=size) == 0)
    concept, item = np.divmod(np.flatnonzero(lacking & np.tile(rows > 0, n_concepts)), n_items)
    same = np.zeros_like(item)
    spread = Lines(same + blank.arm[0], same + blank.seed[0], concept, item, 0.0 * item, values[item], tokens[item])
    return Lines._make(map(np.concatenate, zip(own, spread, strict=True)))


def _means(number: Integers, values: Array, shape: tuple[int, ...]) -> tuple[Array, Integers]:
    """Return (mean of what is not NaN, how many there are) of the values of each number, as arrays of that shape."""
    size, known = math.prod(shape), np.isfinite(values)
    count = np.bincount(number, weights=known, minlength=size)
    total = np.bincount(number, weights=np.where(known, values, 0.0), minlength=size)
    means = np.divide(total, count, out=np.full(size, np.nan), where=count > 0)
    return means.reshape(shape), np.bincount(number, minlength=size).reshape(shape)


def best_factors(lines: Lines, n_arms: int, n_concepts: int) -> Array:
    """Return (n_arms + 1, n_concepts): the factor with the best mean, of equals the smallest; NaN where there is none.

    A factor with less than half of its prompts scored cannot be chosen.
    """
    steered = lines.take(lines.arm < n_arms)
    best = np.full((n_arms + 1, n_concepts), -np.inf)
    chosen = np.full(best.shape, np.nan)
    for factor in np.unique(steered.factor).tolist():
        grid = grid_of(steered.take(steered.factor == factor), n_arms, n_concepts)
        means = nan_mean(grid.values)
        asked, scored = (grid.rows > 0).sum(axis=2), np.isfinite(grid.values).sum(axis=2)
        better = (scored > 0) & (2 * scored >= asked) & (np.nan_to_num(means) > best + 1e-12)
        best, chosen = np.where(better, means, best), np.where(better, factor, chosen)
    return chosen
