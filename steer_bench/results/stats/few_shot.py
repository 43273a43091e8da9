"""Few-shot equivalent: how many texts a side the target needs for a vector of its own that does as much.

effects of the few-shot arms -> [curve over n] -> n of every arm
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

from steer_bench.results.stats.bootstrap import Bootstrap


class FewShot(NamedTuple):
    """How many texts a side the target needs for a vector of its own that does as much."""

    n: float | None
    """None when undefined: no few-shot arms, or an arm without an effect."""
    beyond: str = ""
    """"<" where the smallest n already does as much, ">" where the largest does not."""

    def __str__(self) -> str:
        """As tables show it."""
        return "n/a" if self.n is None else f"{self.beyond}{self.n:.3g}"


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
