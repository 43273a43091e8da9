"""Entries: one line of a leaderboard a target, source and arm, with every number it shows.

results -> effects -> bootstrap -> [entries] -> board
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import median
from typing import NamedTuple

import numpy as np

from steer_bench.results.file import Results
from steer_bench.results.measures import HEADLINES, LIKELIHOOD, PERPLEXITY, measure_of
from steer_bench.results.provenance import KINDS, Kind, Provenance
from steer_bench.results.rows import Rows
from steer_bench.results.stats.behind_score import BehindScore, behind_scores
from steer_bench.results.stats.bootstrap import Bootstrap, Estimate, hierarchical_bootstrap
from steer_bench.results.stats.effects import (
    Curve,
    TaskEffects,
    cost_at,
    likelihood_curves,
    measure_generation,
    measure_likelihood,
)
from steer_bench.results.stats.grid import NATIVE, ArmKey, value_grid
from steer_bench.results.stats.verdict import Verdict, verdicts
from steer_bench.vectors.arms import UNSTEERED


@dataclass(frozen=True)
class ArmResult:
    """One arm on one task."""

    score: Estimate
    """Mean over concepts: the score, or for concept_likelihood the lift at matched damage, nats a token."""
    recovered: Estimate
    """Share of native's effect that the arm has; value None where native's own effect is not above 0."""
    scored: int
    total: int
    """Values there are, and values there should be."""
    factor: float | None
    """Median over concepts of the matched or selected factor."""
    ratio: float | None
    """Perplexity ratio on neutral text at those factors, geometric mean over concepts; None where it was not measured at all of them."""
    verdict: Verdict | None
    """None for arms that make no claim (unsteered, controls, native where it steers)."""
    behind: BehindScore | None = None
    """Anti-steered share, specific recovered fraction, few-shot equivalent; None for the unsteered arm."""
    gated_out: int = 0
    """Concepts that native does not move on the selection prompts: they are in no recovered fraction."""
    matched: Estimate | None = None
    """The score at matched damage; None for concept_likelihood, whose score it is, and where no damage was measured."""
    matched_factor: float | None = None
    """Median over concepts of the factor of that score: 0 where the damage of every factor is too large."""
    reasons: tuple[str, ...] = ()
    """Why values are unscored, such as non_finite or timeout, sorted."""

    @property
    def unscored(self) -> int:
        """Number of missing values."""
        return self.total - self.scored


class Points(NamedTuple):
    """What an arm does to one concept over its factors, from the unsteered value at factor 0; None where unmeasured."""

    factors: tuple[float, ...]
    values: tuple[float | None, ...]
    """concept_likelihood: lift, nats a token; other tasks: mean on selection prompts, for no choice may see the scored ones."""
    ratios: tuple[float | None, ...] = ()
    """Perplexity ratios on neutral text, where they were measured."""


@dataclass(frozen=True)
class ArmEntry:
    """One line of a leaderboard."""

    run: str
    target: str
    source: str
    arm: str
    kind: Kind
    cells: Mapping[str, ArmResult]
    """By task."""
    headline: str
    """The task the verdict is about."""
    curves: Mapping[str, Mapping[str, Points]] = field(default_factory=dict, repr=False)
    """By task, then concept."""

    @property
    def verdict(self) -> str:
        """The headline task's verdict; "" where the arm makes no claim."""
        cell = self.cells.get(self.headline)
        return "" if cell is None or cell.verdict is None else cell.verdict.word


def entries(results: Results) -> list[ArmEntry]:
    """Return every arm of every target of a run, sorted by target, source, kind and arm."""
    run, tasks = results.run, results.rows.texts["task"].present()
    headline = next((task for task in HEADLINES if task in tasks), "")
    found = []
    for target in results.rows.texts["target"].present():
        rows = results.rows.where(target=target)
        lifts = likelihood_curves(rows, target, pooled=run.pooled)
        costs = likelihood_curves(rows, target, PERPLEXITY, run.pooled)  # rules have no texts: only these
        costs |= {arm: {**costs.get(arm, {}), **by_concept} for arm, by_concept in lifts.items()}
        cells, curves = _cells(run, rows, target, lifts, costs), _curves(rows, lifts, costs)
        for arm in {arm for by_arm in cells.values() for arm in by_arm}:
            mine = {task: by_arm[arm] for task, by_arm in cells.items() if arm in by_arm}
            drawn = {task: by_arm[arm] for task, by_arm in curves.items() if arm in by_arm}
            kind = run.kind_of(arm.name)
            found.append(ArmEntry(run.name, target, arm.source, arm.name, kind, mine, headline, drawn))
    return sorted(found, key=lambda e: (e.target, e.source, KINDS.index(e.kind), e.arm))


Curves = Mapping[ArmKey, Mapping[str, Curve]]
"""arm -> concept -> curve"""


def _curves(rows: Rows, lifts: Curves, costs: Curves) -> dict[str, dict[ArmKey, dict[str, Points]]]:
    """Return task -> arm -> concept -> points, of one target."""
    curves: dict[str, dict[ArmKey, dict[str, Points]]] = {}
    if lifts:
        curves[LIKELIHOOD] = {arm: {c: _lift_points(curve) for c, curve in by.items()} for arm, by in lifts.items()}
    values: dict[str, dict[ArmKey, dict[str, dict[float, float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(dict))
    )
    selection = rows.where(role="select")
    by = ("task", "source", "arm", "concept", "factor")
    for task, source, arm, concept, factor, mean in selection.means(selection.numbers["value"], by):
        values[task][ArmKey(source, arm)][concept][factor] = mean
    for task, by_arm in values.items():
        base = by_arm.pop(ArmKey("", UNSTEERED), {})
        curves[task] = {
            arm: {
                concept: _mean_points({**base.get(concept, {}), **means}, costs.get(arm, {}).get(concept))
                for concept, means in by_concept.items()
            }
            for arm, by_concept in by_arm.items()
        }
    return curves


def _lift_points(curve: Curve) -> Points:
    lifts, ratios = _known(curve.lifts.tolist()), _known(curve.ratios.tolist())
    return Points((0.0, *curve.factors.tolist()), (0.0, *lifts), (1.0, *ratios))


def _mean_points(by_factor: Mapping[float, float], cost: Curve | None) -> Points:
    factors = tuple(sorted(by_factor))
    ratios = _known(cost_at(cost, factor) for factor in factors) if cost else ()
    return Points(factors, tuple(by_factor[factor] for factor in factors), ratios)


def _known(values: Iterable[float]) -> tuple[float | None, ...]:
    return tuple(value if math.isfinite(value) else None for value in values)


def _cells(
    run: Provenance, rows: Rows, target: str, lifts: Curves, costs: Curves
) -> dict[str, dict[ArmKey, ArmResult]]:
    """Return task -> arm -> cell, of one target."""
    cells = {}
    reasons: dict[tuple[str, ArmKey], set[str]] = defaultdict(set)
    pooled = run.pooled
    for row in rows.take(np.isnan(rows.numbers["value"])):
        reasons[row.task, ArmKey(row.source, pooled.get(row.arm, row.arm))].add(row.reason)
    for task in rows.texts["task"].present():
        if task in run.capability or not measure_of(task).scores_arms:
            continue
        if task == LIKELIHOOD:
            measured, matched = measure_likelihood(lifts, run.damage_limit), None
        else:
            block = value_grid(rows, task, target, pooled)
            measured = measure_generation(block, costs=costs)
            at_limit = measure_of(task).replies and costs
            matched = measure_generation(block, costs=costs, limit=run.damage_limit) if at_limit else None
        if measured.effects:
            made = _task_cells(run, measured, matched, is_lift=task == LIKELIHOOD)
            cells[task] = {
                arm: replace(cell, reasons=tuple(sorted(reasons[task, arm] - {""}))) if cell.unscored else cell
                for arm, cell in made.items()
            }
    return cells


def _task_cells(
    run: Provenance, measured: TaskEffects, matched: TaskEffects | None, *, is_lift: bool
) -> dict[ArmKey, ArmResult]:
    seed = run.seeds.bootstrap
    effects = hierarchical_bootstrap(measured.effects, measured.neutral, seed=seed)
    scores = effects if is_lift else hierarchical_bootstrap(measured.scores, seed=seed)
    within = None if matched is None else hierarchical_bootstrap(matched.scores, seed=seed)
    judged, passed = _verdicts(run, effects), effects.gated(measured.gate)
    behind = behind_scores(measured, effects, run.few_shot)
    nothing = Estimate(None, None, None, 0)
    return {
        arm: ArmResult(
            score=scores.effect(arm),
            recovered=passed.recovered(arm, NATIVE) if NATIVE in effects.means else nothing,
            scored=measured.scored[arm],
            total=measured.totals[arm],
            factor=_median(measured.factors[arm]),
            ratio=_geometric_mean(measured.ratios[arm][np.isfinite(measured.factors[arm])]),
            verdict=judged.get(arm),
            behind=behind.get(arm),
            gated_out=0 if measured.gate is None else int((~measured.gate).sum()),
            matched=None if within is None else within.effect(arm),
            matched_factor=None if matched is None else _median(matched.factors[arm]),
        )
        for arm in measured.effects
    }


def _verdicts(run: Provenance, bootstrap: Bootstrap) -> dict[ArmKey, Verdict]:
    """Return verdicts of the transfer arms, and of native where it fails its own gate."""
    kinds = {arm: run.kind_of(arm.name) for arm in bootstrap.means}
    transfers = sorted(arm for arm, kind in kinds.items() if kind == "transfer")
    controls = sorted(arm for arm, kind in kinds.items() if kind == "control")
    judged = dict(verdicts(bootstrap, transfers, NATIVE, controls, run.equivalence_margin))
    if NATIVE in bootstrap.means:
        gate = bootstrap.effect(NATIVE)
        if gate.n >= 2 and not gate.positive:
            judged[NATIVE] = Verdict("native itself does not steer", "its interval is not above 0")
    return judged


def _median(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return median(known.tolist()) if len(known) else None


def _geometric_mean(values: np.ndarray) -> float | None:
    """Return None where one is missing: it may be missing because it is large."""
    return float(np.exp(np.log(values).mean())) if len(values) and np.isfinite(values).all() else None
