"""Commands of a run: all stages, or one of them."""

from __future__ import annotations

from steer_bench.cli.app import Figures, Out, RunArgument, app, print_files, run_stages, show


@app.command()
def run(experiment: RunArgument, out: Out = None, figures: Figures = True) -> None:
    """All stages, from concept texts to the leaderboard; continues where it stopped."""
    from steer_bench.experiment import open_run

    opened = open_run(experiment, out)
    run_stages(opened, ("extract", "fit", "evaluate"))
    show(opened, run_stages(opened, ("report",), figures=figures))


@app.command()
def extract(experiment: RunArgument, out: Out = None) -> None:
    """DiffMean vectors of every concept on every model."""
    from steer_bench.experiment import open_run

    print_files(run_stages(open_run(experiment, out), ("extract",)))


@app.command()
def fit(experiment: RunArgument, out: Out = None) -> None:
    """Transfer maps of every pair, and the arms of every target."""
    from steer_bench.experiment import open_run

    print_files(run_stages(open_run(experiment, out), ("fit",)))


@app.command()
def evaluate(experiment: RunArgument, out: Out = None) -> None:
    """One lm-eval run a target: all arms, concepts, factors and tasks."""
    from steer_bench.experiment import open_run

    print_files(run_stages(open_run(experiment, out), ("evaluate",)))


@app.command()
def report(experiment: RunArgument, out: Out = None, figures: Figures = True) -> None:
    """leaderboard.md, leaderboard.html and figures of a finished evaluation."""
    from steer_bench.experiment import open_run

    opened = open_run(experiment, out)
    show(opened, run_stages(opened, ("report",), figures=figures))
