"""Commands of a run: all stages, or one of them."""

from __future__ import annotations

from steer_bench.cli.app import Figures, Out, RunArgument, app, print_files, run_stages, show
from steer_bench.cli.engines import (
    Address,
    EngineName,
    Processes,
    Shard,
    finish,
    in_processes,
    measure_one_shard,
    on_engine,
)


@app.command()
def run(
    experiment: RunArgument,
    out: Out = None,
    figures: Figures = True,
    engine: EngineName = "in-process",
    address: Address = None,
    processes: Processes = 1,
) -> None:
    """All stages, from concept texts to the leaderboard; continues where it stopped."""
    from steer_bench.experiment import open_run

    opened = open_run(experiment, out)
    if processes != 1:
        return in_processes("run", opened, processes, figures=figures)
    on_engine(opened, ("extract", "fit", "evaluate"), engine, address)
    finish(opened, figures=figures)


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
def evaluate(
    experiment: RunArgument,
    out: Out = None,
    engine: EngineName = "in-process",
    address: Address = None,
    processes: Processes = 1,
    shard: Shard = None,
) -> None:
    """One lm-eval run a target: all arms, concepts, factors and tasks."""
    from steer_bench.experiment import open_run

    opened = open_run(experiment, out)
    if shard is not None:
        return print_files(measure_one_shard(opened, shard))
    if processes != 1:
        return in_processes("evaluate", opened, processes)
    print_files(on_engine(opened, ("evaluate",), engine, address))


@app.command()
def report(experiment: RunArgument, out: Out = None, figures: Figures = True) -> None:
    """leaderboard.md, leaderboard.html and figures of a finished evaluation."""
    from steer_bench.experiment import open_run

    opened = open_run(experiment, out)
    show(opened, run_stages(opened, ("report",), figures=figures))
