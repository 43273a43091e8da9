"""Verdicts: may an arm be said to transfer?

    bootstrap -> [permutation test, Holm, equivalence] -> verdict, and why

A claim needs all of: native steers, the arm steers, and the arm beats every control.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from steer_bench.results.rows import Array
from steer_bench.results.stats.bootstrap import Bootstrap, Estimate
from steer_bench.results.stats.grid import ArmKey

Word = Literal["transfers", "equivalent to native", "no evidence", "native itself does not steer"]
ALPHA = 0.05
MARGIN = 0.1
"""Equivalence margin, as a fraction of native's effect."""
EXACT_UP_TO = 12
WRONG = "wrong-concept"
"""The control of the confirmatory test: a vector as strong as native, about something else."""


class Equivalence(NamedTuple):
    """Two one-sided tests of arm minus native (Schuirmann 1987), by the bootstrap."""

    equivalent: bool
    low: float | None
    high: float | None
    """90 % interval of the difference: both one-sided tests at 5 %."""
    margin: float | None
    """In the units of the effect."""


class Comparison(NamedTuple):
    """An arm against one control."""

    control: ArmKey
    difference: Estimate
    p: float
    """Sign-flip p, two-sided; 1 when undefined."""


class Verdict(NamedTuple):
    """What may be said of an arm, and the reason in words."""

    word: Word
    why: str


def sign_flip_p(differences: Sequence[float] | np.ndarray, *, n: int = 10_000, seed: int = 0) -> float | None:
    """Return the two-sided permutation p that paired differences have mean 0: each may as well have had the other sign.

    Exact up to 12 differences, else `n` seeded draws with the observed one counted. None with fewer than 2.

    >>> sign_flip_p([1.0, 2.0, 3.0])  # of 8 sign patterns, +++ and --- reach the sum 6
    0.25
    """
    values = np.asarray(differences, dtype=float)
    if not np.isfinite(values).all():
        raise ValueError("differences hold NaN or infinity; leave unmeasured concepts out")
    if len(values) < 2:
        return None
    observed = abs(values.sum())
    slack = 1e-9 * max(float(np.abs(values).sum()), 1e-300)
    exact = len(values) <= EXACT_UP_TO
    signs = _all_signs(len(values)) if exact else _drawn_signs(len(values), n, seed)
    sums = np.einsum("ni,i->n", signs, values)  # not @: see hierarchical_bootstrap
    reached = int((np.abs(sums) >= observed - slack).sum())
    return reached / len(signs) if exact else (1 + reached) / (1 + n)


@lru_cache(maxsize=4)
def _all_signs(length: int) -> Array:
    """Return (2 ** length, length): every pattern of -1 and 1."""
    bits = np.arange(2**length)[:, None] >> np.arange(length) & 1
    return (2 * bits - 1).astype(np.float64)


@lru_cache(maxsize=4)
def _drawn_signs(length: int, n: int, seed: int) -> Array:
    """Return (n, length): random patterns of -1 and 1, kept because every comparison of a board asks for the same."""
    bits = np.random.default_rng(seed).integers(2, size=(n, length))
    return (2 * bits - 1).astype(np.float64)


def holm(p: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p values (Holm 1979), in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=float)
    if not np.isfinite(values).all() or (values < 0).any() or (values > 1).any():
        raise ValueError(f"p values {list(p)} are not all in [0, 1]; leave out the tests that could not be run")
    adjusted, running = [0.0] * len(values), 0.0
    for rank, index in enumerate(np.argsort(values, kind="stable")):
        running = max(running, min(1.0, (len(values) - rank) * float(values[index])))
        adjusted[int(index)] = running
    return adjusted


def tost(bootstrap: Bootstrap, arm: ArmKey, native: ArmKey, margin: float = MARGIN) -> Equivalence:
    """Return whether the 90 % interval of arm minus native lies within plus or minus `margin` of native's effect."""
    effect, difference = bootstrap.effect(native), bootstrap.difference(arm, native, level=0.9)
    if effect.value is None or effect.value <= 0 or difference.value is None or difference.n < 2:
        return Equivalence(False, difference.low, difference.high, None)
    allowed = margin * effect.value
    low = difference.value if difference.low is None else difference.low
    high = difference.value if difference.high is None else difference.high
    return Equivalence(-allowed < low and high < allowed, difference.low, difference.high, allowed)


def verdict(
    native: Estimate, effect: Estimate, comparisons: Sequence[Comparison], adjusted_p: float, equivalent: bool
) -> Verdict:
    """Apply the rule itself: gate, effect, every control, then equivalence."""
    if native.n < 2:
        return Verdict("no evidence", f"native was measured on {native.n} concept(s); at least 2 are needed")
    if not native.positive:
        return Verdict("native itself does not steer", f"native's effect {_words(native)} is not above 0")
    if not effect.positive:
        return Verdict("no evidence", f"its effect {_words(effect)} is not above 0")
    if not comparisons:
        return Verdict("no evidence", "the run has no control to compare with")
    for comparison in comparisons:
        if not comparison.difference.positive:
            words = _words(comparison.difference)
            return Verdict("no evidence", f"it does not beat {comparison.control.name}: difference {words}")
    if adjusted_p > ALPHA:
        hardest = max(_confirmatory(comparisons), key=lambda comparison: comparison.p).control.name
        return Verdict("no evidence", f"against {hardest}, p = {adjusted_p:.3f} after Holm (n={effect.n} concepts)")
    if equivalent:
        return Verdict("equivalent to native", "it beats every control and lies within the margin of native")
    return Verdict("transfers", f"it beats every control (p = {adjusted_p:.2g} after Holm)")


def verdicts(
    bootstrap: Bootstrap, arms: Sequence[ArmKey], native: ArmKey, controls: Sequence[ArmKey], margin: float = MARGIN
) -> Mapping[ArmKey, Verdict]:
    """Return the verdict of every arm. A control counts where it has no source or the arm's own.

    An arm must beat all its controls. The confirmatory test is the one against wrong-concept, or, in a run without that, against
    all controls at once (the largest of their p: an intersection-union test); Holm's correction then runs over the arms.
    """
    if native not in bootstrap.means:
        return {arm: Verdict("no evidence", "the run has no native arm to compare with") for arm in arms}
    compared = {arm: [_compare(bootstrap, arm, c) for c in controls if c.source in ("", arm.source)] for arm in arms}
    adjusted = holm([max((c.p for c in _confirmatory(compared[arm])), default=1.0) for arm in arms])
    gate = bootstrap.effect(native)
    return {
        arm: verdict(gate, bootstrap.effect(arm), compared[arm], p, tost(bootstrap, arm, native, margin).equivalent)
        for arm, p in zip(arms, adjusted, strict=True)
    }


def _confirmatory(comparisons: Sequence[Comparison]) -> Sequence[Comparison]:
    """Return the comparison with wrong-concept, or all where there is none."""
    return [comparison for comparison in comparisons if comparison.control.name == WRONG] or comparisons


def _compare(bootstrap: Bootstrap, arm: ArmKey, control: ArmKey) -> Comparison:
    p = sign_flip_p(bootstrap.differences(arm, control))
    return Comparison(control, bootstrap.difference(arm, control), 1.0 if p is None else p)


def _words(estimate: Estimate) -> str:
    if estimate.value is None:
        return "n/a"
    interval = "" if estimate.low is None else f" [{estimate.low:.3f}, {estimate.high:.3f}]"
    return f"{estimate.value:.3f}{interval}"
