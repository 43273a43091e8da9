"""Figures of a board: which lines and dots go into which picture.

results, entries -> [panels] -> plots -> SVG
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from steer_bench import plots
from steer_bench.leaderboard.board import SHORT
from steer_bench.leaderboard.entries import RULES, STEERING, Entry, kind_of
from steer_bench.results import Results
from steer_bench.stats import DAMAGE_LIMIT, UNSTEERED, Arm, Curve, likelihood_curves, nan_mean

Lines = Mapping[Arm, tuple[tuple[float, ...], tuple[float, ...]]]

Y_LABELS = {STEERING: "concept score (harmonic mean, 0 to 2)", RULES: "share of replies that obey the rule"}


def draw_figures(results: Sequence[Results], entries: Sequence[Entry]) -> dict[str, tuple[str, bytes]]:
    """File name (no ending) -> caption and SVG, of every figure the results allow."""
    figures = {}
    curves = [(r, t, likelihood_curves(r.rows, t)) for r in results for t in _targets(r)]
    several = len(results) > 1
    frontier = [p for r, t, c in curves for p in _panels(r, t, {a: _frontier(by) for a, by in c.items()}, several)]
    if frontier:
        limit = max(float(result.run.get("damage_limit", DAMAGE_LIMIT)) for result in results)
        figures["frontier"] = ("Effect against cost", plots.to_svg(plots.draw_frontier(frontier, limit)))
    lifts = [p for r, t, c in curves for p in _panels(r, t, {a: _lifts(by) for a, by in c.items()}, several)]
    if lifts:
        figure = plots.draw_factor_curves(lifts, "likelihood lift (nats/token)", "Likelihood lift over the factor")
        figures["factors-likelihood"] = ("Likelihood lift over the factor", plots.to_svg(figure))
    for task in (STEERING, RULES):
        panels = [p for r in results for t in _targets(r) for p in _panels(r, t, _means(r, t, task), several)]
        if panels:
            title = f"{task} over the factor (selection prompts)"
            figure = plots.draw_factor_curves(panels, Y_LABELS[task], title)
            figures[f"factors-{SHORT[task]}"] = (title, plots.to_svg(figure))
    dots = _dots(entries, several)
    if dots:
        title = "Recovered fraction with 95 % intervals"
        figures["recovered"] = (title, plots.to_svg(plots.draw_recovered(dots, title)))
    return figures


def _targets(result: Results) -> list[str]:
    return sorted({row.target for row in result.rows})


def _panels(result: Results, target: str, lines: Lines, several: bool) -> list[plots.Panel]:
    """One panel a source; arms without a source stand in each."""
    run = f" ({result.run.get('name', '')})" if several else ""
    panels = []
    for source in sorted({arm.source for arm in lines} - {""}) or ([""] if lines else []):
        series = tuple(
            plots.Series(arm.name, kind_of(result.run, arm.name), *lines[arm])
            for arm in sorted(lines)
            if arm.source in ("", source) and lines[arm][0]
        )
        panels.append(plots.Panel((f"{source} to {target}" if source else target) + run, series))
    return panels


def _frontier(by_concept: Mapping[str, Curve]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean lift and geometric mean of the perplexity ratio at every factor, from the unsteered (1, 0)."""
    factors, lifts, logs = _over_concepts(by_concept)
    known = np.isfinite(lifts) & np.isfinite(logs)
    if not factors or not known.any():
        return (), ()
    return (1.0, *np.exp(logs[known]).tolist()), (0.0, *lifts[known].tolist())


def _lifts(by_concept: Mapping[str, Curve]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean lift at every factor, from 0."""
    factors, lifts, _ = _over_concepts(by_concept)
    points = [(factor, lift) for factor, lift in zip(factors, lifts.tolist(), strict=True) if np.isfinite(lift)]
    return ((0.0, *(f for f, _ in points)), (0.0, *(y for _, y in points))) if points else ((), ())


def _over_concepts(by_concept: Mapping[str, Curve]) -> tuple[list[float], np.ndarray, np.ndarray]:
    """Factors, mean lift and mean log ratio over concepts."""
    factors = sorted({float(factor) for curve in by_concept.values() for factor in curve.factors})
    lifts, logs = np.full((2, len(by_concept), len(factors)), np.nan)
    for index, curve in enumerate(by_concept.values()):
        places = np.searchsorted(factors, curve.factors)
        lifts[index, places], logs[index, places] = curve.lifts, np.log(curve.ratios)
    return factors, nan_mean(lifts, axis=0), nan_mean(logs, axis=0)


def _means(result: Results, target: str, task: str) -> Lines:
    """Mean over concepts of the concept means on selection prompts, by factor, from the unsteered value.

    Selection prompts, not the scored ones: a curve is for choosing a factor, and no choice may see the scored prompts.
    """
    values: dict[Arm, dict[float, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for row in result.rows:
        if (row.task, row.target, row.role) == (task, target, "select") and row.value is not None:
            values[Arm(row.source, row.arm)][row.factor][row.concept].append(row.value)
    base = values.pop(Arm("", UNSTEERED), {})
    lines = {}
    for arm, by_factor in values.items():
        merged = {**base, **by_factor}
        factors = sorted(merged)
        lines[arm] = (tuple(factors), tuple(fmean(fmean(v) for v in merged[f].values()) for f in factors))
    return lines


def _dots(entries: Sequence[Entry], several: bool) -> list[plots.DotPanel]:
    """Recovered fractions of the headline task: all arms but native and unsteered, one panel a source and target."""
    panels = []
    for run, target, source in dict.fromkeys((e.run, e.target, e.source) for e in entries if e.source):
        here = [e for e in entries if (e.run, e.target) == (run, target) and e.source in ("", source)]
        shown = [e for e in here if e.kind not in ("unsteered", "baseline") and e.headline in e.cells]
        dots = tuple(plots.Dot(e.arm, e.kind, *e.cells[e.headline].recovered[:3]) for e in shown)
        if dots:
            title = f"{source} to {target}" + (f" ({run})" if several else "")
            panels.append(plots.DotPanel(title, dots))
    return panels
