"""Doses: the factor at which an arm does a stated damage to neutral text, for each of its vectors.

    vectors, calibration texts, levels of damage -> [ladder to the first crossing, then refined] -> doses

Equal factors are not equal doses: vectors differ in how much they disturb a model, so arms are compared at equal damage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from steer_bench.models.steered.requests import ScoreRow
from steer_bench.models.steered.scorer import Scorer
from steer_bench.models.steered.steering import Steering
from steer_bench.vectors.arms import Dose

START, STEP, RUNGS = 0.1, 1.6, 14
"""The ladder of factors: 0.1, 0.16, … up to 45."""
COARSE = 8
"""Calibration texts that the ladder is climbed on; doses are read on all of them."""
TOLERANCE = 0.05
"""How far from its level, as a share of the log-likelihood lost, a dose may be."""
ROUNDS = 12


class Sought(NamedTuple):
    """A vector whose doses are sought."""

    arm: str
    source: str
    concept: str
    levels: tuple[float, ...]
    """Perplexity ratios."""
    sign: int = 1
    """-1: the vector is subtracted."""


Point = tuple[float, float]
"""(factor, damage): log-likelihood a token lost, nats; infinite where the model gives no finite number."""


@dataclass
class _Search:
    """One vector's way to its doses."""

    sought: Sought
    ladder: list[Point] = field(default_factory=lambda: [(0.0, 0.0)])
    """On the first texts."""
    points: list[Point] = field(default_factory=lambda: [(0.0, 0.0)])
    """On all texts."""

    def next_rung(self) -> float | None:
        """Return the next factor of the ladder; None once the highest level is crossed, or at its end."""
        if self.ladder[-1][1] >= math.log(max(self.sought.levels)) or len(self.ladder) > RUNGS:
            return None
        return START * STEP ** (len(self.ladder) - 1)

    def found(self, level: float) -> Point | None:
        """Return the point near enough to a level."""
        goal = math.log(level)
        near = min(self.points, key=lambda point: abs(point[1] - goal))
        return near if abs(near[1] - goal) <= TOLERANCE * goal else None

    def next_factors(self) -> list[float]:
        """Return the factors to try now, for levels in reach that are not found yet: one at first, whose outcome places the others."""
        left = [level for level in self.sought.levels if self.found(level) is None]
        if len(self.points) == 1:
            reached = sorted(level for level in left if _crossing(self.ladder, math.log(level)))
            left = reached[len(reached) // 2 :][:1]
        return sorted({factor for level in left if (factor := self._next_factor(math.log(level))) is not None})

    def _next_factor(self, goal: float) -> float | None:
        """Return the factor to try for a damage: that of the ladder, moved as far as the nearest point on all texts lies off it."""
        guess = _factor_at(self.ladder, goal)
        measured = [point for point in self.points[1:] if 0 < point[1] < math.inf]
        if guess is None or not measured:
            return guess and _rounded(guess)
        factor, damage = min(measured, key=lambda point: abs(point[1] - goal))
        there, tried = _factor_at(self.ladder, damage), {point[0] for point in self.points}
        guess = _rounded(factor * (guess / there if there else math.sqrt(goal / damage)))
        if guess in tried:  # the ladder tells the two damages not apart
            guess = _rounded(factor * math.sqrt(goal / damage))
        bracket = _crossing(sorted(self.points), goal)
        if bracket and (len(self.points) > ROUNDS // 2 or not bracket[0][0] < guess < bracket[1][0]):
            guess = _rounded(_between(*bracket, goal, margin=0.05))
        return None if guess in tried else guess

    def dose(self, level: float) -> Dose:
        """Return what was found for a level, or why there is nothing."""
        arm, source, concept, *_ = self.sought
        point = self.found(level)
        if point is not None:
            factor, damage = point
            return Dose(
                arm=arm, source=source, concept=concept, level=level, factor=factor, damage=round(math.exp(damage), 6)
            )
        factor, most = max(self.points + self.ladder, key=lambda point: (min(point[1], 1e9), point[0]))
        if most < math.log(level):
            reason = f"damage is at most {math.exp(most):.3g}, at factor {factor:.3g}"
        else:
            reason = f"damage jumps over {level:g} between two factors, in {ROUNDS} rounds"
        return Dose(arm=arm, source=source, concept=concept, level=level, factor=None, reason=reason)


def _rounded(factor: float) -> float:
    """Return a factor to three significant digits.

    A damage differs in its last bits with the batch that it was computed in. Factors that kept these bits would make a run that was
    resumed ask for other rows than one that was never stopped.
    """
    return float(f"{factor:.3g}")


def _crossing(points: Sequence[Point], goal: float) -> tuple[Point, Point] | None:
    """Return the neighbours, by factor, between which damage first reaches the goal."""
    return next(((low, high) for low, high in pairwise(points) if high[1] >= goal), None)


def _factor_at(points: Sequence[Point], goal: float) -> float | None:
    """Return the factor at which damage first reaches the goal; None where it does not."""
    crossed = _crossing(points, goal)
    return None if crossed is None else _between(*crossed, goal)


def _between(low: Point, high: Point, goal: float, margin: float = 0.0) -> float:
    """Return the factor of a damage between two points, linear in its square root: damage grows about quadratically.

    It keeps a margin, a share of the distance, from both.
    """
    below, above = math.sqrt(max(low[1], 0.0)), math.sqrt(high[1])
    share = (math.sqrt(goal) - below) / (above - below) if math.isfinite(above) and above > below else 0.5
    return low[0] + min(max(share, margin), 1 - margin) * (high[0] - low[0])


def find_doses(scorer: Scorer, sought: Sequence[Sought], texts: Sequence[str], *, quiet: bool = False) -> list[Dose]:
    """Return the dose of every vector at each of its levels, in order.

    The damage at a factor is the log-likelihood a token that the texts lose, over all their tokens. A ladder of factors is climbed on
    the first texts until the highest level is crossed; then each level is sought on all texts until the damage is within 5 % of it.
    All vectors of a round share batches. A level that a vector does not reach has a dose without a factor, and the reason.
    Raises ValueError for a vector that there is not, and without texts.
    """
    if not texts:
        raise ValueError("doses are found on neutral texts; there are none")
    windows = [list(scorer.windows(scorer.steered.encode(text))) for text in texts]
    searches = [_Search(one) for one in sought]
    few, every = windows[:COARSE], windows
    for rung in range(RUNGS + 1):
        asked = [(search, factor) for search in searches if (factor := search.next_rung()) is not None]
        for (search, factor), damage in zip(
            asked, _damages(scorer, asked, few, f"doses, step {rung + 1}", quiet), strict=True
        ):
            search.ladder.append((factor, damage))
    for round_ in range(ROUNDS):
        asked = [(search, factor) for search in searches for factor in search.next_factors()]
        for (search, factor), damage in zip(
            asked, _damages(scorer, asked, every, f"doses, round {round_ + 1}", quiet), strict=True
        ):
            search.points.append((factor, damage))
    return [search.dose(level) for search in searches for level in search.sought.levels]


def _damages(
    scorer: Scorer,
    asked: Sequence[tuple[_Search, float]],
    windows: Sequence[Sequence[tuple[Sequence[int], Sequence[int]]]],
    what: str,
    quiet: bool,
) -> list[float]:
    """Return the log-likelihood a token lost under each vector at its factor."""
    if not asked:
        return []
    steerings = [Steering()]
    steerings += [
        Steering(s.sought.arm, s.sought.source, s.sought.concept, s.sought.sign * factor) for s, factor in asked
    ]
    rows: list[ScoreRow] = [
        scorer.row(*window, steering) for steering in steerings for text in windows for window in text
    ]
    scores = scorer.score_rows(rows, what, quiet=quiet)
    n = len(scores) // len(steerings)
    totals = [math.fsum(score.log_likelihood for score in scores[i : i + n]) for i in range(0, len(scores), n)]
    tokens = sum(score.n_tokens for score in scores[:n])
    lost = [(totals[0] - total) / tokens for total in totals[1:]]
    return [damage if math.isfinite(damage) else math.inf for damage in lost]
