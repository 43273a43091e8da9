"""Behind a score: how it came about.

effects at the factor of comparison -> [anti-steered share, specific recovered fraction, few-shot equivalent]
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from steer_bench.results.stats.bootstrap import Bootstrap, Estimate
from steer_bench.results.stats.effects import TaskEffects
from steer_bench.results.stats.few_shot import FewShot, few_shot_curve, few_shot_equal
from steer_bench.results.stats.grid import NATIVE, ArmKey, nan_mean
from steer_bench.results.stats.verdict import WRONG
from steer_bench.vectors.arms import UNSTEERED


class AntiSteered(NamedTuple):
    """Samples that an arm moved the wrong way; the share is None where nothing was measured."""

    share: float | None
    n: int


@dataclass(frozen=True)
class BehindScore:
    """One arm beside its score."""

    arm: ArmKey
    anti_steered: AntiSteered
    specific: Estimate
    """Recovered fraction over wrong-concept; value None without that arm or where native is not above it."""
    few_shot: FewShot


def behind_scores(
    measured: TaskEffects, bootstrap: Bootstrap, few_shot: Mapping[str, int]
) -> dict[ArmKey, BehindScore]:
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
        found[arm] = BehindScore(arm, anti_steered(measured, arm), specific, equal)
    return found


def anti_steered(measured: TaskEffects, arm: ArmKey) -> AntiSteered:
    """Share of single samples (a concept's text or prompt) whose score fell under the arm, at its factor.

    For likelihoods a sample's effect is its own change minus the mean change of the neutral texts under that vector. A mean
    effect above 0 can hide that half of the samples go the wrong way (Tan et al. 2024, arXiv 2407.12404).
    """
    effects = measured.effects[arm]
    if measured.neutral[arm].shape[1]:
        effects = effects - nan_mean(measured.neutral[arm])[:, None]
    known = effects[np.isfinite(effects)]
    return AntiSteered(float((known < 0).mean()) if len(known) else None, len(known))
