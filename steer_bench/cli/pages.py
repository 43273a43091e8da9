"""Commands that make pages of results; they never import torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer_bench.cli.app import Figures, app, print_files


@app.command()
def leaderboard(
    results: Annotated[list[Path], typer.Argument(help="Run folders or results JSON files.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the pages.")] = Path("leaderboards"),
    figures: Figures = True,
) -> None:
    """One leaderboard of one or many runs."""
    from steer_bench.leaderboard import write_leaderboard

    files = [path / "results.json" if path.is_dir() else path for path in results]
    for file in files:
        if not file.is_file():
            raise ValueError(f"{file}: no such file; give run folders that are reported, or results JSON files")
    print_files(write_leaderboard(files, out, figures=figures))
