"""Behind a score: how it came about.

values -> [anti-steered share, few-shot equivalent]
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from steer_bench.results.stats.grid import ArmKey
from steer_bench.results.stats.values import REFERENCE, TaskValues


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


def anti_steered(values: TaskValues, arm: ArmKey) -> AntiSteered:
    """Return the share of single samples (a concept's text or prompt) on which the arm does less than wrong-concept.

    A mean effect above 0 can hide that half of the samples go the wrong way (Tan et al. 2024, arXiv 2407.12404).
    """
    effects = values.items[arm] - values.items[REFERENCE]
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
