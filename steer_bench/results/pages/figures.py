"""Figures of a board: which lines and dots go into which picture.

results, entries -> [panels] -> plots -> SVG and PNG
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from steer_bench.results.board.entries import ArmEntry, Points
from steer_bench.results.file import Results
from steer_bench.results.measures import DRAWN, HEADLINES, LIKELIHOOD, SPECIFICITY, measure_of
from steer_bench.results.pages import canvas, plots
from steer_bench.results.stats.grid import nan_mean
from steer_bench.results.stats.specificity import specificity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Lines = tuple[tuple[float, ...], tuple[float, ...]]

MAX_PANELS = 9
"""Pictures of pairs in one figure; a board of more shows the first, and each run's own pages show its own."""
MAX_CONCEPTS = 24
"""Concepts with a picture of their own; the HTML page has the curves of all."""


class Drawn(NamedTuple):
    """A figure in its formats."""

    caption: str
    svg: bytes
    png: bytes | None


def draw_figures(results: Sequence[Results], entries: Sequence[ArmEntry], png: bool = False) -> dict[str, Drawn]:
    """Return file name (no ending) -> caption, SVG and with `png` PNG, of every figure the results allow."""
    several = len(results) > 1
    pairs = _pairs(entries, several)
    figures: dict[str, tuple[str, Figure]] = {}
    shown = f" (the first {MAX_PANELS} of {len(pairs)} pairs)" if len(pairs) > MAX_PANELS else ""
    limit = max(result.run.damage_limit for result in results)
    for task in DRAWN:
        if frontier := _panels(pairs, task, _frontier):
            name = "frontier" if task == LIKELIHOOD else f"frontier-{measure_of(task).heading}"
            title = "Effect against cost" + ("" if task == LIKELIHOOD else f": {task} (selection prompts)")
            figures[name] = (title + shown, plots.draw_frontier(frontier, limit, measure_of(task).axis, title))
    for task in DRAWN:
        if panels := _panels(pairs, task, _means):
            subject = (
                "Likelihood lift over the factor"
                if task == LIKELIHOOD
                else f"{task} over the factor (selection prompts)"
            )
            title = subject + shown
            drawn = plots.draw_factor_curves(panels, measure_of(task).axis, title)
            figures[f"factors-{measure_of(task).heading}"] = (title, drawn)
    if not several:
        figures |= _concept_figures(pairs)
    if dots := _dots(pairs):
        title = "Recovered fraction with 95 % intervals" + shown
        figures["recovered"] = (title, plots.draw_recovered(dots, title))
    if matrices := _matrices(entries):
        title, value = "Recovered fraction, source by target", "recovered fraction"
        figures["matrix"] = (title, plots.draw_matrices(matrices, title, "target", "source", value, (0.0, 1.0)))
    if geometry := _geometry(results, pairs):
        title = "Geometry against behaviour" + shown
        figures["geometry"] = (title, plots.draw_scatter(geometry, title, *GEOMETRY_AXES))
    if matrices := _specificity(results, several):
        title = "Specificity: what each concept's vector does to every concept"
        value = "change of log-likelihood (nats/token)"
        figures["specificity"] = (title, plots.draw_matrices(matrices, title, "texts of", "vector of", value))
    return {
        name: Drawn(caption, canvas.to_svg(figure), canvas.to_png(figure) if png else None)
        for name, (caption, figure) in figures.items()
    }


GEOMETRY_AXES = ("centred cosine to native (mean over concepts)", "recovered fraction of native's effect")


def _pairs(entries: Sequence[ArmEntry], several: bool) -> list[tuple[str, list[ArmEntry]]]:
    """Return title and entries of each picture: those of a target, one source at a time; arms without a source stand in each."""
    pairs = []
    for run, target in dict.fromkeys((entry.run, entry.target) for entry in entries):
        here = [entry for entry in entries if (entry.run, entry.target) == (run, target)]
        for source in sorted({entry.source for entry in here} - {""}) or [""]:
            title = (f"{source} to {target}" if source else target) + (f" ({run})" if several else "")
            pairs.append((title, [entry for entry in here if entry.source in ("", source)]))
    return pairs


def _panels(
    pairs: Sequence[tuple[str, list[ArmEntry]]], task: str, line: Callable[[Mapping[str, Points]], Lines]
) -> list[plots.Panel[plots.Series]]:
    """Return one picture per pair with one line per arm; pictures without a line are left out."""
    panels: list[plots.Panel[plots.Series]] = []
    for title, here in pairs:
        if len(panels) == MAX_PANELS:
            break
        series = _series((entry, line(entry.curves[task])) for entry in here if task in entry.curves)
        if series:
            panels.append(plots.Panel(title, series))
    return panels


def _series(drawn: Iterable[tuple[ArmEntry, Lines]]) -> tuple[plots.Series, ...]:
    return tuple(plots.Series(entry.arm, entry.kind, *points) for entry, points in drawn if points[0])


def _frontier(by_concept: Mapping[str, Points]) -> Lines:
    """Return the mean value over the geometric mean of the perplexity ratio, at every factor."""
    _factors, values, logs = _over_concepts(by_concept)
    known = np.isfinite(values) & np.isfinite(logs)
    if not known[1:].any():
        return (), ()
    return tuple(np.exp(logs[known]).tolist()), tuple(values[known].tolist())


def _means(by_concept: Mapping[str, Points]) -> Lines:
    """Return the mean over concepts at every factor."""
    factors, values, _ = _over_concepts(by_concept)
    known = np.isfinite(values)
    if known.sum() < 2:
        return (), ()
    return tuple(np.array(factors)[known].tolist()), tuple(values[known].tolist())


def _over_concepts(by_concept: Mapping[str, Points]) -> tuple[list[float], np.ndarray, np.ndarray]:
    """Return factors, mean value and mean log ratio over concepts; NaN where nothing was measured."""
    factors = sorted({factor for points in by_concept.values() for factor in points.factors})
    values, logs = np.full((2, len(by_concept), len(factors)), np.nan)
    for index, points in enumerate(by_concept.values()):
        places = np.searchsorted(factors, points.factors)
        values[index, places] = np.array(points.values, dtype=float)
        if points.ratios:
            logs[index, places] = np.log(np.array(points.ratios, dtype=float))
    return factors, nan_mean(values, axis=0), nan_mean(logs, axis=0)


def _concept_figures(pairs: Sequence[tuple[str, list[ArmEntry]]]) -> dict[str, tuple[str, "Figure"]]:
    """Draw small multiples, one picture per concept: for every pair its headline task, else the first there is."""
    figures = {}
    for place, (title, here) in enumerate(pairs[:MAX_PANELS], 1):
        tasks = [here[0].headline, *HEADLINES]
        task = next((task for task in tasks if any(task in entry.curves for entry in here)), None)
        if task is None:
            continue
        concepts = sorted({concept for entry in here for concept in entry.curves.get(task, {})})
        panels = []
        for concept in concepts[:MAX_CONCEPTS]:
            measured = [entry for entry in here if concept in entry.curves.get(task, {})]
            series = _series((entry, _means({concept: entry.curves[task][concept]})) for entry in measured)
            if series:
                panels.append(plots.Panel(concept, series))
        if panels:
            cut = f", the first {MAX_CONCEPTS} of {len(concepts)}" if len(concepts) > MAX_CONCEPTS else ""
            caption = f"{title}: factor curves of each concept{cut}"
            name = f"concepts-{measure_of(task).heading}" + (f"-{place}" if len(pairs) > 1 else "")
            figures[name] = (caption, plots.draw_small_multiples(panels, measure_of(task).axis, caption))
    return figures


def _matrices(entries: Sequence[ArmEntry]) -> list[plots.Matrix]:
    """Return one per transfer arm, where more than one pair was measured; several runs of a pair: their mean."""
    values: dict[str, dict[tuple[str, str], list[float | None]]] = defaultdict(lambda: defaultdict(list))
    for entry in entries:
        if entry.kind == "transfer" and entry.source and entry.headline in entry.cells:
            values[entry.arm][entry.source, entry.target].append(entry.cells[entry.headline].recovered.value)
    pairs = {pair for by_pair in values.values() for pair in by_pair}
    sources, targets = (tuple(sorted(set(side))) for side in zip(*pairs, strict=True)) if pairs else ((), ())
    if len(pairs) < 2:
        return []

    def mean(found: Sequence[float | None]) -> float | None:
        known = [value for value in found if value is not None]
        return fmean(known) if known else None

    return [
        plots.Matrix(
            arm, sources, targets, tuple(tuple(mean(by_pair.get((s, t), [])) for t in targets) for s in sources)
        )
        for arm, by_pair in sorted(values.items())
    ][:MAX_PANELS]


def _geometry(results: Sequence[Results], pairs: Sequence[tuple[str, list[ArmEntry]]]) -> list[plots.Panel[plots.Dot]]:
    """Return closeness to native over recovered fraction, one dot per arm; native itself is 1 and 1 by definition."""
    cosines = {
        (result.run.name, line.target, line.source, line.arm): line.centred_cosine
        for result in results
        for line in result.run.geometry
    }
    panels = []
    for title, here in pairs:
        dots = []
        for entry in here:
            cosine = cosines.get((entry.run, entry.target, entry.source, entry.arm))
            cell = entry.cells.get(entry.headline)
            if cosine is None or cell is None or cell.recovered.value is None or entry.kind == "baseline":
                continue
            value, low, high, _ = cell.recovered
            dots.append(plots.Dot(entry.arm, entry.kind, value, low, high, cosine))
        if dots:
            panels.append(plots.Panel(title, tuple(dots)))
    return panels[:MAX_PANELS]


def _specificity(results: Sequence[Results], several: bool) -> list[plots.Matrix]:
    """Return one per native or transfer arm: rows are the vectors' concepts, columns the concepts whose texts were scored."""
    matrices = []
    for result in results:
        for target in result.rows.where(task=SPECIFICITY).texts["target"].present():
            found = specificity(result.rows, target, result.run.pooled)
            shown = [arm for arm in found if result.run.kind_of(arm.name) in ("baseline", "transfer")]
            for arm in sorted(shown, key=lambda arm: (arm.name != "native", arm)):
                title = f"{arm.name} on {target}" + (f" from {arm.source}" if arm.source else "")
                title += f" ({result.run.name})" if several else ""
                names = found[arm].concepts
                cells = tuple(tuple(v if np.isfinite(v) else None for v in line) for line in found[arm].matrix.tolist())
                matrices.append(plots.Matrix(title, names, names, cells))
    return matrices[:MAX_PANELS]


def _dots(pairs: Sequence[tuple[str, list[ArmEntry]]]) -> list[plots.Panel[plots.Dot]]:
    """Return recovered fractions of the headline task: all arms but native and unsteered, one panel per source and target."""
    panels = []
    for title, here in pairs:
        shown = [e for e in here if e.kind not in ("unsteered", "baseline") and e.headline in e.cells]
        dots = tuple(plots.Dot(e.arm, e.kind, *e.cells[e.headline].recovered[:3]) for e in shown)
        if dots and any(entry.source for entry in here):
            panels.append(plots.Panel(title, dots))
    return panels[:MAX_PANELS]
