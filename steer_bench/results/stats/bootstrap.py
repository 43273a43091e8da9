"""Paired hierarchical bootstrap: concepts first, then items; the same draws for every arm.

    per-item effects -> [replicates] -> intervals of effects, differences and recovered fractions

The unit is the concept: items of one concept are not independent (Cameron, Gelbach & Miller 2008; Miller 2024).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steer_bench.results.rows import Array
from steer_bench.results.stats.grid import ArmKey, nan_mean

REPLICATES = 2000

Indices = NDArray[np.int64]
Gate = NDArray[np.bool_]
"""(n_concepts,): concepts that native moves, decided on selection prompts."""


class Estimate(NamedTuple):
    """A point estimate with its interval; None when undefined, never NaN."""

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

    means: Mapping[ArmKey, Array]
    """(n_concepts,) each; NaN where a concept was not measured."""
    replicates: Mapping[ArmKey, Array]
    """(n_replicates, n_concepts) each: means of the drawn concepts, in the order of the draw."""
    drawn: Indices | None = None
    """(n_replicates, n_concepts): which concept each of them is."""

    @cached_property
    def overall(self) -> Mapping[ArmKey, Array]:
        """(n_replicates,) each: the replicates' means over concepts."""
        return {arm: nan_mean(values) for arm, values in self.replicates.items()}

    @cached_property
    def whole(self) -> frozenset[ArmKey]:
        """Arms with a value for every concept: their differences have the mean of their means."""
        return frozenset(arm for arm, values in self.replicates.items() if np.isfinite(values).all())

    def gated(self, gate: Gate | None) -> "Bootstrap":
        """Return the same draws with only the concepts that pass the gate; without one, itself."""
        if gate is None or gate.all() or self.drawn is None:
            return self
        passed = gate[self.drawn]
        means = {arm: np.where(gate, values, np.nan) for arm, values in self.means.items()}
        replicates = {arm: np.where(passed, values, np.nan) for arm, values in self.replicates.items()}
        return Bootstrap(means, replicates, self.drawn)

    def effect(self, arm: ArmKey, level: float = 0.95) -> Estimate:
        """Return the mean over concepts, percentile interval."""
        return _estimate(self.means[arm], self.overall[arm], level)

    def differences(self, arm: ArmKey, other: ArmKey) -> Array:
        """Return (n_shared,): arm minus other, over the concepts measured for both."""
        difference = self.means[arm] - self.means[other]
        return difference[np.isfinite(difference)]

    def difference(self, arm: ArmKey, other: ArmKey, level: float = 0.95) -> Estimate:
        """Return the mean paired difference, arm minus other."""
        return _estimate(self.differences(arm, other), self._over(other, arm)[0], level)

    def _over(self, null: ArmKey | None, *arms: ArmKey) -> list[Array]:
        """Return (n_replicates,) for each arm: its mean over `null`, over the concepts that all of them have."""
        if self.whole.issuperset((*arms, *([null] if null else []))):
            return [self.overall[arm] - (self.overall[null] if null else 0.0) for arm in arms]
        values = [self.replicates[arm] - (self.replicates[null] if null else 0.0) for arm in arms]
        shared = np.all([np.isfinite(one) for one in values], axis=0)
        return [nan_mean(np.where(shared, one, np.nan)) for one in values]

    def recovered(self, arm: ArmKey, native: ArmKey, level: float = 0.95, *, null: ArmKey | None = None) -> Estimate:
        """Return the recovered fraction: sum of the arm's effects over sum of native's, unclipped.

        A ratio of sums, so that a concept native hardly moves cannot blow it up. With `null` (wrong-concept) it is the
        specific one: what both have over that arm, sum(arm - null) / sum(native - null). Value None where native's interval
        (with `null`, native's over it) is not above 0: there is nothing to recover.
        """
        tops, bottoms = (self.means[one] - (self.means[null] if null else 0.0) for one in (arm, native))
        both = np.isfinite(tops) & np.isfinite(bottoms)
        n = int(both.sum())
        floor = _estimate(np.where(both, bottoms, np.nan), self._over(null, native)[0], level)
        if n < 2 or not floor.positive or bottoms[both].sum() <= 0:
            return Estimate(None, None, None, n)
        top, bottom = self._over(null, arm, native)
        known = np.isfinite(bottom) & (bottom != 0)
        ratios = np.divide(top, bottom, out=np.full(len(top), np.nan), where=known)
        return Estimate(float(tops[both].sum() / bottoms[both].sum()), *_interval(ratios, level), n)


def hierarchical_bootstrap(
    effects: Mapping[ArmKey, Array],
    neutral: Mapping[ArmKey, Array] | None = None,
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
    measured = np.any([np.isfinite(values) for values in effects.values()], axis=0)
    order = np.argsort(~measured, axis=1, kind="stable")
    drawn, flat = _draw(seed, n, n_items, tuple(measured.sum(axis=1).tolist()))
    counts = _draw_neutral(np.random.default_rng([seed, 1]), neutral, n)
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


@lru_cache(maxsize=1)
def _draw(seed: int, n: int, n_items: int, counts: tuple[int, ...]) -> tuple[Indices, Indices]:
    """Return (n, n_concepts) concepts, (n_items, n, n_concepts) places in flattened effects; past a concept's count, the NaN at their end.

    Kept, for effects, scores and scores at matched damage have the same draws. Items come first: means over a first axis are
    several times faster than over a short last one.
    """
    rng, sizes = np.random.default_rng(seed), np.array(counts)
    drawn = rng.integers(len(counts), size=(n, len(counts)))
    size = sizes[drawn][..., None]  # (n, n_concepts, 1)
    picked = (rng.random((*drawn.shape, n_items)) * size).astype(np.int64)
    beyond = np.arange(n_items) >= size
    positions = np.where(beyond, len(counts) * n_items, drawn[..., None] * n_items + picked)
    return drawn, np.ascontiguousarray(np.moveaxis(positions, -1, 0))


def _draw_neutral(rng: np.random.Generator, neutral: Mapping[ArmKey, Array] | None, n: int) -> Array | None:
    """Return (n, n_neutral): how often each neutral text is drawn; None without neutral texts."""
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
    """Return the percentile interval; None where the replicates do not vary."""
    known = replicates[np.isfinite(replicates)]
    if len(known) < 2 or np.ptp(known) <= 1e-12 * max(1.0, float(np.abs(known).max())):
        return None, None
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(known, [tail, 100 - tail])
    return float(low), float(high)
