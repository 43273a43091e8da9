"""Figures: effect against cost, factor curves and recovered fractions, as SVG.

    series and dots -> [figures] -> SVG or PNG bytes

Needs matplotlib, an extra, imported only when something is drawn: pip install "steer-bench[plots]".
"""

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito 2008, told apart by the colour-blind; its yellow is too pale on white and is left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
GREYS = ("#5F5F5F", "#8C8C8C", "#3F3F3F", "#A5A5A5")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
NATIVE_COLOUR = "#000000"
RATIO_TICKS = (1, 1.3, 2, 3, 5, 10, 30, 100)
RATIO_CUT = 10.0
"""Perplexity ratios beyond this are off the picture: the text is destroyed."""
PANEL_WIDTH, PANEL_HEIGHT, COLUMNS = 4.3, 3.3, 3
ORDER = ("baseline", "transfer", "control", "ceiling")

RC: dict[str, Any] = {
    "svg.hashsalt": "steer-bench",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


class Series(NamedTuple):
    """One arm's line."""

    arm: str
    kind: str
    """baseline, transfer, control or ceiling: the first three differ in colour and line."""
    x: tuple[float, ...]
    y: tuple[float, ...]


class Panel(NamedTuple):
    """One picture of a figure: a source and a target."""

    title: str
    series: tuple[Series, ...]


class Dot(NamedTuple):
    """One arm's value with its interval; None where there is none."""

    arm: str
    kind: str
    value: float | None
    low: float | None
    high: float | None


class DotPanel(NamedTuple):
    """One picture of dots: a source and a target."""

    title: str
    dots: tuple[Dot, ...]


def draw_frontier(panels: Sequence[Panel], limit: float) -> "Figure":
    """Effect against cost: likelihood lift (nats a token) over the perplexity ratio, a line an arm along its factors.

    The dotted line is the ratio at which arms are compared.
    """
    with _matplotlib():
        from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

        figure, axes = _grid(len(panels))
        styles = _styles((s.arm, s.kind) for panel in panels for s in panel.series)
        for axis, panel in zip(axes, panels, strict=True):
            ratios = [x for series in panel.series for x in series.x if math.isfinite(x)]
            high = min(max([*ratios, 1.5]) * 1.08, RATIO_CUT)
            axis.set_xscale("log")
            axis.set_xlim(min([*ratios, 1.0]) / 1.03, high)
            axis.xaxis.set_major_locator(FixedLocator([tick for tick in RATIO_TICKS if tick <= high]))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            axis.axvline(limit, color="#555555", linewidth=1, linestyle=":")
            _lines(axis, panel, styles, high)
            axis.set_xlabel("perplexity of neutral text, steered / unsteered")
            axis.set_ylabel("likelihood lift (nats/token)")
        _finish(figure, axes, "Effect against cost, over the factor grid", list(styles))
        return figure


def draw_factor_curves(panels: Sequence[Panel], y_label: str, title: str) -> "Figure":
    """A task's mean value over the steering factor, a line an arm."""
    with _matplotlib():
        figure, axes = _grid(len(panels))
        styles = _styles((s.arm, s.kind) for panel in panels for s in panel.series)
        for axis, panel in zip(axes, panels, strict=True):
            _lines(axis, panel, styles)
            axis.set_xlabel("steering factor (multiples of the target's residual scale)")
            axis.set_ylabel(y_label)
        _finish(figure, axes, title, list(styles))
        return figure


def draw_recovered(panels: Sequence[DotPanel], title: str) -> "Figure":
    """Recovered fraction with its 95 % interval, a dot an arm; 0 is unsteered, 1 is native."""
    with _matplotlib():
        tallest = max((len(panel.dots) for panel in panels), default=1)
        figure, axes = _grid(len(panels), height=1.3 + 0.27 * tallest)
        styles = _styles((dot.arm, dot.kind) for panel in panels for dot in panel.dots)
        for axis, panel in zip(axes, panels, strict=True):
            dots = sorted(panel.dots, key=lambda dot: (ORDER.index(dot.kind), -(dot.value or 0), dot.arm))
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
            axis.set_xlabel("recovered fraction of native's effect")
            axis.set_title(panel.title, loc="left")
        _finish(figure, axes, title)
        return figure


def to_svg(figure: "Figure") -> bytes:
    """The figure as SVG: the same bytes for the same figure."""
    return _save(figure, "svg", metadata={"Date": None, "Creator": None})


def to_png(figure: "Figure", dots_per_inch: int = 150) -> bytes:
    """The figure as PNG."""
    return _save(figure, "png", dpi=dots_per_inch, metadata={"Software": None})


def _save(figure: "Figure", kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    with _matplotlib():
        figure.savefig(stream, format=kind, **options)
    return stream.getvalue()


@contextmanager
def _matplotlib() -> Iterator[None]:
    """matplotlib with our style, whatever the user's own settings are."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise ValueError('figures need matplotlib; pip install "steer-bench[plots]", or ask for no figures') from error
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(cast(Any, RC))
        yield


def _grid(n: int, height: float = PANEL_HEIGHT) -> tuple["Figure", list["Axes"]]:
    """A figure with n panels, at most COLUMNS beside each other."""
    from matplotlib.figure import Figure

    if n == 0:
        raise ValueError("nothing to draw; give at least one panel")
    columns = min(n, COLUMNS)
    rows = math.ceil(n / columns)
    figure = Figure(figsize=(PANEL_WIDTH * columns, height * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in axes[n:]:
        spare.remove()
    return figure, list(axes[:n])


def _styles(arms: Iterable[tuple[str, str]]) -> dict[str, tuple[str, str, str]]:
    """arm -> colour, marker, line: native black, transfer arms in colour, controls grey and dashed.

    Native is counted where it is not drawn, so that an arm looks the same in every figure.
    """
    kinds = {"native": "baseline"}
    for arm, kind in arms:
        kinds.setdefault(arm, kind)
    used = dict.fromkeys(ORDER, 0)
    styles = {}
    for place, arm in enumerate(sorted(kinds, key=lambda arm: (ORDER.index(kinds[arm]), arm))):
        kind = kinds[arm]
        rank = used[kind]
        used[kind] += 1
        colour = {"transfer": COLOURS[rank % len(COLOURS)], "baseline": NATIVE_COLOUR}.get(
            kind, GREYS[rank % len(GREYS)]
        )
        line = {"control": "--", "ceiling": ":"}.get(kind, "-")
        styles[arm] = (colour, MARKERS[place % len(MARKERS)], line)
    return styles


def _lines(axis: "Axes", panel: Panel, styles: dict[str, tuple[str, str, str]], cut: float = math.inf) -> None:
    """Draw every arm of a panel from where it starts to the first point beyond `cut`."""
    axis.axhline(0, color="#555555", linewidth=0.8, zorder=0)
    heights = []
    for series in sorted(panel.series, key=lambda s: (-ORDER.index(s.kind), s.arm)):
        colour, marker, line = styles[series.arm]
        axis.plot(
            series.x,
            series.y,
            color=colour,
            marker=marker,
            linestyle=line,
            label=series.arm,
            linewidth=1.5,
            markersize=5,
        )
        heights += [y for x, y in zip(series.x, series.y, strict=True) if x <= cut and math.isfinite(y)]
    if heights:
        room = 0.06 * (max([*heights, 0.0]) - min([*heights, 0.0]) or 1.0)
        axis.set_ylim(min([*heights, 0.0]) - room, max([*heights, 0.0]) + room)
    axis.set_title(panel.title, loc="left")


def _finish(figure: "Figure", axes: Sequence["Axes"], title: str, legend: Sequence[str] = ()) -> None:
    """Title, and one legend for all panels below them, in the order given."""
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    labels = [arm for arm in legend if arm in handles]
    if labels:
        columns = min(len(labels), 4 * min(len(axes), COLUMNS))
        figure.legend([handles[label] for label in labels], labels, loc="outside lower left", ncols=columns)
