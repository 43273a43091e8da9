"""Values: what each arm did to each concept and item at one level of damage, and what of it is the arm's own effect.

    rows -> [values] -> effects, differences to wrong-concept -> estimates, tests, verdicts

The concept is the unit: it has items of its own, and its value is their mean.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steer_bench.results.measures import LIKELIHOOD, PERPLEXITY
from steer_bench.results.rows import Array, Row, Rows
from steer_bench.results.stats.grid import (
    PLAIN,
    ArmKey,
    Grid,
    Lines,
    Pooled,
    arm_keys,
    best_factors,
    grid_of,
    lines_of,
    nan_mean,
)

REFERENCE = ArmKey("", "wrong-concept")
"""The control that effects are differences to: vectors as strong as native, about something else."""


@dataclass(frozen=True)
class TaskValues:
    """What one task measured on one target at one level; NaN where unmeasured. The unsteered arm is among the arms of reply tasks."""

    concepts: tuple[str, ...]
    items: Mapping[ArmKey, Array]
    """(n_concepts, n_items): the score, or for likelihoods the change of log-likelihood a token, steered minus unsteered."""
    neutral: Mapping[ArmKey, Array]
    """(n_concepts,): mean change on the concept's neutral texts, nats a token; likelihoods only."""
    damage: Mapping[ArmKey, Array]
    """(n_concepts,): perplexity of held-out neutral texts, steered over unsteered."""
    factors: Mapping[ArmKey, Array]
    """(n_concepts,): the factor used."""
    scored: Mapping[ArmKey, int]
    """Values there are."""
    totals: Mapping[ArmKey, int]
    """Values there should be, in the concepts where the arm has any: every sample and seed is one."""

    def value(self, arm: ArmKey) -> Array:
        """Return (n_concepts,): the mean over the concept's items."""
        return nan_mean(self.items[arm])

    def differences(self, arm: ArmKey, other: ArmKey = REFERENCE) -> Array:
        """Return (n_concepts,): arm minus other, paired item by item; to wrong-concept, it is the arm's effect."""
        return nan_mean(self.items[arm] - self.items[other])


def task_levels(rows: Rows, task: str, target: str) -> list[float]:
    """Return the levels of damage a task was measured at, ascending; [0.0] for a grid of factors."""
    mine = rows.texts["task"].equal_to(task) & rows.texts["target"].equal_to(target)
    levels = np.unique(rows.numbers["level"][mine])
    return levels[levels > 0].tolist() or [0.0]


def task_values(
    rows: Iterable[Row],
    task: str,
    target: str,
    *,
    level: float,
    pooled: Pooled | None = None,
    arms: Iterable[ArmKey] = (),
) -> TaskValues:
    """Return the values of every arm of a task at a level; `arms`: further ones to list, though they have no rows.

    Level 0 is a grid of factors: the factor of an arm and concept is chosen on the rows of role "select", and the values are of
    the others. An arm without rows at the level is NaN throughout.
    """
    rows, pooled = Rows.of(rows).where(target=target), pooled or {}
    mine, column = rows.texts["task"].equal_to(task), rows.texts["role"]
    keys = tuple(sorted({*arm_keys(rows, mine, pooled), *arms}))
    told = rows.texts["concept"]
    names = [told.names[code] for code in np.flatnonzero(np.bincount(told.codes[mine]))]
    concepts = tuple(name for name in names if name) or tuple(names)
    size = len(keys), len(concepts)
    is_change = task in (LIKELIHOOD, PERPLEXITY)
    without = rows.numbers["level"] == 0
    at_level = without if level == 0 else (rows.numbers["level"] == level) | (without & (rows.numbers["factor"] == 0))

    def lines(task: str, *roles: str) -> Lines:
        has_role = np.any([column.equal_to(role) for role in roles], axis=0)
        return lines_of(rows, at_level & has_role & rows.texts["task"].equal_to(task), keys, concepts, pooled)

    scored = lines(task, *({"concept"} if task == LIKELIHOOD else {*column.names} - {"select"}))
    chosen = _chosen(lines(task, "select"), scored, size) if level == 0 else None
    grid = _grid(scored, chosen, size)
    counts, totals = grid.scored, grid.totals
    neutral, damage = np.full((2, *size), np.nan)
    for source in (PERPLEXITY, LIKELIHOOD):
        texts = _grid(lines(source, "neutral"), chosen, size)
        changes = texts.values[:-1] - texts.values[-1]
        damage = np.where(np.isnan(damage), _ratio(changes, texts.tokens), damage)
        if source == task == LIKELIHOOD:
            neutral = nan_mean(changes)
            counts, totals = counts + texts.scored, totals + texts.totals
    values = grid.values[:-1] - grid.values[-1] if is_change else grid.values
    names_of = keys if is_change else (*keys, PLAIN)

    def by_arm(columns: Array | Sequence[Array]) -> dict[ArmKey, Array]:
        return dict(zip(names_of, columns, strict=False))

    return TaskValues(
        concepts,
        by_arm(values),
        by_arm([*neutral, np.full(size[1], np.nan)]),
        by_arm([*damage, np.ones(size[1])]),
        by_arm(grid.factors),
        dict(zip(names_of, counts.tolist(), strict=False)),
        dict(zip(names_of, totals.tolist(), strict=False)),
    )


def choices(rows: Rows, task: str, target: str, pooled: Pooled) -> dict[tuple[ArmKey, str], float | None]:
    """Return (arm, concept) -> the factor of a grid with the best mean on the selection rows; None where none can be chosen."""
    rows = rows.where(task=task, target=target, role="select")
    every, concepts = np.ones(len(rows), dtype=bool), rows.texts["concept"].present()
    keys = sorted(arm_keys(rows, every, pooled))
    best = best_factors(lines_of(rows, every, keys, concepts, pooled), len(keys), len(concepts))
    return {
        (key, concept): None if np.isnan(factor) else float(factor)
        for key, factors in zip(keys, best, strict=False)
        for concept, factor in zip(concepts, factors, strict=True)
    }


def _grid(lines: Lines, chosen: Array | None, size: tuple[int, int]) -> Grid:
    """Return lines as arrays, those of a grid of factors at the chosen ones."""
    if chosen is not None:
        lines = lines.take((lines.arm == size[0]) | (chosen[lines.arm, lines.concept] == lines.factor))
    return grid_of(lines, *size)


def _chosen(selection: Lines, scored: Lines, size: tuple[int, int]) -> Array:
    """Return (n_arms + 1, n_concepts): the factor chosen on the selection rows, or the only one that is scored."""
    chosen = best_factors(selection, *size)
    least, most = np.full(chosen.shape, np.inf), np.full(chosen.shape, -np.inf)
    at = scored.arm, scored.concept
    np.minimum.at(least, at, scored.factor)
    np.maximum.at(most, at, scored.factor)
    return np.where(least == most, least, chosen)


def _ratio(changes: Array, tokens: Array) -> Array:
    """Return (n_arms, n_concepts): perplexity ratio of the texts, each weighted by its tokens."""
    known = np.isfinite(changes)
    weights = np.where(known, tokens, 0.0)
    total = weights.sum(axis=-1)
    change = (np.where(known, changes, 0.0) * weights).sum(axis=-1)
    return np.exp(-np.divide(change, total, out=np.full(total.shape, np.nan), where=total > 0))
