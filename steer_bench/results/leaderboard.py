"""Leaderboard: results of one or many runs as pages that can be opened, printed and diffed.

    results files -> entries -> board -> leaderboard.md, .html, .csv, .tex and figures

No model, no network: only results files come in.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from steer_bench.files import write_whole
from steer_bench.results.board.board import build_board
from steer_bench.results.file import load_results
from steer_bench.results.pages import html as page
from steer_bench.results.pages import text as render
from steer_bench.results.pages.figures import Drawn, draw_figures
from steer_bench.results.samples import sample_for_page, samples_beside

FORMATS = ("md", "html", "csv", "tex")


def leaderboard(runs: Iterable[str | Path]) -> str:
    """Return one leaderboard of run folders or results files, as Markdown. Raises ValueError for one that is not reported."""
    files = [path / "results.json" if path.is_dir() else path for path in map(Path, runs)]
    return render.to_markdown(build_board([load_results(file) for file in files]))


def write_leaderboard(
    results_paths: Sequence[str | Path],
    folder: str | Path,
    figures: bool = True,
    formats: Sequence[str] = FORMATS,
    png: bool = False,
) -> list[Path]:
    """Write leaderboard.md, .html, .csv and .tex, and with `figures` figures/*.svg; returns the paths, each file whole.

    Figures need matplotlib (`pip install "steer-bench[plots]"`); without them the pages have none. `png`: figures/*.png too.
    The page's sample browser holds the samples beside each results file (`samples_beside`).
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ValueError(f"format {', '.join(unknown) or 'none'}: give some of {','.join(FORMATS)}")
    folder = Path(folder)
    drawn: dict[str, Drawn] = {}
    with _uncollected():
        results = [load_results(path) for path in results_paths]
        board = build_board(results)
        if figures:
            drawn = draw_figures(results, board.entries, png=png)
    pages: dict[str, Callable[[], str]] = {
        "md": lambda: render.to_markdown(board, [f"figures/{name}.svg" for name in drawn]),
        "html": lambda: page.to_html(
            board,
            {d.caption: d.svg for d in drawn.values()},
            sample_for_page([s for p in results_paths if (s := samples_beside(p))]),
        ),
        "csv": lambda: render.to_csv(board),
        "tex": lambda: render.to_latex(board),
    }
    files: dict[Path, str | bytes] = {}
    for name, figure in drawn.items():
        files[folder / "figures" / f"{name}.svg"] = figure.svg
        if figure.png is not None:
            files[folder / "figures" / f"{name}.png"] = figure.png
    files |= {folder / f"leaderboard.{name}": pages[name]() for name in FORMATS if name in formats}
    for path, content in files.items():
        write_whole(path, content)
    return list(files)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Switch off Python's collector of cycles, which would walk over hundreds of thousands of objects again and again to find none."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
