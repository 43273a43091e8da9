"""Paired hierarchical bootstrap: concepts first, then items; the same draws for every arm.

    per-item effects -> [replicates] -> intervals of effects, differences and recovered fractions

The unit is the concept: items of one concept are not independent (Cameron, Gelbach & Miller 2008; Miller 2024).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steer_bench.stats.effects import Arm, Array, nan_mean

REPLICATES = 2000

Indices = NDArray[np.int64]
Gate = NDArray[np.bool_]
"""(n_concepts,): concepts that native moves, decided on selection prompts."""


class Estimate(NamedTuple):
    """A number with its interval; None where it can not be had, never NaN."""

    value: float | None
    low: float | None
    high: float | None
    """The interval is None with fewer than 2 concepts or without variance."""
    n: int
    """Concepts behind it."""

    @property
    def positive(self) -> bool:
        """Whether the interval lies above 0; without variance, whether the value does."""
        if self.value is None or self.n < 2:
            return False
        return (self.value if self.low is None else self.low) > 0


@dataclass(frozen=True)
class Bootstrap:
    """Concept means of every arm, observed and resampled."""

    means: Mapping[Arm, Array]
    """(n_concepts,) each; NaN where a concept was not measured."""
    replicates: Mapping[Arm, Array]
    """(n_replicates, n_concepts) each: means of the drawn concepts, in the order of the draw."""
    drawn: Indices | None = None
    """(n_replicates, n_concepts): which concept each of them is."""

    def effect(self, arm: Arm, level: float = 0.95) -> Estimate:
        """Mean over concepts, percentile interval."""
        return _estimate(self.means[arm], nan_mean(self.replicates[arm]), level)

    def differences(self, arm: Arm, other: Arm) -> Array:
        """(n_shared,): arm minus other, over the concepts measured for both."""
        difference = self.means[arm] - self.means[other]
        return difference[np.isfinite(difference)]

    def difference(self, arm: Arm, other: Arm, level: float = 0.95) -> Estimate:
        """Mean paired difference, arm minus other."""
        replicates = nan_mean(self.replicates[arm] - self.replicates[other])
        return _estimate(self.differences(arm, other), replicates, level)

    def recovered(
        self, arm: Arm, native: Arm, level: float = 0.95, *, gate: Gate | None = None, null: Arm | None = None
    ) -> Estimate:
        """Recovered fraction: sum of the arm's effects over sum of native's, unclipped.

        A ratio of sums, so that a concept native hardly moves can not blow it up. With `null` (wrong-concept) it is the
        specific one: what both have over that arm, sum(arm - null) / sum(native - null). Only concepts that pass `gate`
        count. Value None where native's interval (with `null`, native's over it) is not above 0: there is nothing to recover.
        """
        nothing = np.zeros_like(self.means[native]) if null is None else self.means[null]
        nothings = np.zeros_like(self.replicates[native]) if null is None else self.replicates[null]
        tops, bottoms = self.means[arm] - nothing, self.means[native] - nothing
        replicated = self.replicates[arm] - nothings, self.replicates[native] - nothings
        if gate is not None and self.drawn is not None:
            tops, bottoms = np.where(gate, tops, np.nan), np.where(gate, bottoms, np.nan)
            replicated = tuple(np.where(gate[self.drawn], values, np.nan) for values in replicated)  # type: ignore[assignment]
        both = np.isfinite(tops) & np.isfinite(bottoms)
        n = int(both.sum())
        floor = _estimate(np.where(both, bottoms, np.nan), nan_mean(replicated[1]), level)
        if n < 2 or not floor.positive or bottoms[both].sum() <= 0:
            return Estimate(None, None, None, n)
        shared = np.isfinite(replicated[0]) & np.isfinite(replicated[1])
        top = np.where(shared, replicated[0], 0.0).sum(axis=1)
        bottom = np.where(shared, replicated[1], 0.0).sum(axis=1)
        ratios = np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom != 0)
        return Estimate(float(tops[both].sum() / bottoms[both].sum()), *_interval(ratios, level), n)


def hierarchical_bootstrap(
    effects: Mapping[Arm, Array],
    neutral: Mapping[Arm, Array] | None = None,
    *,
    n: int = REPLICATES,
    seed: int = 0,
) -> Bootstrap:
    """Resample concepts, then the items of each drawn concept; an arm's concept mean is over the drawn items.

    `effects`: (n_concepts, n_items) each, NaN where unmeasured. `neutral`: (n_concepts, n_neutral) each, means to be
    taken off; the neutral texts are shared by all concepts, so one draw of them serves a whole replicate.
    """
    shapes = {values.shape for values in effects.values()}
    if len(shapes) != 1:
        raise ValueError(f"arms have effects of shapes {sorted(shapes)}; give all arms the same concepts and items")
    n_concepts, n_items = shapes.pop()
    if n_concepts == 0:
        return Bootstrap({arm: np.empty(0) for arm in effects}, {arm: np.empty((n, 0)) for arm in effects})
    rng = np.random.default_rng(seed)
    drawn = rng.integers(n_concepts, size=(n, n_concepts))
    measured = np.any([np.isfinite(values) for values in effects.values()], axis=0)
    order = np.argsort(~measured, axis=1, kind="stable")
    flat = _draw_items(rng, drawn, measured.sum(axis=1), n_items)
    counts = _draw_neutral(rng, neutral, n)
    means, replicates = {}, {}
    for arm, values in effects.items():
        packed = np.append(np.take_along_axis(values, order, axis=1).ravel(), np.nan)
        gathered = packed.take(flat)  # (n_items, n, n_concepts)
        drawn_means = nan_mean(gathered, axis=0) if np.isnan(packed[:-1]).any() else gathered.mean(axis=0)
        means[arm], replicates[arm] = nan_mean(values), drawn_means
        if neutral is not None and counts is not None:
            known = np.isfinite(neutral[arm])
            # einsum, not @: BLAS threads spin between products this small, and their number decides the last digits
            total = np.einsum("nt,ct->nc", counts, np.where(known, neutral[arm], 0.0))  # (n, n_concepts)
            weight = np.einsum("nt,ct->nc", counts, known.astype(float))
            costs = np.divide(total, weight, out=np.full(total.shape, np.nan), where=weight > 0)
            means[arm] = means[arm] - nan_mean(neutral[arm])
            replicates[arm] = drawn_means - np.take_along_axis(costs, drawn, axis=1)
    return Bootstrap(means, replicates, drawn)


def _draw_items(rng: np.random.Generator, drawn: Indices, counts: Indices, n_items: int) -> Indices:
    """(n_items, n, n_concepts) positions into flattened effects; past a concept's count, the NaN at the end.

    Items come first, for means over a first axis are several times faster than over a short last one.
    """
    size = counts[drawn][..., None]  # (n, n_concepts, 1)
    picked = (rng.random((*drawn.shape, n_items)) * size).astype(np.int64)
    beyond = np.arange(n_items) >= size
    positions = np.where(beyond, len(counts) * n_items, drawn[..., None] * n_items + picked)
    return np.ascontiguousarray(np.moveaxis(positions, -1, 0))


def _draw_neutral(rng: np.random.Generator, neutral: Mapping[Arm, Array] | None, n: int) -> Array | None:
    """(n, n_neutral): how often each neutral text is drawn; None without neutral texts."""
    if not neutral:
        return None
    measured = np.any([np.isfinite(values).any(axis=0) for values in neutral.values()], axis=0)
    n_measured = int(measured.sum())
    if n_measured == 0:
        return None
    counts = np.zeros((n, len(measured)))
    counts[:, measured] = rng.multinomial(n_measured, np.full(n_measured, 1 / n_measured), size=n)
    return counts


def _estimate(means: Array, replicates: Array, level: float) -> Estimate:
    known = means[np.isfinite(means)]
    if len(known) == 0:
        return Estimate(None, None, None, 0)
    low, high = _interval(replicates, level) if len(known) > 1 else (None, None)
    return Estimate(float(known.mean()), low, high, len(known))


def _interval(replicates: Array, level: float) -> tuple[float | None, float | None]:
    """Percentile interval; None where the replicates do not vary."""
    known = replicates[np.isfinite(replicates)]
    if len(known) < 2 or np.ptp(known) <= 1e-12 * max(1.0, float(np.abs(known).max())):
        return None, None
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(known, [tail, 100 - tail])
    return float(low), float(high)
