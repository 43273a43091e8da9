"""Behind a score: how it came about.

effects at the factor of comparison -> [anti-steered share, specific recovered fraction, few-shot equivalent]
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from steer_bench.results.stats.bootstrap import Bootstrap, Estimate
from steer_bench.results.stats.effects import TaskEffects
from steer_bench.results.stats.grid import NATIVE, ArmKey, nan_mean
from steer_bench.results.stats.verdict import WRONG
from steer_bench.vectors.arms import UNSTEERED


class AntiSteered(NamedTuple):
    """Samples that an arm moved the wrong way; the share is None where nothing was measured."""

    share: float | None
    n: int


class FewShot(NamedTuple):
    """How many texts a side the target needs for a vector of its own that does as much."""

    n: float | None
    """None when undefined: no few-shot arms, or an arm without an effect."""
    beyond: str = ""
    """"<" where the smallest n already does as much, ">" where the largest does not."""

    def __str__(self) -> str:
        """Return it as tables show it."""
        return "n/a" if self.n is None else f"{self.beyond}{self.n:.3g}"


class BehindScore(NamedTuple):
    """One arm beside its score."""

    anti_steered: AntiSteered
    specific: Estimate
    """Recovered fraction over wrong-concept; value None without that arm or where native is not above it."""
    few_shot: FewShot


def behind_scores(
    measured: TaskEffects, bootstrap: Bootstrap, few_shot: Mapping[str, int]
) -> dict[ArmKey, BehindScore]:
    """Return the details of every arm but the unsteered one; `few_shot`: texts a side by arm."""
    null = next((arm for arm in bootstrap.means if arm.name == WRONG), None)
    sizes = sorted((few_shot[arm.name], bootstrap.effect(arm).value) for arm in bootstrap.means if arm.name in few_shot)
    curve, passed = {n: value for n, value in sizes if value is not None}, bootstrap.gated(measured.gate)
    found = {}
    for arm in bootstrap.means:
        if arm.name == UNSTEERED:
            continue
        specific = Estimate(None, None, None, 0)
        if null is not None and NATIVE in bootstrap.means and arm != null:
            specific = passed.recovered(arm, NATIVE, null=null)
        own = few_shot.get(arm.name)
        equal = FewShot(float(own)) if own else few_shot_equal(curve, bootstrap.effect(arm).value)
        found[arm] = BehindScore(anti_steered(measured, arm), specific, equal)
    return found


def anti_steered(measured: TaskEffects, arm: ArmKey) -> AntiSteered:
    """Return the share of single samples (a concept's text or prompt) whose score fell under the arm, at its factor.

    For likelihoods a sample's effect is its own change minus the mean change of the neutral texts under that vector. A mean
    effect above 0 can hide that half of the samples go the wrong way (Tan et al. 2024, arXiv 2407.12404).
    """
    effects = measured.effects[arm]
    if measured.neutral[arm].shape[1]:
        effects = effects - nan_mean(measured.neutral[arm])[:, None]
    known = effects[np.isfinite(effects)]
    return AntiSteered(float((known < 0).mean()) if len(known) else None, len(known))


def few_shot_equal(curve: Mapping[int, float], effect: float | None) -> FewShot:
    """Return the smallest n at which the few-shot effect reaches `effect`, linear in log n between the n that were measured.

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
