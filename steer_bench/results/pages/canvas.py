"""Canvas: figures of panels in one style, and how they become SVG or PNG.

    number of panels, arms -> [figure, axes, styles] -> plots -> SVG or PNG bytes

Needs matplotlib, an extra, imported only when something is drawn: pip install "steer-bench[plots]".
"""

import io
import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito 2008, told apart by the colour-blind; its yellow is too pale on white and is left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
GREYS = ("#5F5F5F", "#8C8C8C", "#3F3F3F", "#A5A5A5")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
NATIVE_COLOUR = "#000000"
PANEL_WIDTH, PANEL_HEIGHT, COLUMNS = 4.3, 3.3, 3
FIGURE_WIDTH = COLUMNS * PANEL_WIDTH
TICKS = 5
"""Steps of an axis at most: laying out their labels is half of the time that drawing takes."""
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


def shorten(text: str, width: int = 46) -> str:
    """Return text that fits, its middle left out.

    >>> shorten("meta-llama/Llama-3.1-8B-Instruct", 16)
    'meta-ll…Instruct'
    """
    return text if len(text) <= width else f"{text[: (width - 1) // 2]}…{text[-(width // 2) :]}"


def to_svg(figure: "Figure") -> bytes:
    """Return the figure as SVG: the same bytes for the same figure."""
    stream = io.BytesIO()
    with matplotlib_style():
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        # Not savefig: it draws everything twice, first for the layout alone, and drawing is half of a board's time.
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None, "Creator": None})
    return stream.getvalue()


def to_png(figure: "Figure", dots_per_inch: int = 150) -> bytes:
    """Return the figure as PNG."""
    stream = io.BytesIO()
    with matplotlib_style():
        figure.savefig(stream, format="png", dpi=dots_per_inch, metadata={"Software": None})
    return stream.getvalue()


@contextmanager
def matplotlib_style() -> Iterator[None]:
    """Set our style in matplotlib, whatever the user's own settings are."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise ValueError('figures need matplotlib; pip install "steer-bench[plots]", or ask for no figures') from error
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(cast(Any, RC))
        yield


def panel_axes(
    n: int,
    height: float = PANEL_HEIGHT,
    width: float = PANEL_WIDTH,
    columns: int = COLUMNS,
    edges: tuple[float, float] = (0.0, 0.0),
    share_x: bool = False,
) -> tuple["Figure", list["Axes"]]:
    """Return a figure with n panels, at most `columns` beside each other; `edges`: further inches beside and below them.

    `share_x`: one x axis for all, labelled in the last line only.
    """
    from matplotlib.figure import Figure

    if n == 0:
        raise ValueError("nothing to draw; give at least one panel")
    columns = min(n, columns)
    rows = math.ceil(n / columns)
    size = (width * columns + edges[0], height * rows + 0.9 + edges[1])
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=share_x).ravel()
    for spare in axes[n:]:
        spare.remove()
    return figure, list(axes[:n])


def styles_of(arms: Iterable[tuple[str, str]]) -> dict[str, tuple[str, str, str]]:
    """Return arm -> colour, marker, line: native black, transfer arms in colour, controls grey and dashed.

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


def label(axes: Sequence["Axes"], x_label: str, y_label: str = "") -> None:
    """Name the axes, which all panels have in common: x under the lowest of each column, y beside the first of each line."""
    for place, axis in enumerate(axes):
        if place + COLUMNS >= len(axes):
            axis.tick_params(labelbottom=True)
            axis.set_xlabel(x_label)
        if y_label and place % COLUMNS == 0:
            axis.set_ylabel(y_label)


def finish(figure: "Figure", axes: Sequence["Axes"], title: str, legend: Sequence[str] = ()) -> None:
    """Add title, few ticks, and one legend for all panels below them, in the order given."""
    from matplotlib.ticker import AutoLocator

    room = int(figure.get_figwidth() * 12)  # characters of the bold title that fit an inch, about
    figure.suptitle(textwrap.fill(title, max(room, 24)), x=0.01, ha="left", fontweight="bold")
    for axis in axes:
        for side in (axis.xaxis, axis.yaxis):
            if isinstance(locator := side.get_major_locator(), AutoLocator):
                locator.set_params(nbins=TICKS)
    handles: dict[str, Artist] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    labels = [arm for arm in legend if arm in handles]
    if labels:
        columns = min(len(labels), max(2, int(figure.get_figwidth() / 1.05)))
        figure.legend([handles[label] for label in labels], labels, loc="outside lower left", ncols=columns)
