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
from steer_bench.results.file import Results, load_results
from steer_bench.results.pages import html as page
from steer_bench.results.pages import text as render
from steer_bench.results.pages.figures import Drawn, draw_figures
from steer_bench.results.samples import Samples, sample_for_page, samples_beside

FORMATS = ("md", "html", "csv", "tex")


def to_markdown(results: Iterable[Results]) -> str:
    """GitHub Markdown of one or many runs."""
    return render.to_markdown(build_board(results))


def leaderboard(runs: Iterable[str | Path]) -> str:
    """Return one leaderboard of run folders or results files, as Markdown. Raises ValueError for one that is not reported."""
    files = [path / "results.json" if path.is_dir() else path for path in map(Path, runs)]
    return to_markdown([load_results(file) for file in files])


def to_csv(results: Iterable[Results]) -> str:
    """One line a run, target, source, arm and task."""
    return render.to_csv(build_board(results))


def to_latex(results: Iterable[Results]) -> str:
    """LaTeX tables of one or many runs."""
    return render.to_latex(build_board(results))


def to_html(results: Iterable[Results], samples: Sequence[Samples] = ()) -> str:
    """One self-contained page of one or many runs, without figures."""
    return page.to_html(build_board(results), samples=sample_for_page(samples))


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
    """Without Python's collector of cycles, which would walk over hundreds of thousands of objects again and again to find none."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
