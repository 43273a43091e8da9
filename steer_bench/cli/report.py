"""Commands that make pages of results; they never import torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer_bench.cli.app import Figures, app, print_files, say

Port = Annotated[int, typer.Option("--port", help="Port on 127.0.0.1; 0 takes a free one.", min=0, max=65535)]
Formats = Annotated[str, typer.Option("--format", help="Which pages, of md,html,csv,tex.")]


@app.command()
def leaderboard(
    results: Annotated[list[Path], typer.Argument(help="Run folders or results JSON files.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the pages.")] = Path("leaderboards"),
    formats: Formats = "md,html,csv,tex",
    figures: Figures = True,
    png: Annotated[bool, typer.Option("--png", help="Each figure as PNG too, beside the SVG.")] = False,
) -> None:
    """One leaderboard of one or many runs."""
    from steer_bench.results.leaderboard import write_leaderboard

    names = [name.strip() for name in formats.split(",")]
    files = [_results_file(path) for path in results]
    print_files(write_leaderboard(files, out, figures=figures, formats=names, png=png))


@app.command()
def view(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a folder made by leaderboard.")],
    port: Port = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
) -> None:
    """Serve a run's page on this machine until Ctrl-C."""
    import webbrowser

    from steer_bench.results.pages.viewer import Viewer

    with Viewer(run, port) as viewer:
        say(f"{viewer.url} (Ctrl-C stops)")
        if browser:
            webbrowser.open(viewer.url)
        try:
            viewer.serve_forever()
        except KeyboardInterrupt:
            say("stopped")


@app.command()
def compare(
    run1: Annotated[Path, typer.Argument(metavar="RUN1", help="A run folder or results JSON file.")],
    run2: Annotated[Path, typer.Argument(metavar="RUN2", help="Another, of the same target.")],
) -> None:
    """Paired differences of two runs, the second minus the first, with intervals."""
    from steer_bench.results.board.comparison import comparison_table
    from steer_bench.results.file import load_results
    from steer_bench.results.pages.text import table_to_text

    first, second = (load_results(_results_file(path)) for path in (run1, run2))
    say(table_to_text(comparison_table(first, second)))


def _results_file(path: Path) -> Path:
    """The results of a run folder, or the file itself."""
    file = path / "results.json" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{file}: no such file; give run folders that are reported, or results JSON files")
    return file
