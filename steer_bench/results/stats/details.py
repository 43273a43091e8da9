"""Details: what stands beside a score to tell how it came about.

effects at the factor of comparison -> [anti-steered share, specific recovered fraction, few-shot equivalent]
rows of the task `specificity` -> [matrix of vector by scored concept]
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from steer_bench.results.measures import SPECIFICITY
from steer_bench.results.rows import Array, Row, Rows
from steer_bench.results.stats.blocks import Arm, Pooled, nan_mean
from steer_bench.results.stats.bootstrap import Bootstrap, Estimate, hierarchical_bootstrap
from steer_bench.results.stats.effects import Measured
from steer_bench.results.stats.verdict import WRONG
from steer_bench.vectors.store import UNSTEERED

NATIVE = Arm("", "native")


class AntiSteered(NamedTuple):
    """Samples that an arm moved the wrong way; the share is None where nothing was measured."""

    share: float | None
    n: int


class FewShot(NamedTuple):
    """How many texts a side the target needs for a vector of its own that does as much."""

    n: float | None
    """None where it can not be said: no few-shot arms, or the arm's effect can not be had."""
    beyond: str = ""
    """"<" where the smallest n already does as much, ">" where the largest does not."""

    def __str__(self) -> str:
        """As tables show it."""
        return "n/a" if self.n is None else f"{self.beyond}{self.n:.3g}"


@dataclass(frozen=True)
class Details:
    """One arm beside its score."""

    arm: Arm
    anti_steered: AntiSteered
    specific: Estimate
    """Recovered fraction over wrong-concept; value None without that arm or where native is not above it."""
    few_shot: FewShot


def details(measured: Measured, bootstrap: Bootstrap, few_shot: Mapping[str, int]) -> dict[Arm, Details]:
    """The details of every arm but the unsteered one, from what was measured and its bootstrap; `few_shot`: texts a side by arm."""
    null = next((arm for arm in bootstrap.means if arm.name == WRONG), None)
    curve, passed = few_shot_curve(bootstrap, few_shot), bootstrap.gated(measured.gate)
    found = {}
    for arm in bootstrap.means:
        if arm.name == UNSTEERED:
            continue
        specific = Estimate(None, None, None, 0)
        if null is not None and NATIVE in bootstrap.means and arm != null:
            specific = passed.recovered(arm, NATIVE, null=null)
        own = few_shot.get(arm.name)
        equal = FewShot(float(own)) if own else few_shot_equal(curve, bootstrap.effect(arm).value)
        found[arm] = Details(arm, anti_steered(measured, arm), specific, equal)
    return found


def anti_steered(measured: Measured, arm: Arm) -> AntiSteered:
    """Share of single samples (a concept's text or prompt) whose score fell under the arm, at its factor.

    For likelihoods a sample's effect is its own change minus the mean change of the neutral texts under that vector. A mean
    effect above 0 can hide that half of the samples go the wrong way (Tan et al. 2024, arXiv 2407.12404).
    """
    effects = measured.effects[arm]
    if measured.neutral[arm].shape[1]:
        effects = effects - nan_mean(measured.neutral[arm])[:, None]
    known = effects[np.isfinite(effects)]
    return AntiSteered(float((known < 0).mean()) if len(known) else None, len(known))


def few_shot_curve(bootstrap: Bootstrap, few_shot: Mapping[str, int]) -> dict[int, float]:
    """Return n -> effect of the target's own vector from n texts a side."""
    effects = {few_shot[arm.name]: bootstrap.effect(arm).value for arm in bootstrap.means if arm.name in few_shot}
    return {n: value for n, value in sorted(effects.items()) if value is not None}


def few_shot_equal(curve: Mapping[int, float], effect: float | None) -> FewShot:
    """The smallest n at which the few-shot effect reaches `effect`, linear in log n between the n that were measured.

    >>> few_shot_equal({1: 0.1, 2: 0.2, 8: 0.4}, 0.3)  # half way from log 2 to log 8: log 4
    FewShot(n=4.0, beyond='')
    >>> str(few_shot_equal({1: 0.1, 2: 0.2}, 0.3)), str(few_shot_equal({1: 0.1, 2: 0.2}, 0.05))
    ('>2', '<1')
    """
    if effect is None or not curve:
        return FewShot(None)
    numbers = sorted(curve)
    if curve[numbers[0]] >= effect:
        return FewShot(float(numbers[0]), "" if curve[numbers[0]] == effect else "<")
    for low, high in pairwise(numbers):
        if curve[high] >= effect:
            share = (effect - curve[low]) / (curve[high] - curve[low])
            return FewShot(round(math.exp(math.log(low) + share * (math.log(high) - math.log(low))), 9))
    return FewShot(float(numbers[-1]), ">")


@dataclass(frozen=True)
class Specificity:
    """What each concept's vector does to the texts of every concept, at one factor."""

    concepts: tuple[str, ...]
    matrix: Array
    """(n_concepts, n_concepts): change of log-likelihood a token; row: the vector's concept, column: the texts' concept."""

    @property
    def own(self) -> Array:
        """(n_concepts,): each vector on the texts of its own concept."""
        return self.matrix.diagonal()

    @property
    def others(self) -> Array:
        """(n_concepts,): each vector on the texts of the other concepts, mean."""
        off = np.where(np.eye(len(self.concepts), dtype=bool), np.nan, self.matrix)
        return nan_mean(off)

    @property
    def difference(self) -> Estimate:
        """Own minus others, mean over vectors with a bootstrap interval: 0 for a vector that only fits text in general."""
        if not len(self.concepts):
            return Estimate(None, None, None, 0)
        arm = Arm("", SPECIFICITY)
        return hierarchical_bootstrap({arm: (self.own - self.others)[:, None]}).effect(arm)

    @property
    def top1(self) -> float | None:
        """Share of vectors that raise the texts of their own concept most; None where no row is whole."""
        whole = np.isfinite(self.matrix).all(axis=1)
        if not whole.any():
            return None
        return float((self.matrix[whole].argmax(axis=1) == np.flatnonzero(whole)).mean())


def specificity(rows: Iterable[Row], target: str, pooled: Pooled | None = None) -> dict[Arm, Specificity]:
    """The matrix of every arm from the rows of the task `specificity`, whose role names the concept of the text."""
    steered: dict[Arm, dict[tuple[str, str], list[float]]] = {}
    plain: dict[str, float] = {}
    kept = [row for row in Rows.of(rows).where(task=SPECIFICITY, target=target) if row.value is not None]
    for row in kept:
        if row.arm == UNSTEERED and row.value is not None:
            plain[row.item] = row.value
    for row in kept:
        if row.arm != UNSTEERED and row.item in plain and row.value is not None:
            cells = steered.setdefault(Arm(row.source, (pooled or {}).get(row.arm, row.arm)), {})
            cells.setdefault((row.concept, scored_concept(row.item)), []).append(row.value - plain[row.item])
    concepts = tuple(sorted({concept for cells in steered.values() for pair in cells for concept in pair}))
    return {arm: Specificity(concepts, _matrix(cells, concepts)) for arm, cells in steered.items()}


def scored_concept(item: str) -> str:
    """The concept whose text an item is: `sea-3` is a text of `sea`."""
    return item.rpartition("-")[0]


def _matrix(cells: Mapping[tuple[str, str], Sequence[float]], concepts: Sequence[str]) -> Array:
    return np.array(
        [
            [math.fsum(v) / len(v) if (v := cells.get((row, column))) else math.nan for column in concepts]
            for row in concepts
        ]
    ).reshape(len(concepts), len(concepts))
