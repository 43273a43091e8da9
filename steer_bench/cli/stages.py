"""Commands of a run: all stages, or one of them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from steer_bench.cli import engines
from steer_bench.cli.app import Figures, Out, RunArgument, Unscored, app, open_run, print_files, run_stages, say, show
from steer_bench.cli.engines import Address, EngineName, Processes, Shard
from steer_bench.cli.judging import JudgeSpec, end_judged, open_judged

if TYPE_CHECKING:
    from steer_bench.experiment.run import Run


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
    if opened.experiment.repeats > 1:
        from steer_bench.experiment.repeats import repeated

        for one in repeated(opened):
            run(str(one.folder), None, figures, None, max_unscored, engine, address, processes)
        return _show_repeats(opened)
    if processes != 1:
        engines.in_processes("run", opened, processes, *([] if figures else ["--no-figures"]))
    else:
        with engines.open_engine(engine, address) as stages:
            run_stages(opened, {name: stages[name] for name in ("extract", "fit", "dose", "evaluate")})
            if engines.finish(opened, stages, figures=figures) > 1:
                return  # a rank: who started the ranks looks at what they rated
    end_judged(opened, opened.experiment.judge, max_unscored)


def _show_repeats(opened: Run) -> None:
    """Write and print what varies between the repeats of a run."""
    from steer_bench.experiment.repeats import write_repeats

    path = write_repeats(opened)
    say(path.read_text())
    print_files([path])


@app.command()
def extract(experiment: RunArgument, out: Out = None) -> None:
    """DiffMean vectors of every concept on every model."""
    opened = open_run(experiment, out)
    from steer_bench.experiment.stages.extract import extract

    print_files(run_stages(opened, {"extract": extract}))


@app.command()
def fit(experiment: RunArgument, out: Out = None) -> None:
    """Transfer maps of every pair, and the arms of every target."""
    opened = open_run(experiment, out)
    from steer_bench.experiment.stages.fit import fit

    print_files(run_stages(opened, {"fit": fit}))


@app.command()
def dose(experiment: RunArgument, out: Out = None) -> None:
    """The factor at which every arm does each level of damage; the unsteered replies that set the judge."""
    opened = open_run(experiment, out)
    from steer_bench.experiment.stages.dose import dose

    print_files(run_stages(opened, {"dose": dose}))


@app.command()
def evaluate(
    experiment: RunArgument,
    out: Out = None,
    predict_only: Annotated[
        bool,
        typer.Option("--predict-only", "--predict_only", help="As always: replies are left to steer-bench judge."),
    ] = False,
    engine: EngineName = "in-process",
    address: Address = None,
    processes: Processes = 1,
    shard: Shard = None,
) -> None:
    """Generate and score, in one lm-eval run per target: all arms, concepts, levels and tasks. No judge is asked."""
    opened = open_run(experiment, out)
    if shard is not None:
        return print_files(engines.measure_one_shard(opened, shard))
    if processes != 1:
        engines.in_processes("evaluate", opened, processes)
    else:
        with engines.open_engine(engine, address) as stages:
            print_files(run_stages(opened, {"evaluate": stages["evaluate"]}))
        from steer_bench.experiment.completion import waiting

        for line in filter(None, (waiting(opened, target) for target in opened.targets)):
            say(line, err=True)


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
    from steer_bench.experiment.ratings import find_judge
    from steer_bench.experiment.stages.report import report

    opened = open_run(experiment, out)
    if opened.experiment.repeats > 1:
        return _show_repeats(opened)
    find_judge(opened, judge)
    show(opened, run_stages(opened, {"report": partial(report, figures=figures, judge=judge)}))
