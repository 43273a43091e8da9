"""steer-bench: one short command per verb; each calls one library function.

Exit codes: 0 complete, 2 bad input and nothing run, 3 finished but too much unscored, 4 stopped by a fault and resumable,
130 interrupted and resumable.
"""

from __future__ import annotations

import sys

import typer

from steer_bench.cli import banks, checks, judging, lmeval, pages, planning, stages, vectors  # noqa: F401 (each adds its commands)
from steer_bench.cli.app import Fault, app


def main() -> None:
    """Entry point: turns errors into one line and an exit code; --debug shows the traceback."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app()
    except KeyboardInterrupt:
        typer.echo("interrupted; what is finished is saved, the same command continues", err=True)
        sys.exit(130)
    except Fault as fault:
        if debug:
            raise
        typer.echo(f"error: {fault}", err=True)
        sys.exit(4)
    except ValueError as error:
        if debug:
            raise
        for line in str(error).splitlines():
            typer.echo(f"error: {line}", err=True)
        sys.exit(2)
