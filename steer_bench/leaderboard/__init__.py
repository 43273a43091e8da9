"""Leaderboard: results of one or many runs as pages that can be opened, printed and diffed.

    results files -> entries -> board -> leaderboard.md, .html, .csv, .tex and figures

No model, no network: only results files come in.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from steer_bench.leaderboard import render
from steer_bench.leaderboard.board import Board, Line, Table, Text, build_board, check_same_protocol, interval, number
from steer_bench.leaderboard.entries import KINDS, Cell, Entry, entries, headline_task, kind_of
from steer_bench.results import Results, load_results, write_atomic

__all__ = [
    "KINDS",
    "Board",
    "Cell",
    "Entry",
    "Line",
    "Table",
    "Text",
    "build_board",
    "check_same_protocol",
    "entries",
    "headline_task",
    "interval",
    "kind_of",
    "number",
    "to_csv",
    "to_html",
    "to_latex",
    "to_markdown",
    "write_leaderboard",
]


def to_markdown(results: Iterable[Results]) -> str:
    """GitHub Markdown of one or many runs."""
    return render.to_markdown(build_board(results))


def to_csv(results: Iterable[Results]) -> str:
    """One line a run, target, source, arm and task."""
    return render.to_csv(build_board(results))


def to_latex(results: Iterable[Results]) -> str:
    """LaTeX tables of one or many runs."""
    return render.to_latex(build_board(results))


def to_html(results: Iterable[Results]) -> str:
    """One self-contained page of one or many runs, without figures."""
    return render.to_html(build_board(results))


def write_leaderboard(results_paths: Sequence[str | Path], folder: str | Path, figures: bool = True) -> list[Path]:
    """Write leaderboard.md, .html, .csv and .tex, and with `figures` figures/*.svg; returns the paths, each file whole.

    Figures need matplotlib (`pip install "steer-bench[plots]"`); without them the pages have none.
    """
    folder = Path(folder)
    results = [load_results(path) for path in results_paths]
    board = build_board(results)
    drawn: dict[str, tuple[str, bytes]] = {}
    if figures:
        from steer_bench.leaderboard.figures import draw_figures

        drawn = draw_figures(results, board.entries)
    pages = {
        "leaderboard.md": render.to_markdown(board, [f"figures/{name}.svg" for name in drawn]),
        "leaderboard.html": render.to_html(board, dict(drawn.values())),
        "leaderboard.csv": render.to_csv(board),
        "leaderboard.tex": render.to_latex(board),
    }
    written = []
    for name, (_, svg) in drawn.items():
        write_atomic(folder / "figures" / f"{name}.svg", svg)
        written.append(folder / "figures" / f"{name}.svg")
    for name, text in pages.items():
        write_atomic(folder / name, text)
        written.append(folder / name)
    return written
