"""Plots: effects over levels of damage, concepts, recovered fractions, geometry and matrices.

series, dots and matrices -> [figures] -> canvas -> SVG or PNG
"""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from steer_bench.results.pages.canvas import (
    COLUMNS,
    FIGURE_WIDTH,
    ORDER,
    PANEL_HEIGHT,
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

FAR = 3.0
"""Recovered fractions beyond this, and intervals without an end, run out of the picture."""
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
    """One arm's value with its interval, where there is one."""

    arm: str
    kind: str
    value: float
    low: float | None
    high: float | None
    x: float = 0.0
    """What it is drawn over, in scatter plots."""
    row: str = ""
    """The concept whose line it stands on, in plots of concepts."""


Mark = TypeVar("Mark", Series, Dot)
Styles = Mapping[str, tuple[str, str, str]]
"""Arm -> colour, marker, line."""


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


def draw_levels(panels: Sequence[Panel[Series]], headline: float, y_label: str, title: str) -> "Figure":
    """Draw the effect over the damage really done, one line per arm along its levels; the dotted line is the headline level."""

    def draw(axis: "Axes", marks: Sequence[Series], styles: Styles) -> None:
        axis.axhline(0, color="#555555", linewidth=0.8, zorder=0)
        axis.axvline(headline, color="#555555", linewidth=1, linestyle=":")
        for series in sorted(marks, key=lambda s: (-ORDER.index(s.kind), s.arm)):
            colour, marker, line = styles[series.arm]
            axis.plot(series.x, series.y, label=series.arm, markersize=5, color=colour, marker=marker, linestyle=line)

    return _draw(panels, draw, title, "damage: perplexity of neutral text, steered / unsteered", y_label)


def draw_concepts(
    panels: Sequence[Panel[Dot]], x_label: str, title: str, arms: Sequence[tuple[str, str]] = ()
) -> "Figure":
    """Draw one line per concept with the values of the arms on it, by the first one's; `arms`: name and kind of all, for the colours."""

    def draw(axis: "Axes", marks: Sequence[Dot], styles: Styles) -> None:
        order = {dot.row: dot.value for dot in marks if dot.arm == marks[0].arm}
        rows = sorted({dot.row for dot in marks}, key=lambda row: (-order.get(row, 0.0), row))
        for arm in dict.fromkeys(dot.arm for dot in marks):
            colour, marker, _ = styles[arm]
            x, y = zip(*((dot.value, rows.index(dot.row)) for dot in marks if dot.arm == arm), strict=True)
            axis.plot(x, y, color=colour, marker=marker, markersize=5, linestyle="", label=arm, alpha=0.85)
        axis.axvline(0, color="#555555", linewidth=0.8, zorder=0)
        axis.set_yticks(range(len(rows)), [shorten(row, 24) for row in rows], fontsize=8)
        axis.set_ylim(len(rows) - 0.4, -0.6)

    tallest = max(len({dot.row for dot in panel.marks}) for panel in panels)
    return _draw(panels, draw, title, x_label, height=1.0 + 0.19 * tallest, arms=arms)


def draw_scatter(panels: Sequence[Panel[Dot]], title: str, x_label: str, y_label: str) -> "Figure":
    """Draw one point per arm, with the interval of its y."""

    def draw(axis: "Axes", marks: Sequence[Dot], styles: Styles) -> None:
        for y, line in ((0.0, "-"), (1.0, "--")):
            axis.axhline(y, color="#555555", linewidth=0.8, linestyle=line, zorder=0)
        for dot in marks:
            colour, marker, _ = styles[dot.arm]
            if ends := _ends(dot):
                axis.plot([dot.x] * 2, ends, color=colour, linewidth=1.2, solid_capstyle="butt")
            axis.plot([dot.x], [dot.value], color=colour, marker=marker, markersize=6.5, linestyle="", label=dot.arm)
        axis.set_xlim(min([dot.x for dot in marks] + [0.0]) - 0.08, 1.05)
        axis.set_ylim(*_reach(marks))

    return _draw(panels, draw, title, x_label, y_label)


def draw_recovered(panels: Sequence[Panel[Dot]], title: str) -> "Figure":
    """Draw the recovered fraction with its 95 % interval, one dot per arm; 0 is wrong-concept, 1 is native."""

    def draw(axis: "Axes", marks: Sequence[Dot], styles: Styles) -> None:
        dots = sorted(marks, key=lambda dot: (ORDER.index(dot.kind), -dot.value, dot.arm))
        for place, dot in enumerate(dots):
            colour, marker, _ = styles[dot.arm]
            if ends := _ends(dot):
                axis.plot(ends, [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
            axis.plot([dot.value], [place], color=colour, marker=marker, markersize=6, linestyle="")
        axis.set_yticks(range(len(dots)), [dot.arm for dot in dots])
        axis.set_ylim(len(dots) - 0.4, -0.6)
        for x, line in ((0.0, "-"), (1.0, "--")):
            axis.axvline(x, color="#555555", linewidth=1, linestyle=line, zorder=0)
        axis.set_xlim(*_reach(dots))
        axis.grid(False, axis="y")

    tallest = max((len(panel.marks) for panel in panels), default=1)
    return _draw(panels, draw, title, "recovered fraction of native's effect", height=1.3 + 0.27 * tallest)


def _draw(
    panels: Sequence[Panel[Mark]],
    draw: Callable[["Axes", Sequence[Mark], Styles], None],
    title: str,
    x_label: str,
    y_label: str = "",
    height: float = PANEL_HEIGHT,
    arms: Sequence[tuple[str, str]] = (),
) -> "Figure":
    """Draw every panel in the style of its arms, with labels and one legend."""
    with matplotlib_style():
        figure, axes = panel_axes(len(panels), height=height)
        styles = styles_of(arms or ((mark.arm, mark.kind) for panel in panels for mark in panel.marks))
        for axis, panel in zip(axes, panels, strict=True):
            draw(axis, panel.marks, styles)
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
) -> "Figure":
    """Draw heat maps on one colour scale; numbers in the cells where there is room, a dot where there is no number.

    The scale is symmetric about 0, which is white. Matrices of the same rows and columns are labelled
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
        for place, (axis, matrix) in enumerate(zip(axes, matrices, strict=True)):
            axis.set_facecolor("#EDEDED")  # where there is no number
            grid = [[math.nan if value is None else value for value in line] for line in matrix.values]
            axis.imshow(grid, cmap="RdBu_r", vmin=-reach, vmax=reach)
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
                        text, colour = (
                            f"{value:.2f}".replace("-0.00", "0.00"),
                            "white" if abs(value) > 0.6 * reach else "black",
                        )
                        axis.text(x, y, text, ha="center", va="center", color=colour, fontsize=8)
            axis.set_title(titles[place], loc="left")
        figure.supxlabel(x_label, fontsize=9)
        figure.supylabel(y_label, fontsize=9)
        bar = min(0.9, 3 / figure.get_figheight())  # three inches tall, however tall the figure
        figure.colorbar(axes[0].images[0], ax=axes, label=value_label, shrink=bar, aspect=20, anchor=(0, 1))
        finish(figure, axes, title)
        return figure


def _ends(dot: Dot) -> tuple[float, float] | None:
    """Return where a dot's interval is drawn; None without one."""
    if dot.low is None or dot.high is None:
        return None
    return max(dot.low, -10 * FAR), min(dot.high, 10 * FAR)


def _reach(dots: Sequence[Dot]) -> tuple[float, float]:
    """Return the limits of an axis of recovered fractions: 0, 1 and all that is not too far."""
    ends = [end for dot in dots for end in (dot.value, dot.low, dot.high) if end is not None and abs(end) < FAR]
    return min([*ends, 0.0]) - 0.08, max([*ends, 1.0]) + 0.08
