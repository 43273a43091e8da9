"""The typer app, and what its commands share: arguments, running stages, printing."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from steer_bench.experiment import Run

app = typer.Typer(add_completion=True, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="An experiment (shipped name or YAML) or a run folder.")
]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder; default runs/NAME.")]
Unscored = Annotated[
    float, typer.Option("--max-unscored", help="Share of replies without a rating above which the exit code is 3.")
]
Figures = Annotated[bool, typer.Option("--figures/--no-figures", help="Draw figures (needs the extra [plots]).")]


class Fault(Exception):
    """A run that stopped and can be continued."""


def run_stages(
    run: Run, names: tuple[str, ...], *, stages: Mapping[str, Any] | None = None, **options: Any
) -> list[Path]:
    """Run stages in order, an engine's or those of this process; a fault in one leaves what is saved and says how to go on."""
    from steer_bench.experiment import STAGES, MissingStageError

    files: list[Path] = []
    for name in names:
        try:
            stage = {**STAGES, **(stages or {})}[name]
            files = stage(run, **_taken(stage, options))
        except MissingStageError:
            raise
        except Exception as error:
            raise Fault(
                f"{name} stopped: {error}; what is finished is saved, continue with: steer-bench run {run.folder}"
            ) from error
    return files


def _taken(stage: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that a stage takes."""
    return {name: value for name, value in options.items() if name in inspect.signature(stage).parameters}


def print_files(files: list[Path]) -> None:
    """A path a line."""
    for file in files:
        typer.echo(plain(file))


def show(opened: Run, files: list[Path]) -> None:
    """The leaderboard's tables, then where everything lies."""
    typer.echo((opened.folder / "leaderboard.md").read_text())
    print_files(files)
    for target in opened.targets:
        print_files(sorted(opened.evaluation(target).rglob("results_*.json"))[-1:])


def plain(path: Path) -> str:
    """Relative to where the user stands, where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)
