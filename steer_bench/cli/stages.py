"""Commands of a run: all stages, or one of them."""

from __future__ import annotations

from typing import Annotated

import typer

from steer_bench.cli.app import Figures, Out, RunArgument, Unscored, app, print_files, run_stages, show
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
from steer_bench.cli.judging import JudgeSpec, end_judged, open_judged


@app.command()
def run(
    experiment: RunArgument,
    out: Out = None,
    figures: Figures = True,
    judge: JudgeSpec = None,
    max_unscored: Unscored = 0.02,
    engine: EngineName = "in-process",
    address: Address = None,
    processes: Processes = 1,
) -> None:
    """All stages, from concept texts to the leaderboard; continues where it stopped."""
    opened = open_judged(experiment, out, judge)
    if processes != 1:
        in_processes("run", opened, processes, figures=figures)
    else:
        on_engine(opened, ("extract", "fit", "evaluate"), engine, address)
        if finish(opened, figures=figures) > 1:
            return  # a rank: who started the ranks looks at what they rated
    end_judged(opened, opened.experiment.judge, max_unscored)


@app.command()
def extract(experiment: RunArgument, out: Out = None) -> None:
    """DiffMean vectors of every concept on every model."""
    from steer_bench.experiment.run import open_run

    print_files(run_stages(open_run(experiment, out), ("extract",)))


@app.command()
def fit(experiment: RunArgument, out: Out = None) -> None:
    """Transfer maps of every pair, and the arms of every target."""
    from steer_bench.experiment.run import open_run

    print_files(run_stages(open_run(experiment, out), ("fit",)))


@app.command()
def evaluate(
    experiment: RunArgument,
    out: Out = None,
    predict_only: Annotated[
        bool,
        typer.Option("--predict-only", "--predict_only", help="Generate, and judge nothing: steer-bench judge does."),
    ] = False,
    max_unscored: Unscored = 0.02,
    engine: EngineName = "in-process",
    address: Address = None,
    processes: Processes = 1,
    shard: Shard = None,
) -> None:
    """One lm-eval run a target: all arms, concepts, factors and tasks."""
    opened = open_judged(experiment, out, None, probe=not predict_only and shard is None)
    if shard is not None:
        return print_files(measure_one_shard(opened, shard))
    if processes != 1:
        in_processes("evaluate", opened, processes, predict_only=predict_only)
    else:
        print_files(on_engine(opened, ("evaluate",), engine, address, predict_only=predict_only))
    if not predict_only:
        end_judged(opened, opened.experiment.judge, max_unscored)


@app.command()
def report(
    experiment: RunArgument,
    out: Out = None,
    figures: Figures = True,
    judge: Annotated[
        str | None, typer.Option(help="Whose ratings to show: id, or its beginning, of a judge in RUN/judgements.")
    ] = None,
) -> None:
    """leaderboard.md, leaderboard.html and figures of a finished evaluation."""
    from steer_bench.experiment.run import open_run
    from steer_bench.experiment.stages.judge import find_judge

    opened = open_run(experiment, out)
    find_judge(opened, judge)
    show(opened, run_stages(opened, ("report",), figures=figures, judge=judge))
