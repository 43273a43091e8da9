"""Verdicts: may an arm be said to transfer?

    values -> [sign flips against every control, Holm over the claims of the run, equivalence] -> verdict, and why

A claim needs all of: native steers, and the arm beats every control, wrong-concept among them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from steer_bench.results.stats.estimate import mean_estimate
from steer_bench.results.stats.grid import NATIVE, ArmKey
from steer_bench.results.stats.tests import ALPHA, DRAWS, benjamini_hochberg, fewest_concepts, holm, sign_flip_p
from steer_bench.results.stats.values import REFERENCE, TaskValues

Word = Literal["transfers", "equivalent to native", "no evidence", "native itself does not steer", "too few concepts"]
MARGIN = 0.1
"""An arm is equivalent to native between 0.9 and 1.1 of its effect."""
EQUIVALENT = 0.92
"""Level of the interval whose ends are the two one-sided tests: 4 % each, so that skewed values too are said to be equivalent falsely
in at most 6 % (benchmarks/STATISTICS.md)."""


class Verdict(NamedTuple):
    """What may be said of an arm, and the reason in words."""

    word: Word
    why: str
    exploratory: bool = False
    """Whether the arm is none that the experiment claims to transfer: corrected among such arms alone."""


@dataclass(frozen=True)
class Case:
    """What is judged: one arm on one task of one target."""

    values: TaskValues
    arm: ArmKey
    controls: tuple[ArmKey, ...]
    claimed: bool = True


class Comparison(NamedTuple):
    """An arm against one control."""

    control: ArmKey
    p: float
    n: int
    """Concepts that both have."""


def verdicts(cases: Sequence[Case]) -> list[Verdict]:
    """Return the verdict of every case of a run: Holm over all that are claimed, Benjamini-Hochberg over the others."""
    claims = [case for case in cases if case.claimed]
    draws = max(DRAWS, round(2 * len(claims) / ALPHA))  # so many that the smallest p passes after correction
    compared = [_compare(case, draws) for case in cases]
    adjusted = [1.0] * len(cases)
    for claimed, correct in ((True, holm), (False, benjamini_hochberg)):
        mine = [place for place, case in enumerate(cases) if case.claimed == claimed]
        largest = [max((one.p for one in compared[place]), default=1.0) for place in mine]
        for place, p in zip(mine, correct(largest), strict=True):
            adjusted[place] = p
    found = []
    for case, comparisons, p in zip(cases, compared, adjusted, strict=True):
        word, why = _verdict(case, comparisons, p, len(claims) if case.claimed else 1)
        found.append(Verdict(word, why, not case.claimed))
    return found


def native_verdict(values: TaskValues) -> Verdict | None:
    """Return what keeps every arm of a task from a verdict; None where native steers."""
    for arm in (REFERENCE, NATIVE):
        if arm not in values.items:
            return Verdict("no evidence", f"the run has no {arm.name} to compare with")
    effects = values.differences(NATIVE)
    n, fewest = int(np.isfinite(effects).sum()), fewest_concepts(1)
    if n < fewest:
        return Verdict(
            "too few concepts", f"native has an effect on {n} concepts; {fewest} are the fewest that can pass"
        )
    p, shown = sign_flip_p(effects), mean_estimate(effects)
    if p > ALPHA or (shown.low is not None and shown.low <= 0):
        interval = "" if shown.low is None else f" [{shown.low:.3f}, {shown.high:.3f}]"
        return Verdict(
            "native itself does not steer", f"its effect {shown.value:.3f}{interval} is not above 0 (p = {p:.2g})"
        )
    return None


def _compare(case: Case, draws: int) -> list[Comparison]:
    """Return the comparison with every control; one that shares no concept with the arm has p 1: it is not beaten."""
    differences = [case.values.differences(case.arm, control) for control in case.controls]
    counts = [int(np.isfinite(one).sum()) for one in differences]
    return [
        Comparison(control, sign_flip_p(values, draws=draws), n)
        for control, values, n in zip(case.controls, differences, counts, strict=True)
    ]


def _verdict(case: Case, comparisons: Sequence[Comparison], p: float, n_claims: int) -> tuple[Word, str]:
    barred = native_verdict(case.values)
    if barred is not None:
        return barred.word, barred.why
    if not comparisons:
        return "no evidence", "the run has no control to compare with"
    n, fewest = int(np.isfinite(case.values.value(case.arm)).sum()), fewest_concepts(n_claims)
    worst = max(comparisons, key=lambda one: (one.p, -one.n))
    correction = f"after {'Holm' if case.claimed else 'Benjamini-Hochberg'}"
    if p <= ALPHA:
        missed = "".join(f"; {one.control.name} without {n - one.n}" for one in comparisons if one.n < n)
        word: Word = "equivalent to native" if equivalent(case.values, case.arm) else "transfers"
        return word, f"it beats every control (p = {p:.2g} {correction}, {n} concepts{missed})"
    if n < fewest:
        return "too few concepts", f"{n} concepts; with {n_claims} claims {fewest} are the fewest that can pass"
    if worst.n < fewest:
        shared = f"both reach the level on {worst.n} concepts, {fewest} needed"
        return "no evidence", f"it cannot beat {worst.control.name}: {shared}"
    return "no evidence", f"against {worst.control.name}, p = {p:.2g} {correction} ({worst.n} concepts)"


def equivalent(values: TaskValues, arm: ArmKey) -> bool:
    """Return whether the arm's effect is more than 0.9 and less than 1.1 of native's, each by a one-sided test."""
    mine, native = values.differences(arm), values.differences(NATIVE)
    sides = (mine - (1 - MARGIN) * native, (1 + MARGIN) * native - mine)
    return all(mean_estimate(side, level=EQUIVALENT).positive for side in sides)


def controls_of(arm: ArmKey, controls: Iterable[ArmKey]) -> tuple[ArmKey, ...]:
    """Return the controls that an arm must beat: those without a source, and those of its own."""
    return tuple(control for control in sorted(controls) if control.source in ("", arm.source))
