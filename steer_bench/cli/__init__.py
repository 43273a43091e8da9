"""steer-bench: one short command per verb; each calls one library function.

Exit codes: 0 complete, 2 bad input and nothing run, 3 finished but too much unscored, 4 stopped by a fault and resumable,
130 interrupted and resumable.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer

from steer_bench.cli import checks, doctor, judging, lmeval, planning, report, search, stages, vectors  # noqa: F401 (commands)
from steer_bench.cli.app import app
from steer_bench.cli.faults import Fault, explained, is_bad_path, printable
from steer_bench.models.device import keep_freed_memory


def main() -> None:
    """Run the command line: turn errors into one line and an exit code; --debug shows the traceback."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        _check_ranks()
        keep_freed_memory()
        app()
    except KeyboardInterrupt:
        typer.echo("interrupted; what is finished is saved, the same command continues", err=True)
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        for line in _said(error):
            typer.echo(printable(f"error: {line}"), err=True)
        sys.exit(2 if isinstance(error, ValueError) or is_bad_path(error) else 4)


def _check_ranks() -> None:
    """Raise ValueError for a number of torchrun, Slurm or one's own shell that is none."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        if not (value := os.environ.get(name, "0") or "0").isdecimal():
            raise ValueError(f"{name} is {value!r} in the environment; unset it, or give a whole number")


def _said(error: Exception) -> list[str]:
    """Return an error as lines, one per fault."""
    if isinstance(error, ValueError | Fault):
        return str(error).splitlines() or [type(error).__name__]
    if isinstance(error, OSError) and is_bad_path(error):
        return [f"{error.filename}: {(error.strerror or '').lower()}; check the path"]
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return [f"{where}{explained(error, Path.cwd())}"]
    said = explained(error, Path.cwd())
    return [f"{said}; this is a fault of steer-bench: the same command with --debug shows where"]
