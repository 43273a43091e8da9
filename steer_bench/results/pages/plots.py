"""Plots: effect against cost, factor curves, recovered fractions, geometry and matrices.

series, dots and matrices -> [figures] -> canvas -> SVG or PNG
"""

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from steer_bench.results.pages.canvas import (
    COLUMNS,
    FIGURE_WIDTH,
    ORDER,
    finish,
    label,
    matplotlib_style,
    panel_axes,
    shorten,
    styles_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RATIO_TICKS, CLOSE_RATIO_TICKS = (1, 1.3, 2, 3, 5, 10), (1, 1.1, 1.2, 1.3, 1.5, 1.7)
RATIO_CUT = 10.0
"""Perplexity ratios beyond this are off the picture: the text is destroyed."""
SMALL_COLUMNS = 4
"""Small multiples beside each other."""
NUMBERED = 10
"""Matrices up to this many columns have their numbers in the cells."""


class Series(NamedTuple):
    """One arm's line."""

    arm: str
    kind: str
    """baseline, transfer, control or ceiling: the first three differ in colour and line."""
    x: tuple[float, ...]
    y: tuple[float, ...]


class Dot(NamedTuple):
    """One arm's value with its interval; None where there is none."""

    arm: str
    kind: str
    value: float | None
    low: float | None
    high: float | None
    x: float = 0.0
    """What it is drawn over, in scatter plots."""


Mark = TypeVar("Mark", Series, Dot)


class Panel(NamedTuple, Generic[Mark]):
    """One picture of a figure: a source and a target."""

    title: str
    marks: tuple[Mark, ...]


class Matrix(NamedTuple):
    """A table of numbers as colours; None where there is none."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    """(n_rows, n_columns)"""


def draw_frontier(
    panels: Sequence[Panel[Series]],
    limit: float,
    y_label: str = "likelihood lift (nats/token)",
    title: str = "Effect against cost",
) -> "Figure":
    """Draw effect against cost: a task's value over the perplexity ratio, one line per arm along its factors.

    The dotted line is the ratio at which arms are compared.
    """
    with matplotlib_style():
        from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

        figure, axes = panel_axes(len(panels))
        styles = _styles(panels)
        for axis, panel in zip(axes, panels, strict=True):
            ratios = [x for series in panel.marks for x in series.x if math.isfinite(x)]
            high = min(max([*ratios, 1.5]) * 1.08, RATIO_CUT)
            axis.set_xscale("log")
            axis.set_xlim(min([*ratios, 1.0]) / 1.03, high)
            axis.xaxis.set_major_locator(
                FixedLocator([tick for tick in (CLOSE_RATIO_TICKS if high < 2 else RATIO_TICKS) if tick <= high])
            )
            axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            axis.axvline(limit, color="#555555", linewidth=1, linestyle=":")
            _lines(axis, panel, styles, high)
        label(axes, "perplexity of neutral text, steered / unsteered", y_label)
        finish(figure, axes, f"{title}, over the factor grid", list(styles))
        return figure


def draw_factor_curves(panels: Sequence[Panel[Series]], y_label: str, title: str) -> "Figure":
    """Draw a task's mean value over the steering factor, one line per arm."""
    with matplotlib_style():
        figure, axes = panel_axes(len(panels), share_x=True)
        styles = _styles(panels)
        for axis, panel in zip(axes, panels, strict=True):
            _lines(axis, panel, styles)
        label(axes, "steering factor (multiples of the target's residual scale)", y_label)
        finish(figure, axes, title, list(styles))
        return figure


def draw_small_multiples(panels: Sequence[Panel[Series]], y_label: str, title: str) -> "Figure":
    """Draw one small picture per concept, all on the same axes: value over the steering factor, one line per arm."""
    with matplotlib_style():
        figure, axes = panel_axes(len(panels), height=1.75, width=2.6, columns=SMALL_COLUMNS)
        styles = _styles(panels)
        heights = [y for panel in panels for series in panel.marks for y in series.y]
        for place, (axis, panel) in enumerate(zip(axes, panels, strict=True)):
            _lines(axis, panel, styles, size=3.2)
            _make_room(axis, heights)
            axis.set_title(shorten(panel.title, 34), loc="left", fontsize=9)
            if place % SMALL_COLUMNS:
                axis.tick_params(labelleft=False)
            if place + SMALL_COLUMNS < len(panels):
                axis.tick_params(labelbottom=False)
            else:
                axis.set_xlabel("steering factor", fontsize=8)
        figure.supylabel(y_label, fontsize=9)
        finish(figure, axes, title, list(styles))
        return figure


def draw_scatter(panels: Sequence[Panel[Dot]], title: str, x_label: str, y_label: str) -> "Figure":
    """Draw one point per arm, with the interval of its y."""
    with matplotlib_style():
        figure, axes = panel_axes(len(panels))
        styles = _styles(panels)
        for axis, panel in zip(axes, panels, strict=True):
            for y, line in ((0.0, "-"), (1.0, "--")):
                axis.axhline(y, color="#555555", linewidth=0.8, linestyle=line, zorder=0)
            for dot in panel.marks:
                if dot.value is None:
                    continue
                colour, marker, _ = styles[dot.arm]
                if dot.low is not None and dot.high is not None:
                    axis.plot([dot.x] * 2, [dot.low, dot.high], color=colour, linewidth=1.2, solid_capstyle="butt")
                axis.plot(
                    [dot.x], [dot.value], color=colour, marker=marker, markersize=6.5, linestyle="", label=dot.arm
                )
            axis.set_xlim(min([dot.x for dot in panel.marks] + [0.0]) - 0.08, 1.05)
            axis.set_title(shorten(panel.title), loc="left")
        label(axes, x_label, y_label)
        finish(figure, axes, title, list(styles))
        return figure


def draw_matrices(
    matrices: Sequence[Matrix],
    title: str,
    x_label: str,
    y_label: str,
    value_label: str,
    limits: tuple[float, float] | None = None,
) -> "Figure":
    """Draw heat maps on one colour scale; numbers in the cells where there is room, a dot where there is no number.

    Without `limits` the scale is symmetric about 0, which is white. Matrices of the same rows and columns are labelled
    once a line of panels and once a column of them.
    """
    with matplotlib_style():
        wide = max((len(matrix.columns) for matrix in matrices), default=1)
        tall = max((len(matrix.rows) for matrix in matrices), default=1)
        numbered = wide <= NUMBERED
        cell = 0.5 if numbered else max(0.12, min(0.25, (FIGURE_WIDTH / 2 - 0.3) / wide))
        size = 9 if cell > 0.2 else 6.5
        left, below = (
            0.0085 * size * max((len(shorten(name, 24)) for m in matrices for name in side(m)), default=0)
            for side in (lambda m: m.rows, lambda m: m.columns)
        )
        shared = len({(matrix.rows, matrix.columns) for matrix in matrices}) == 1
        width = max(cell * wide, 1.5) + 0.3 + (0 if shared else left)
        titles = [textwrap.fill(m.title, max(int(width * 12), 12), break_on_hyphens=False) for m in matrices]
        height = cell * tall + 0.2 * max(text.count("\n") + 2 for text in titles) + (0 if shared else below)
        columns = max(1, min(COLUMNS, int(FIGURE_WIDTH / width)))
        edges = (left + 1.3, below + 0.3) if shared else (1.3, 0.3)  # labels, and the bar of colours
        figure, axes = panel_axes(len(matrices), height=height, width=width, columns=columns, edges=edges)
        known = [value for matrix in matrices for line in matrix.values for value in line if value is not None]
        reach = max((abs(value) for value in known), default=0.0) or 1.0
        low, high = limits or (-reach, reach)
        for place, (axis, matrix) in enumerate(zip(axes, matrices, strict=True)):
            axis.set_facecolor("#EDEDED")  # where there is no number
            grid = [[math.nan if value is None else value for value in line] for line in matrix.values]
            axis.imshow(grid, cmap="cividis" if limits else "RdBu_r", vmin=low, vmax=high)
            names = [[shorten(name, 24) for name in side] for side in (matrix.columns, matrix.rows)]
            axis.set_xticks(range(len(names[0])), names[0], rotation=90, fontsize=size)
            axis.set_yticks(range(len(names[1])), names[1], fontsize=size)
            axis.grid(False)
            is_last, is_first = place // columns == (len(matrices) - 1) // columns, place % columns == 0
            axis.tick_params(length=0, labelbottom=is_last or not shared, labelleft=is_first or not shared)
            for spine in axis.spines.values():
                spine.set_visible(False)
            for y, line in enumerate(matrix.values):
                for x, value in enumerate(line):
                    if value is None:
                        axis.text(x, y, "·", ha="center", va="center", color="#5F5F5F")
                    elif numbered:
                        dark = value < (low + high) / 2 if limits else abs(value) > 0.6 * reach
                        text = f"{value:.2f}".replace("-0.00", "0.00")
                        axis.text(x, y, text, ha="center", va="center", color="white" if dark else "black", fontsize=8)
            axis.set_title(titles[place], loc="left")
        figure.supxlabel(x_label, fontsize=9)
        figure.supylabel(y_label, fontsize=9)
        bar = min(0.9, 3 / figure.get_figheight())  # three inches tall, however tall the figure
        extend = "both" if limits else "neither"
        figure.colorbar(
            axes[0].images[0], ax=axes, label=value_label, shrink=bar, aspect=20, anchor=(0, 1), extend=extend
        )
        finish(figure, axes, title)
        return figure


def draw_recovered(panels: Sequence[Panel[Dot]], title: str) -> "Figure":
    """Draw the recovered fraction with its 95 % interval, one dot per arm; 0 is unsteered, 1 is native."""
    with matplotlib_style():
        tallest = max((len(panel.marks) for panel in panels), default=1)
        figure, axes = panel_axes(len(panels), height=1.3 + 0.27 * tallest)
        styles = _styles(panels)
        for axis, panel in zip(axes, panels, strict=True):
            dots = sorted(panel.marks, key=lambda dot: (ORDER.index(dot.kind), -(dot.value or 0), dot.arm))
            for place, dot in enumerate(dots):
                colour, marker, _ = styles[dot.arm]
                if dot.value is None:
                    axis.text(0.5, place, "n/a", ha="center", va="center", color="#555555")
                    continue
                if dot.low is not None and dot.high is not None:
                    axis.plot([dot.low, dot.high], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
                axis.plot([dot.value], [place], color=colour, marker=marker, markersize=6, linestyle="")
            axis.set_yticks(range(len(dots)), [dot.arm for dot in dots])
            axis.set_ylim(len(dots) - 0.4, -0.6)
            for x, line in ((0.0, "-"), (1.0, "--")):
                axis.axvline(x, color="#555555", linewidth=1, linestyle=line, zorder=0)
            ends = [end for dot in dots for end in (dot.value, dot.low, dot.high) if end is not None]
            axis.set_xlim(min([*ends, 0.0]) - 0.08, max([*ends, 1.0]) + 0.08)
            axis.grid(False, axis="y")
            axis.set_title(shorten(panel.title), loc="left")
        label(axes, "recovered fraction of native's effect")
        finish(figure, axes, title)
        return figure


def _styles(panels: Sequence[Panel[Mark]]) -> dict[str, tuple[str, str, str]]:
    return styles_of((mark.arm, mark.kind) for panel in panels for mark in panel.marks)


def _make_room(axis: "Axes", heights: Sequence[float]) -> None:
    """Fit the y axis to the heights and 0, with a margin."""
    low, high = min([*heights, 0.0]), max([*heights, 0.0])
    room = 0.06 * (high - low or 1.0)
    axis.set_ylim(low - room, high + room)


def _lines(
    axis: "Axes", panel: Panel[Series], styles: dict[str, tuple[str, str, str]], cut: float = math.inf, size: float = 5
) -> None:
    """Draw every arm of a panel from where it starts to the first point beyond `cut`."""
    axis.axhline(0, color="#555555", linewidth=0.8, zorder=0)
    heights = []
    for series in sorted(panel.marks, key=lambda s: (-ORDER.index(s.kind), s.arm)):
        colour, marker, line = styles[series.arm]
        axis.plot(
            series.x, series.y, label=series.arm, markersize=size, color=colour, marker=marker, linestyle=line,
            linewidth=1.5 if size >= 5 else 1.1,
        )  # fmt: skip
        heights += [y for x, y in zip(series.x, series.y, strict=True) if x <= cut and math.isfinite(y)]
    if heights:
        _make_room(axis, heights)
    axis.set_title(shorten(panel.title), loc="left")
