"""Entries: one line of a leaderboard per target, source and arm, with every number it shows.

results -> values, estimates, verdicts -> [entries, pooled ranking] -> board
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import NamedTuple

import numpy as np

from steer_bench.results.file import Results
from steer_bench.results.measures import HEADLINES, LIKELIHOOD, in_order, measure_of
from steer_bench.results.provenance import KINDS, Kind, Provenance
from steer_bench.results.rows import Array, Rows
from steer_bench.results.stats.behind_score import AntiSteered, FewShot, anti_steered, few_shot_equal
from steer_bench.results.stats.estimate import NOTHING, Estimate, mean_estimate, ratio_estimate
from steer_bench.results.stats.grid import NATIVE, PLAIN, ArmKey
from steer_bench.results.stats.values import REFERENCE, TaskValues, task_levels, task_values
from steer_bench.results.stats.verdict import Case, Verdict, controls_of, native_verdict, verdicts

CLAIMS = ("transfers", "equivalent to native")


@dataclass(frozen=True)
class ArmResult:
    """One arm on one task at one level of damage."""

    level: float
    """0 for a grid of factors."""
    value: Estimate
    """Mean over concepts: the score, or for concept_likelihood the change of log-likelihood, nats a token."""
    effect: Estimate
    """The value minus wrong-concept's, paired; value None for wrong-concept itself, unsteered, and without that control."""
    recovered: Estimate
    """Sum of its effects over the sum of native's; native is 1 by definition."""
    neutral: Estimate
    """Change on neutral texts, nats a token; value None but for concept_likelihood."""
    damage: float | None
    """Perplexity ratio measured on held-out neutral texts, geometric mean over concepts; None where it was not measured at all of them."""
    factor: float | None
    """Median over concepts."""
    verdict: Verdict | None
    """None for arms that make no claim (native where it steers), and at other levels than the headline's."""
    values: Mapping[str, float] = field(repr=False)
    """By concept."""
    effects: Mapping[str, float] = field(repr=False)
    """By concept."""
    anti_concepts: float | None
    """Share of concepts whose effect is below 0."""
    anti_samples: AntiSteered
    few_shot: FewShot | None
    """None where the run has no few-shot arms."""
    scored: int
    total: int
    """Values there are, and values there should be."""
    reasons: tuple[str, ...] = ()
    """Why values are unscored, such as non_finite or timeout, sorted."""
    unreached: tuple[str, ...] = ()
    """Concepts on which the arm does not reach the level."""

    @property
    def unscored(self) -> int:
        """Number of missing values."""
        return self.total - self.scored


@dataclass(frozen=True)
class ArmEntry:
    """One line of a leaderboard."""

    run: str
    target: str
    source: str
    arm: str
    kind: Kind
    cells: Mapping[str, ArmResult]
    """Task -> what it did at the headline level, or at the factors chosen of a grid."""
    headline: str
    """The task that the best arm is found by."""
    levels: Mapping[str, Mapping[float, ArmResult]] = field(default_factory=dict, repr=False)
    """Task -> level -> what it did."""


class PooledLine(NamedTuple):
    """One method on one task over every pair of source and target."""

    task: str
    arm: str
    kind: Kind
    recovered: Estimate
    """Of sums over concepts and pairs, interval over concepts."""
    least: float | None
    most: float | None
    """The smallest and largest recovered fraction of a pair."""
    pairs: int


def entries(results: Results) -> list[ArmEntry]:
    """Return every arm of every target of a run, sorted by target, source, kind and arm."""
    run, found = results.run, []
    tasks = [
        task for task in in_order(results.rows.texts["task"].present())
        if task not in run.capability and measure_of(task).scores_arms
    ]  # fmt: skip
    rows = {target: results.rows.where(target=target) for target in results.rows.texts["target"].present()}
    measured = {
        (target, task): _measured(run, mine, task, target)
        for target, mine in rows.items()
        for task in tasks
        if mine.texts["task"].equal_to(task).any()
    }
    judged = _verdicts(run, measured)
    lines: dict[tuple[str, ArmKey], dict[str, dict[float, ArmResult]]] = {}
    for (target, task), by_level in measured.items():
        reasons, unreached = _reasons(run, rows[target], task), _unreached(run, target)
        for level, values in by_level.items():
            for arm in values.items:
                cell = _cell(run, values, task, level, arm, judged.get((target, task, level, arm)))
                not_there = unreached.get((arm, level), set()) - cell.values.keys()
                cell = replace(cell, unreached=tuple(sorted(not_there & set(values.concepts))))
                if cell.unscored:
                    cell = replace(cell, reasons=tuple(sorted(reasons.get(arm, ()))))
                lines.setdefault((target, arm), {}).setdefault(task, {})[level] = cell
    headline = next((task for task in HEADLINES if task in tasks), "")
    for (target, arm), by_task in lines.items():
        cells = {task: cells[_main_level(run, cells)] for task, cells in by_task.items()}
        kind = run.kind_of(arm.name)
        found.append(ArmEntry(run.name, target, arm.source, arm.name, kind, cells, headline, by_task))
    return sorted(found, key=lambda e: (e.target, e.source, KINDS.index(e.kind), e.arm))


def pooled(found: Sequence[ArmEntry]) -> list[PooledLine]:
    """Return every steered arm of the headline levels over all pairs of source and target, best first by task."""
    natives = {(e.run, e.target): e for e in found if ArmKey(e.source, e.arm) == NATIVE}
    groups: dict[tuple[str, str, Kind], list[tuple[ArmResult, ArmResult]]] = {}
    for entry in found:
        native = natives.get((entry.run, entry.target))
        for task, cell in entry.cells.items():
            if native is not None and native is not entry and task in native.cells and cell.effects:
                groups.setdefault((task, entry.arm, entry.kind), []).append((cell, native.cells[task]))
    lines = []
    for (task, arm, kind), pairs in groups.items():
        sums: dict[str, list[tuple[float, float]]] = {}
        for cell, base in pairs:
            for concept in cell.effects.keys() & base.effects.keys():
                sums.setdefault(concept, []).append((cell.effects[concept], base.effects[concept]))
        means = np.array([np.mean(sums[concept], axis=0) for concept in sorted(sums)]).reshape(-1, 2)
        values = [cell.recovered.value for cell, _ in pairs if cell.recovered.value is not None]
        estimate = ratio_estimate(means[:, 0], means[:, 1])
        lines.append(
            PooledLine(task, arm, kind, estimate, min(values, default=None), max(values, default=None), len(pairs))
        )
    order = in_order(line.task for line in lines)
    return sorted(lines, key=lambda line: (order.index(line.task), -(line.recovered.value or 0.0), line.arm))


def best(found: Iterable[ArmEntry], task: str) -> tuple[ArmEntry | None, bool]:
    """Return the transfer arm of the largest effect, if it may claim to transfer, and whether it is above the second.

    It is where the interval of their paired difference lies above 0, or where there is no second; else the two are tied.
    """
    arms = [e for e in found if e.kind == "transfer" and task in e.cells and e.cells[task].effect.value is not None]
    arms.sort(key=lambda e: (-(e.cells[task].effect.value or 0.0), e.arm, e.source))
    verdict = arms[0].cells[task].verdict if arms else None
    if verdict is None or verdict.word not in CLAIMS:
        return None, False
    if len(arms) == 1:
        return arms[0], True
    first, second = (entry.cells[task].effects for entry in arms[:2])
    differences = np.array([first[concept] - second[concept] for concept in sorted(first.keys() & second.keys())])
    return arms[0], mean_estimate(differences).positive


def _measured(run: Provenance, rows: Rows, task: str, target: str) -> dict[float, TaskValues]:
    """Return what a task measured, by level; arms that reach no level are listed with nothing."""
    texts, pooled = rows.where(task=task).texts, run.pooled
    concepts = set(texts["concept"].present())
    missed = {arm for (arm, _), its in _unreached(run, target).items() if its & concepts}
    levels = task_levels(rows, task, target)
    arms = missed if levels != [0.0] else ()
    return {level: task_values(rows, task, target, level=level, pooled=pooled, arms=arms) for level in levels}


def _main_level(run: Provenance, levels: Iterable[float]) -> float:
    return min(levels, key=lambda level: (abs(level - run.headline), level))


def _verdicts(
    run: Provenance, measured: Mapping[tuple[str, str], Mapping[float, TaskValues]]
) -> dict[tuple[str, str, float, ArmKey], Verdict]:
    """Return the verdicts of transfer arms on every task of ours, at its main level, and native's where it does not steer."""
    cases, places, found = [], [], {}
    for (target, task), by_level in measured.items():
        if not measure_of(task).heading:
            continue
        level = _main_level(run, by_level)
        values = by_level[level]
        kinds = {arm: run.kind_of(arm.name) for arm in values.items}
        controls = [arm for arm, kind in kinds.items() if kind == "control"]
        barred = native_verdict(values)
        if barred is not None and NATIVE in kinds:
            found[target, task, level, NATIVE] = barred
        for arm in sorted(arm for arm, kind in kinds.items() if kind == "transfer"):
            claimed = run.claims is None or arm.name in run.claims
            cases.append(Case(values, arm, controls_of(arm, controls), claimed))
            places.append((target, task, level, arm))
    return found | dict(zip(places, verdicts(cases), strict=True))


def _unreached(run: Provenance, target: str) -> dict[tuple[ArmKey, float], set[str]]:
    """Return the concepts on which an arm (of pooled ones, any) does not reach a level."""
    pooled, found = run.pooled, defaultdict[tuple[ArmKey, float], set[str]](set)
    for dose in (one for one in run.unreached if one.target == target):
        found[ArmKey(dose.source, pooled.get(dose.arm, dose.arm)), dose.level].add(dose.concept)
    return found


def _reasons(run: Provenance, rows: Rows, task: str) -> dict[ArmKey, set[str]]:
    pooled, reasons = run.pooled, defaultdict[ArmKey, set[str]](set)
    for row in rows.take(rows.texts["task"].equal_to(task) & np.isnan(rows.numbers["value"])):
        reasons[ArmKey(row.source, pooled.get(row.arm, row.arm))].update({row.reason} - {""})
    return reasons


def _cell(
    run: Provenance, values: TaskValues, task: str, level: float, arm: ArmKey, verdict: Verdict | None
) -> ArmResult:
    bounds, missing = measure_of(task).bounds, np.full(len(values.concepts), np.nan)
    spread = None if bounds is None else (bounds[0] - bounds[1], bounds[1] - bounds[0])
    has_effect = REFERENCE in values.items and arm not in (REFERENCE, PLAIN)
    value, effects = values.value(arm), values.differences(arm) if has_effect else missing
    effect, recovered = mean_estimate(effects, bounds=spread), NOTHING
    if has_effect and arm == NATIVE and effect.value is not None and effect.value > 0:
        recovered = Estimate(1.0, 1.0, 1.0, effect.n)
    elif has_effect and NATIVE in values.items:
        recovered = ratio_estimate(effects, values.differences(NATIVE))
    known = effects[np.isfinite(effects)]
    return ArmResult(
        level,
        mean_estimate(value, bounds=bounds),
        effect,
        recovered,
        mean_estimate(values.neutral[arm]) if task == LIKELIHOOD else NOTHING,
        _geometric_mean(values.damage[arm][np.isfinite(values.factors[arm])]),
        _median(values.factors[arm]),
        verdict,
        _by_concept(values, value),
        _by_concept(values, effects),
        float((known < 0).mean()) if len(known) else None,
        anti_steered(values, arm) if has_effect else AntiSteered(None, 0),
        _few_shot(run, values, arm, effect) if has_effect else None,
        values.scored[arm],
        values.totals[arm],
    )


def _few_shot(run: Provenance, values: TaskValues, arm: ArmKey, effect: Estimate) -> FewShot | None:
    sizes = {run.few_shot[key.name]: key for key in values.items if key.name in run.few_shot}
    if arm.name in run.few_shot:
        return FewShot(float(run.few_shot[arm.name]))
    curve = {n: mean_estimate(values.differences(key)).value for n, key in sizes.items()}
    known = {n: value for n, value in curve.items() if value is not None}
    return few_shot_equal(known, effect.value) if known else None


def _by_concept(values: TaskValues, numbers: Array) -> dict[str, float]:
    return {concept: one for concept, one in zip(values.concepts, numbers.tolist(), strict=True) if one == one}


def _median(values: Array) -> float | None:
    known = values[np.isfinite(values)]
    return median(known.tolist()) if len(known) else None


def _geometric_mean(values: Array) -> float | None:
    """Return None where one is missing: it may be missing because it is large."""
    return float(np.exp(np.log(values).mean())) if len(values) and np.isfinite(values).all() else None
