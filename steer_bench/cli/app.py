"""The typer app, and what its commands share: arguments, running stages, printing."""

from __future__ import annotations

import os
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer_bench.cli.faults import Fault, explained, printable

if TYPE_CHECKING:
    from steer_bench.experiment.run import Run, Stages
    from steer_bench.judge.config import JudgeConfig

app = typer.Typer(
    help="Does a steering vector learned on one language model still steer another, and at what cost? "
    "Anywhere in a command, --debug shows the traceback of an error.",
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="An experiment (shipped name or YAML) or a run folder.")
]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder; default runs/NAME.")]


def number(least: float, most: float) -> Callable[[typer.CallbackParam, float | None], float | None]:
    """Return the check of an option that is a number in a range, ends included; it raises ValueError for another, and for NaN."""

    def check(option: typer.CallbackParam, value: float | None) -> float | None:
        if value is not None and not (least <= value <= most and abs(value) < inf):
            raise ValueError(
                f"--{str(option.name).replace('_', '-')} {value}: give a number from {least:g} to {most:g}"
            )
        return value

    return check


Unscored = Annotated[
    float,
    typer.Option(
        "--max-unscored",
        help="Share of replies without a rating above which the exit code is 3.",
        callback=number(0, 1),
    ),
]
Figures = Annotated[bool, typer.Option("--figures/--no-figures", help="Draw figures (needs the extra [plots]).")]


def say(text: object, *, err: bool = False) -> None:
    """Print a line without escape sequences and keys, which may be in what others wrote."""
    typer.echo(printable(str(text)), err=err)


def open_run(name: str, folder: Path | None = None, *, judge: JudgeConfig | None = None) -> Run:
    """Open a run as `steer_bench.experiment.run.open_run` does, which is imported only now."""
    from steer_bench.experiment import run

    return run.open_run(name, folder, judge=judge)


def run_stages(run: Run, stages: Stages) -> list[Path]:
    """Run stages in order, under the run's lock; return the files of the last.

    A stop or a fault leaves what is saved and says how to go on.
    """
    from steer_bench.models.stopping import stoppable

    files: list[Path] = []
    folder, resume = run.folder.path, f"steer-bench run {plain(run.folder.path)}"
    with run.folder.lock(), StageErrors("the run", folder, resume), stoppable():  # no lock: nothing has run
        for name, stage in stages.items():
            with StageErrors(name, folder, resume):
                files = stage(run)
    return files


class StageErrors:
    """Turn what a stage raises into a Fault that says how to go on, and Ctrl-C into exit code 130."""

    def __init__(self, name: str, folder: Path, resume: str) -> None:
        self.name, self.folder, self.resume = name, folder, resume

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        from steer_bench.experiment.folder import RunLockedError
        from steer_bench.experiment.run import MissingStageError

        if isinstance(error, KeyboardInterrupt):
            say(f"interrupted; what is finished is saved, continue with: {self.resume}", err=True)
            raise typer.Exit(130) from error
        passed = (Fault, RunLockedError, MissingStageError, typer.Exit)
        if isinstance(error, Exception) and not isinstance(error, passed):
            said = f"{self.name} stopped: {explained(error, self.folder)}"
            raise Fault(f"{said}; what is finished is saved, continue with: {self.resume}") from error


def print_files(files: list[Path]) -> None:
    """Print one path per line."""
    for file in files:
        say(plain(file))


def show(opened: Run, files: list[Path]) -> None:
    """Print the leaderboard's tables, then where everything lies."""
    say((opened.folder.path / "leaderboard.md").read_text())
    print_files(files)
    for target in opened.targets:
        print_files(sorted(opened.folder.evaluation(target).rglob("results_*.json"))[-1:])


def plain(path: Path) -> str:
    """Return the path relative to where the user stands, where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)
