"""Commands that ask a judge: rate a finished run again, or measure a judge before it is believed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer_bench.cli.app import Out, RunArgument, Unscored, app, open_run, print_files, run_stages, say

if TYPE_CHECKING:
    from steer_bench.experiment.run import Run
    from steer_bench.judge.check import CheckRow
    from steer_bench.judge.config import JudgeConfig

_SPEC = "KIND[:MODEL][,KEY=VALUE...] or a YAML file; default the experiment's judge."
JudgeSpec = Annotated[str | None, typer.Option("--judge", metavar="SPEC", help=_SPEC)]


def open_judged(experiment: str, out: Path | None, spec: str | None) -> Run:
    """Open a run, with the judge given if there is one, and check that its judge answers before any model is loaded."""
    from steer_bench.experiment.stages.judge import probe_run
    from steer_bench.judge.config import read_judge

    opened = open_run(experiment, out, judge=None if spec is None else read_judge(spec))
    probe_run(opened)
    return opened


def end_judged(run: Run, config: JudgeConfig, max_unscored: float) -> None:
    """Exit with code 3, and say why, where too many replies have no rating."""
    from steer_bench.experiment.ratings import all_ratings, unscored_line
    from steer_bench.judge.config import judge_id

    line = unscored_line(all_ratings(run).get(judge_id(config), {}), max_unscored)
    if line is not None:
        say(f"{line}; ask again with: steer-bench judge {run.folder}", err=True)
        raise typer.Exit(3)


@app.command()
def judge(
    experiment: RunArgument = "quickstart",
    judge: JudgeSpec = None,
    check: Annotated[
        bool, typer.Option("--check", help="Rate nothing: measure the judge on texts with a known answer.")
    ] = False,
    limit: Annotated[int | None, typer.Option(help="For --check: texts per side and concept.")] = None,
    max_unscored: Unscored = 0.02,
    out: Out = None,
) -> None:
    """Rate the replies of a finished run, or rate them again by another judge; generate nothing."""
    from steer_bench.experiment.completion import waiting
    from steer_bench.experiment.ratings import all_ratings, judge_agreement
    from steer_bench.experiment.stages import judge as stage
    from steer_bench.judge.config import judge_id, read_judge
    from steer_bench.results.measures import JUDGED

    opened = open_run(experiment, out)
    config = read_judge(judge) if judge else opened.experiment.judge
    if check:
        stage.probe(config)  # before anything heavy is imported
        from steer_bench.experiment.judge_check import check as check_run

        _print_check(check_run(opened, config, limit=limit))
        return
    if JUDGED not in opened.experiment.tasks:
        raise ValueError(f"{opened.folder}: the run has no {JUDGED}, the task whose replies are judged")
    if stage.unrated(opened, config, again=True):
        stage.probe(config)
    print_files(run_stages(opened, {"judge": partial(stage.judge, config=config)}))
    ratings, name = all_ratings(opened), judge_id(config)
    for target, found in ratings[name].items():
        spent = ""
        if (usage := found.card.usage) is not None:
            spent = f"; {usage.calls:,} calls, {usage.input_tokens + usage.output_tokens:,} tokens"
            spent += "" if usage.cost is None else f", ${usage.cost:.2f}"
        say(f"{target}: {found.card.total} replies, {found.unscored} unscored{spent}")
    for line in judge_agreement(ratings):
        if name in line.judges:
            kappa, spearman = (f"{value:.2f}" if value is not None else "n/a" for value in (line.kappa, line.spearman))
            say(f"{' and '.join(line.judges)}, {line.aspect}: kappa {kappa}, Spearman {spearman}, n {line.n}")
    then = f"to show its ratings: steer-bench report {opened.folder} --judge {name}"
    say(next(filter(None, (waiting(opened, target) for target in opened.targets)), then))
    end_judged(opened, config, max_unscored)


def _print_check(rows: list[CheckRow]) -> None:
    from tabulate import tabulate

    lines = [
        (
            row.aspect, row.group, "n/a" if row.auroc is None else f"{row.auroc:.3f}", row.n, f"{row.unscored:.1%}",
            ", ".join(f"{count} {reason}" for reason, count in row.reasons.items()), row.tokens,
            "" if row.cost is None else f"${row.cost:.4f}",
        )
        for row in rows
    ]  # fmt: skip
    say(f"judge: {rows[0].judge}")
    headers = ("aspect", "texts", "AUROC", "n", "unscored", "why", "tokens", "cost")
    say(tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True))
