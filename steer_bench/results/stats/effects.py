"""Effects: what each arm did to each concept and item, at the factor where arms are compared.

    rows -> [block of values, factor curves, matched or selected factor, per-item effects] -> bootstrap

Likelihood arms meet at matched damage, generation arms at the factor chosen on the selection prompts.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steer_bench.results.measures import LIKELIHOOD
from steer_bench.results.rows import Array, Integers, Row
from steer_bench.results.stats.grid import NATIVE, ArmKey, Pooled, RoleGrid, ValueGrid, nan_mean, value_grid
from steer_bench.vectors.arms import UNSTEERED

DAMAGE_LIMIT = 1.3
"""Arms are compared at the largest factor whose perplexity ratio on neutral text is at most this."""


class MatchedFactor(NamedTuple):
    """The factor at which an arm does the allowed damage."""

    factor: float
    reached: bool
    """Whether the grid crosses the limit; else `factor` is the grid's largest."""


def matched_factor(factors: Sequence[float], ratios: Sequence[float], limit: float = DAMAGE_LIMIT) -> MatchedFactor:
    """Return the largest factor, walking up from 0, whose perplexity ratio is at most `limit`.

    The first crossing counts; between grid points the log ratio is taken as linear, and factor 0 has ratio 1.

    >>> matched_factor([1.0, 2.0], [1.1, 1.21], limit=1.1 * 1.1**0.5)
    MatchedFactor(factor=1.5, reached=True)
    >>> matched_factor([1.0, 2.0], [1.1, 1.2])
    MatchedFactor(factor=2.0, reached=False)
    """
    if len(factors) != len(ratios) or not len(factors):
        raise ValueError(f"{len(factors)} factors and {len(ratios)} ratios; give one ratio a factor, at least one")
    if any(not math.isfinite(x) or x <= 0 for x in (*factors, *ratios)) or limit <= 1:
        raise ValueError("factors and ratios are finite and above 0, the limit above 1; leave unmeasured factors out")
    below, log_below = 0.0, 0.0
    for factor, ratio in sorted(zip(map(float, factors), map(float, ratios), strict=True)):
        if ratio > limit:
            share = (math.log(limit) - log_below) / (math.log(ratio) - log_below)
            return MatchedFactor(round(below + share * (factor - below), 12), True)
        below, log_below = factor, math.log(ratio)
    return MatchedFactor(below, False)


def best_factor_index(values: Array, asked: NDArray[np.bool_], among: NDArray[np.bool_]) -> Integers:
    """Return (...): place of the factor with the best mean on the selection prompts, of equals the first; -1 where none can be selected.

    values: (..., n_factors, n_prompts), NaN where unscored; asked: the same shape, prompts that there are; among: (..., n_factors),
    the factors to select from. Unscored values are left out; a factor with less than half of its prompts scored cannot be selected.
    With one factor there is nothing to select.

    >>> best_factor_index(np.array([[1.0, 0.0], [0.0, 1.0], [2.0, np.nan]]), np.ones((3, 2), bool), np.ones(3, bool)).item()
    2
    """
    scored = np.isfinite(values).sum(axis=-1)
    can = among & (scored > 0) & (2 * scored >= asked.sum(axis=-1))
    means = nan_mean(values)
    best, place = np.full(among.shape[:-1], -np.inf), np.full(among.shape[:-1], -1)
    for factor in range(among.shape[-1]):
        better = can[..., factor] & (np.nan_to_num(means[..., factor]) > best + 1e-12)
        best, place = np.where(better, means[..., factor], best), np.where(better, factor, place)
    return np.where(among.sum(axis=-1) == 1, among.argmax(axis=-1), place)


@dataclass(frozen=True)
class Curve:
    """What one arm does to the likelihood of one concept's texts and of neutral texts, over its factors.

    Changes are log-likelihood a token, steered minus unsteered, nats; NaN where unmeasured.
    """

    factors: Array
    """(n_factors,), ascending."""
    concept: Array
    """(n_factors, n_texts): change on the concept's texts."""
    neutral: Array
    """(n_factors, n_neutral): change on neutral texts."""
    tokens: Array
    """(n_neutral,): tokens of the neutral texts, the weights of the perplexity ratio."""

    @cached_property
    def lifts(self) -> Array:
        """(n_factors,): mean change on concept texts minus mean change on neutral texts, nats a token."""
        return nan_mean(self.concept) - nan_mean(self.neutral)

    @cached_property
    def ratios(self) -> Array:
        """(n_factors,): perplexity of the neutral texts, steered over unsteered."""
        known = np.isfinite(self.neutral)
        weights = np.where(known, self.tokens, 0.0)
        total = weights.sum(axis=-1)
        change = (np.where(known, self.neutral, 0.0) * weights).sum(axis=-1)
        return np.exp(-np.divide(change, total, out=np.full(len(total), np.nan), where=total > 0))

    def matched(self, limit: float = DAMAGE_LIMIT) -> MatchedFactor | None:
        """Return `matched_factor` over the factors whose ratio is known; None where none is."""
        if not self.factors.any():  # an arm without a factor, such as a prompt: it does what it does
            return MatchedFactor(0.0, False)
        ratios = self.ratios
        known = np.isfinite(ratios)
        return matched_factor(list(self.factors[known]), list(ratios[known]), limit) if known.any() else None

    def at(self, factor: float) -> "Curve":
        """Return the curve at one factor, linear between its factors and 0 at factor 0."""
        exact = self.factors == factor
        if exact.any():
            return Curve(self.factors[exact], self.concept[exact], self.neutral[exact], self.tokens)
        grid = np.concatenate([[0.0], self.factors])
        upper = int(np.clip(np.searchsorted(grid, factor), 1, len(grid) - 1))
        share = min(1.0, (factor - grid[upper - 1]) / (grid[upper] - grid[upper - 1]))

        def between(changes: Array) -> Array:
            low = changes[upper - 2] if upper > 1 else np.zeros(changes.shape[1])
            return ((1 - share) * low + share * changes[upper - 1])[None]

        return Curve(np.array([factor]), between(self.concept), between(self.neutral), self.tokens)


def factors_within_damage(factors: Array, cost: Curve | None, limit: float) -> tuple[NDArray[np.bool_], bool]:
    """Return (n_factors,): those up to the one at which the arm does the allowed damage; and whether it is known that larger ones do more.

    A factor whose cost is not known, for it lies above the cost's grid or there is no cost, is not among them. An arm without
    factors costs nothing on neutral text.
    """
    if math.isinf(limit):
        return np.ones(len(factors), dtype=bool), False
    matched = None if cost is None else cost.matched(limit)
    return factors <= (0.0 if matched is None else matched.factor), matched is not None and matched.reached


@dataclass(frozen=True)
class TaskEffects:
    """What one task measured on one target: per-item values of every arm at its factor; NaN where unmeasured."""

    concepts: tuple[str, ...]
    effects: Mapping[ArmKey, Array]
    """(n_concepts, n_items): arm minus unsteered, on the same items (likelihood: change on the concept's texts)."""
    neutral: Mapping[ArmKey, Array]
    """(n_concepts, n_neutral): change on neutral texts, to be taken off; no columns for generation tasks."""
    scores: Mapping[ArmKey, Array]
    """(n_concepts, n_items): the score itself; the effects again for likelihood."""
    factors: Mapping[ArmKey, Array]
    """(n_concepts,): the matched or selected factor."""
    ratios: Mapping[ArmKey, Array]
    """(n_concepts,): perplexity ratio on neutral text at that factor."""
    scored: Mapping[ArmKey, int]
    """Values there are."""
    totals: Mapping[ArmKey, int]
    """Values there should be: of several samples of a prompt, and seeds of a random arm, each is one."""
    gate: NDArray[np.bool_] | None = None
    """(n_concepts,): concepts that native moves on the selection prompts; None where the task has no such prompts."""


def likelihood_curves(
    rows: Iterable[Row], target: str, task: str = LIKELIHOOD, pooled: Pooled | None = None
) -> dict[ArmKey, dict[str, Curve]]:
    """Return factor curves of every arm and concept, paired by item with the unsteered rows."""
    block = value_grid(rows, task, target, pooled)
    texts, neutral = block.role("concept"), block.role("neutral", shared=True)
    curves: dict[ArmKey, dict[str, Curve]] = {}
    for a, arm in enumerate(block.arms):
        for c, concept in enumerate(block.concepts):
            measured = block.measured[a, c]
            measured = measured & (block.factors != 0) if block.factors[measured].any() else measured
            if not measured.any():
                continue
            width = texts.widths[c]
            changes = texts.values[a, c, measured, :width] - texts.base[c, :width]
            tokens = neutral.tokens[c] if neutral.tokens[c].any() else np.ones(neutral.tokens.shape[1])
            costs = neutral.values[a, c, measured] - neutral.base[c]
            curves.setdefault(arm, {})[concept] = Curve(block.factors[measured], changes, costs, tokens)
    return curves


def measure_likelihood(curves: Mapping[ArmKey, Mapping[str, Curve]], limit: float = DAMAGE_LIMIT) -> TaskEffects:
    """Return the likelihood lift of every arm and concept at matched damage; the unsteered arm is 0 by definition."""
    concepts = tuple(sorted({concept for by_concept in curves.values() for concept in by_concept}))
    widths = {c: by[c].concept.shape[1] for by in curves.values() for c in by}
    n_items = max(widths.values(), default=0)
    n_neutral = max((curve.neutral.shape[1] for by in curves.values() for curve in by.values()), default=0)
    effects, neutral, factors, ratios, totals = {}, {}, {}, {}, {}
    for arm, by_concept in curves.items():
        effects[arm], neutral[arm] = _missing(len(concepts), n_items), _missing(len(concepts), n_neutral)
        factors[arm], ratios[arm] = _missing(len(concepts)), _missing(len(concepts))
        totals[arm] = sum(widths.values()) + len(concepts) * n_neutral
        for index, concept in enumerate(concepts):
            matched = by_concept[concept].matched(limit) if concept in by_concept else None
            if matched is None:
                continue
            point = by_concept[concept].at(matched.factor)
            effects[arm][index, : point.concept.shape[1]] = point.concept[0]
            neutral[arm][index] = point.neutral[0]
            factors[arm][index], ratios[arm][index] = matched.factor, point.ratios[0]
    scored = {arm: int(np.isfinite(effects[arm]).sum() + np.isfinite(neutral[arm]).sum()) for arm in effects}
    return TaskEffects(concepts, effects, neutral, effects, factors, ratios, scored, totals)


def measure_generation(
    block: ValueGrid, *, costs: Mapping[ArmKey, Mapping[str, Curve]] | None = None, limit: float = math.inf
) -> TaskEffects:
    """Return scores and effects on role "score" at the factor selected on role "select", per arm and concept.

    `costs`: likelihood curves that give the perplexity ratio at the selected factor. With a `limit` only factors up to the matched
    one can be selected (see `factors_within_damage`); an arm that does more at the smallest does not steer. The unsteered arm has effect 0.
    """
    score, select = block.role("score"), block.role("select")
    curves = [[(costs or {}).get(arm, {}).get(concept) for concept in block.concepts] for arm in block.arms]
    place, idle = _chosen(block, select, curves, limit)
    lost, at = (place < 0) & ~idle, np.maximum(place, 0)[..., None, None]

    def picked(steered: np.ndarray, unsteered: np.ndarray) -> np.ndarray:
        """Return (n_arms, n_concepts, ...) at the chosen factors, of (n_arms, n_concepts, n_factors, ...) and (n_concepts, ...)."""
        return np.where(idle[..., None], unsteered, np.take_along_axis(steered, at, axis=2)[:, :, 0])

    values = np.where(lost[..., None], np.nan, picked(score.values, score.base))
    grid = np.broadcast_to(block.factors[:, None], (*block.measured.shape, 1))
    factors = np.where(lost, np.nan, picked(grid, np.zeros((len(block.concepts), 1)))[..., 0])
    ratios = _missing(*factors.shape)
    for a, c in np.argwhere(~lost).tolist():
        ratios[a, c] = cost_at(curves[a][c], factors[a, c])
    replies = np.where(lost[..., None], 0, picked(score.counts, score.base_counts))
    arms, nothing = (ArmKey("", UNSTEERED), *block.arms), np.zeros(len(block.concepts))
    scores = np.concatenate([score.base[None], values])
    counts = np.concatenate([score.base_counts[None], replies])
    further = np.maximum(0, counts[..., 1] - score.widths).sum(axis=1)  # samples of a prompt, seeds of an arm
    return TaskEffects(
        concepts=block.concepts,
        effects=dict(zip(arms, scores - score.base, strict=True)),
        neutral={arm: np.empty((len(block.concepts), 0)) for arm in arms},
        scores=dict(zip(arms, scores, strict=True)),
        factors=dict(zip(arms, [nothing, *factors], strict=True)),
        ratios=dict(zip(arms, [nothing + 1, *ratios], strict=True)),
        scored=dict(zip(arms, counts[..., 0].sum(axis=1).tolist(), strict=True)),
        totals=dict(zip(arms, (score.widths.sum() + further).tolist(), strict=True)),
        gate=_gate(block, select),
    )


def _chosen(
    block: ValueGrid, select: RoleGrid, costs: Sequence[Sequence[Curve | None]], limit: float
) -> tuple[Integers, NDArray[np.bool_]]:
    """Return (n_arms, n_concepts) each: place of the selected factor, -1 where none can be; where the arm is not to steer."""
    among, idle = block.measured.copy(), np.zeros(block.measured.shape[:2], dtype=bool)
    for a, c in np.argwhere(block.measured.any(axis=-1)).tolist():
        allowed, reached = factors_within_damage(block.factors, costs[a][c], limit)
        among[a, c] &= allowed
        idle[a, c] = reached and not among[a, c].any()
    return best_factor_index(select.values, select.asked, among), idle


def _gate(block: ValueGrid, select: RoleGrid) -> NDArray[np.bool_] | None:
    """Return the concepts whose selection prompts native moves upwards, at the factor selected on them; None without such prompts."""
    if NATIVE not in block.arms or not select.widths.any():
        return None
    a = block.arms.index(NATIVE)
    place = best_factor_index(select.values[a], select.asked[a], block.measured[a])
    chosen = np.take_along_axis(select.values[a], np.maximum(place, 0)[:, None, None], axis=1)[:, 0]
    return (place >= 0) & (np.nan_to_num(nan_mean(chosen - select.base)) > 0)


def cost_at(cost: Curve | None, factor: float) -> float:
    """Return the perplexity ratio at a factor within the curve's grid, NaN where it was not measured; 1 at factor 0."""
    if factor == 0:
        return 1.0
    if cost is None or factor > cost.factors[-1]:
        return math.nan
    exact = np.flatnonzero(cost.factors == factor)
    return float(cost.ratios[exact[0]] if len(exact) else cost.at(factor).ratios[0])


def _missing(*shape: int) -> Array:
    return np.full(shape, np.nan)
