"""Figures of a board: which lines and dots go into which picture.

results, entries -> [panels] -> plots -> SVG and PNG
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from steer_bench.results.board.entries import ArmEntry
from steer_bench.results.board.further import specificity_of, trio
from steer_bench.results.file import Results
from steer_bench.results.measures import DRAWN, SPECIFICITY, measure_of
from steer_bench.results.pages import canvas, plots
from steer_bench.results.stats.values import REFERENCE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_PANELS = 9
"""Pictures of pairs in one figure; a board of more shows the first, and each run's own pages show its own."""
MAX_CONCEPTS = 48
"""Concepts of a pair that are drawn one by one; its table has all."""
Pairs = Sequence[tuple[str, list[ArmEntry]]]
"""Title and entries of each picture: a source and a target."""


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
    arms = [(entry.arm, entry.kind) for entry in entries if entry.kind != "unsteered"]
    headline = max((result.run.headline for result in results if result.run.levels), default=0.0)
    for task in DRAWN:
        heading, axis = measure_of(task).heading, measure_of(task).axis
        if panels := _panels(pairs, partial(_levels, task=task)):
            title = f"{heading}: effect over wrong-concept at each level of damage"
            figures[f"levels-{heading}"] = (
                title + shown,
                plots.draw_levels(panels, headline, f"effect: {axis}", title),
            )
        if not several and (dots := _panels(pairs, partial(_concepts, task=task))):
            title = f"{heading}, concept by concept" + (f" at damage {headline:g}" if headline else "")
            figures[f"concepts-{heading}"] = (title + shown, plots.draw_concepts(dots, axis, title, arms))
        if dots := _panels(pairs, partial(_recovered, task=task)):
            title = f"{heading}: recovered fraction with 95 % intervals"
            figures[f"recovered-{heading}"] = (title + shown, plots.draw_recovered(dots, title))
    cosines = {
        (result.run.name, line.target, line.source, line.arm): line.centred_cosine
        for result in results
        for line in result.run.geometry
    }
    if geometry := _panels(pairs, partial(_geometry, cosines=cosines)):
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


def _pairs(entries: Sequence[ArmEntry], several: bool) -> Pairs:
    """Return title and entries of each picture: those of a target, one source at a time; arms without a source stand in each."""
    pairs = []
    for run, target in dict.fromkeys((entry.run, entry.target) for entry in entries):
        here = [entry for entry in entries if (entry.run, entry.target) == (run, target)]
        for source in sorted({entry.source for entry in here} - {""}) or [""]:
            title = (f"{source} to {target}" if source else target) + (f" ({run})" if several else "")
            pairs.append((title, [entry for entry in here if entry.source in ("", source)]))
    return pairs


def _panels(pairs: Pairs, draw: Callable[[list[ArmEntry]], tuple[plots.Mark, ...]]) -> list[plots.Panel[plots.Mark]]:
    """Return one picture per pair that has anything to draw."""
    return [plots.Panel(title, marks) for title, here in pairs if (marks := draw(here))][:MAX_PANELS]


def _levels(here: Sequence[ArmEntry], task: str) -> tuple[plots.Series, ...]:
    """Return each arm's effect over the damage it really did, a point per level; none where there is one level alone."""
    found = []
    for entry in here:
        by_level = sorted(entry.levels.get(task, {}).items())
        cells = [cell for level, cell in by_level if level and cell.factor and cell.effect.value is not None]
        if len(cells) > 1:
            x = tuple(cell.damage or cell.level for cell in cells)
            found.append(plots.Series(entry.arm, entry.kind, x, tuple(cell.effect.value or 0.0 for cell in cells)))
    return tuple(found)


def _concepts(here: Sequence[ArmEntry], task: str) -> tuple[plots.Dot, ...]:
    """Return the value of every concept under native, the best transfer arm and wrong-concept."""
    entries = trio(here, task)
    if not any(entry.kind == "transfer" for entry in entries):
        return ()
    return tuple(
        plots.Dot(entry.arm, entry.kind, value, None, None, row=concept)
        for entry in entries
        for concept, value in list(entry.cells[task].values.items())[:MAX_CONCEPTS]
    )


def _recovered(here: Sequence[ArmEntry], task: str) -> tuple[plots.Dot, ...]:
    """Return recovered fractions: all arms but native and unsteered, of a source and target where native steers."""
    if not any(entry.source for entry in here):
        return ()
    shown = [e for e in here if e.kind in ("transfer", "control") and task in e.cells and e.arm != REFERENCE.name]
    return tuple(dot for entry in shown if (dot := _dot(entry, task)))


def _dot(entry: ArmEntry, task: str, x: float = 0.0) -> plots.Dot | None:
    value, low, high, _ = entry.cells[task].recovered
    return None if value is None else plots.Dot(entry.arm, entry.kind, value, low, high, x)


def _geometry(here: Sequence[ArmEntry], cosines: Mapping[tuple[str, str, str, str], float]) -> tuple[plots.Dot, ...]:
    """Return closeness to native over recovered fraction, one dot per arm; native itself is 1 and 1 by definition."""
    found = []
    for entry in here:
        cosine = cosines.get((entry.run, entry.target, entry.source, entry.arm))
        if cosine is not None and entry.headline in entry.cells and entry.kind != "baseline":
            found.append(_dot(entry, entry.headline, cosine))
    return tuple(dot for dot in found if dot)


def _specificity(results: Sequence[Results], several: bool) -> list[plots.Matrix]:
    """Return one per native or transfer arm: rows are the vectors' concepts, columns the concepts whose texts were scored."""
    matrices = []
    for result in results:
        for target in result.rows.where(task=SPECIFICITY).texts["target"].present():
            found = specificity_of(result, target)
            shown = [arm for arm in found if result.run.kind_of(arm.name) in ("baseline", "transfer")]
            for arm in sorted(shown, key=lambda arm: (arm.name != "native", arm)):
                title = f"{arm.name} on {target}" + (f" from {arm.source}" if arm.source else "")
                title += f" ({result.run.name})" if several else ""
                names = found[arm].concepts
                cells = tuple(tuple(v if np.isfinite(v) else None for v in line) for line in found[arm].matrix.tolist())
                matrices.append(plots.Matrix(title, names, names, cells))
    return matrices[:MAX_PANELS]
