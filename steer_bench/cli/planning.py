"""The dry run: what an experiment needs, before it is run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from steer_bench.cli.app import Out, RunArgument, app, say

if TYPE_CHECKING:
    from steer_bench.experiment.plan import Plan, Throughput

GPUS = (1, 8, 64)


@app.command()
def plan(
    experiment: RunArgument,
    out: Out = None,
    rates: Annotated[
        tuple[float, float] | None, typer.Option(help="Tokens a second and GPU, read and written: gives the hours too.")
    ] = None,
    scale: Annotated[bool, typer.Option("--scale", help="Hours at 1, 8 and 64 GPUs; needs --rates.")] = False,
    concepts: Annotated[int | None, typer.Option(min=1, help="As if there were so many test concepts.")] = None,
    pairs: Annotated[int | None, typer.Option(min=1, help="As if there were so many directed pairs.")] = None,
) -> None:
    """A dry run: rows, tokens, judge calls, disk, time and what is missing; nothing is measured."""
    from steer_bench.experiment.plan import Throughput
    from steer_bench.experiment.plan import plan as count
    from steer_bench.experiment.run import open_run

    if rates is not None and min(rates) <= 0:
        raise ValueError(f"--rates {rates[0]} {rates[1]}: give tokens a second above 0")
    if scale and rates is None:
        raise ValueError(
            "--scale: needs --rates READ WRITTEN, the tokens that one of your GPUs reads and writes a second"
        )
    found = count(open_run(experiment, out), concepts=concepts, pairs=pairs)
    _show_work(found)
    if rates is not None:
        _show_time(found, Throughput(*rates), GPUS if scale else (1,))


def _show_work(plan: Plan) -> None:
    from tabulate import tabulate

    lines = [[target, task, *vars(cost).values()] for (target, task), cost in plan.costs.items()]
    lines.append(["all", "", *vars(plan.total).values()])
    heads = ["target", "task", "cells", "samples", "answers", "tokens read", "tokens written", "judged"]
    say(tabulate(lines, heads, tablefmt="github", intfmt=",", disable_numparse=[0, 1]))
    say(f"\nextract reads {plan.extract:,} tokens, fit {plan.fit:,} (training of MLP maps not counted)")
    say(f"judge: {plan.judge_calls:,} calls")
    disk = ", ".join(f"{name} {_bytes(size)}" for name, size in plan.disk.items())
    say(f"disk: {_bytes(sum(plan.disk.values()))} ({disk}); free: {_bytes(plan.free)}")
    if sum(plan.disk.values()) > plan.free:
        say("disk: not enough; choose another folder with --out")
    say("missing: " + ("; ".join(plan.missing) or "nothing"))


def _show_time(plan: Plan, throughput: Throughput, gpus: tuple[int, ...]) -> None:
    from tabulate import tabulate

    stages = plan.stages(throughput)
    lines = [[stage.name, *(_hours(stage.hours(n)) for n in gpus)] for stage in stages]
    lines.append(["all", *(_hours(sum(stage.hours(n) for stage in stages)) for n in gpus)])
    heads = ["hours", *(f"{n} GPU" + "s" * (n > 1) for n in gpus)]
    say("\n" + tabulate(lines, heads, tablefmt="github", disable_numparse=True))
    say("hours = tokens read / read rate + tokens written / write rate, over the GPUs a part can use")


def _hours(value: float) -> str:
    return f"{value:,.2f}" if value >= 0.005 or value == 0 else "<0.01"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
