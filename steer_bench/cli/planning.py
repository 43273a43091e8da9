"""The dry run: what an experiment needs, before it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer_bench.cli.app import Out, RunArgument, app, open_run, say
from steer_bench.cli.faults import free_bytes


@app.command()
def plan(
    experiment: RunArgument,
    out: Out = None,
    rates: Annotated[
        tuple[float, float] | None, typer.Option(help="Tokens a second and GPU, read and written: gives the hours too.")
    ] = None,
    scale: Annotated[bool, typer.Option("--scale", help="Hours at 1, 8 and 64 GPUs; needs --rates.")] = False,
    concepts: Annotated[int | None, typer.Option(min=1, help="As if there were so many test concepts.")] = None,
    power: Annotated[
        Path | None, typer.Option(help="Results file of a run like it: how much its concepts differ.")
    ] = None,
    pairs: Annotated[int | None, typer.Option(min=1, help="As if there were so many directed pairs.")] = None,
) -> None:
    """A dry run: rows, tokens, judge calls, disk, time and what is missing; nothing is measured."""
    from tabulate import tabulate

    from steer_bench.experiment.plan import plan as count
    from steer_bench.experiment.power import power as found_by

    if rates is not None and min(rates) <= 0:
        raise ValueError(f"--rates {rates[0]} {rates[1]}: give tokens a second above 0")
    if scale and rates is None:
        raise ValueError("--scale: needs --rates READ WRITTEN, tokens that one of your GPUs reads and writes a second")
    run = open_run(experiment, out)
    found = count(run, concepts=concepts, pairs=pairs)
    lines = [[target, task, *vars(cost).values()] for (target, task), cost in found.costs.items()]
    lines.append(["all", "", *vars(found.total).values()])
    heads = ["target", "task", "cells", "samples", "answers", "tokens read", "tokens written", "judged"]
    say(tabulate(lines, heads, tablefmt="github", intfmt=",", disable_numparse=[0, 1]))
    say("\n" + "\n".join(map(str, found_by(run, power, concepts))))
    say(
        f"\nextract reads {found.extract:,} tokens, fit {found.fit:,} (training of MLP maps not counted), dose {found.dose:,}"
    )
    say(f"judge: {found.judge_calls:,} calls")
    needed, free = sum(found.disk.values()), free_bytes(run.folder.path)
    kinds = ", ".join(f"{name} {_bytes(size)}" for name, size in found.disk.items())
    say(f"disk: {_bytes(needed)} ({kinds}); free: {_bytes(free)}")
    if needed > free:
        say("disk: not enough; choose another folder with --out")
    say("missing: " + ("; ".join(found.missing) or "nothing"))
    if rates is not None:
        gpus, stages = ((1, 8, 64) if scale else (1,)), found.stages(*rates)
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
