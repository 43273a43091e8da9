"""The dry run: what an experiment needs, before it is run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from steer_bench.cli.app import Out, RunArgument, app, say

if TYPE_CHECKING:
    from steer_bench.experiment.plan import Plan, Rates
    from steer_bench.experiment.run import Run

GPUS = (1, 8, 64)


@app.command()
def plan(
    experiment: RunArgument,
    out: Out = None,
    scale: Annotated[
        bool, typer.Option("--scale", help="Hours at 1, 8 and 64 GPUs, and what stops scaling first.")
    ] = False,
    probe: Annotated[bool, typer.Option("--probe", help="Measure this machine's rates on the first target.")] = False,
    rates: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Tokens a second and GPU: read, written; as a probe elsewhere gave."),
    ] = None,
    concepts: Annotated[int | None, typer.Option(help="As if there were so many test concepts.")] = None,
    pairs: Annotated[int | None, typer.Option(help="As if there were so many directed pairs.")] = None,
) -> None:
    """A dry run: rows, tokens, judge calls, disk, time and what is missing; nothing is measured."""
    from steer_bench.experiment.plan import Rates, plan
    from steer_bench.experiment.plan import probe as measure
    from steer_bench.experiment.run import open_run

    for name, value in (("--concepts", concepts), ("--pairs", pairs)):
        if value is not None and value < 1:
            raise ValueError(f"{name} {value}: give at least 1")
    if rates is not None and min(rates) <= 0:
        raise ValueError(f"--rates {rates[0]} {rates[1]}: give tokens a second above 0")
    opened = open_run(experiment, out)
    found = plan(opened, concepts=concepts, pairs=pairs)
    _show_work(opened, found)
    known = Rates(*rates) if rates else measure(opened, opened.targets[0]) if probe else None
    if known is not None:
        say(
            f"\nrates: {known.read:,.0f} tokens read and {known.written:,.0f} written a second"
            + (" (measured)" if probe else "")
        )
        _show_time(opened, found, known, GPUS if scale else (1,))
    elif scale:
        raise ValueError(
            "--scale: needs rates; add --probe to measure this machine, or --rates READ WRITTEN from another's probe"
        )


def _show_work(run: Run, plan: Plan) -> None:
    from tabulate import tabulate

    from steer_bench.experiment.plan import ASPECTS, cost

    lines = [[target, task, *vars(work).values()] for (target, task), work in plan.work.items()]
    lines.append(["all", "", *vars(plan.total).values()])
    heads = ["target", "task", "cells", "samples", "answers", "tokens read", "tokens written", "judged"]
    say(tabulate(lines, heads, tablefmt="github", intfmt=",", disable_numparse=[0, 1]))
    say(f"\nextract reads {plan.extract:,} tokens, fit {plan.fit:,} (training of MLP maps not counted)")
    dollars = cost(plan, run)
    asked = plan.total.judged * ASPECTS if run.experiment.judge.kind == "openai" else 0
    price = (
        "price not given (judge: {price: {input: ..., output: ...}})" if dollars is None else f"{dollars:,.2f} dollars"
    )
    say(f"judge: {asked:,} calls, {price}")
    disk = ", ".join(f"{name} {_bytes(size)}" for name, size in plan.disk.items())
    say(f"disk: {_bytes(sum(plan.disk.values()))} ({disk}); free: {_bytes(plan.free)}")
    if sum(plan.disk.values()) > plan.free:
        say("disk: not enough; choose another folder with --out")
    say("missing: " + ("; ".join(plan.missing) or "nothing"))


def _show_time(run: Run, plan: Plan, rates: Rates, gpus: tuple[int, ...]) -> None:
    from tabulate import tabulate

    from steer_bench.experiment.plan import parts

    found = parts(plan, run, rates)
    lines = [[part.name, *(_hours(part.hours(n)) for n in gpus)] for part in found]
    lines.append(["all", *(_hours(sum(part.hours(n) for part in found)) for n in gpus)])
    say(
        tabulate(
            lines, ["hours", *(f"{n} GPU" + "s" * (n > 1) for n in gpus)], tablefmt="github", disable_numparse=True
        )
    )
    say("hours = tokens read / read rate + tokens written / write rate, over the GPUs a part can use")
    if len(gpus) > 1:
        rest = [part for part in found if part.name != "measure"]
        longest = max(rest, key=lambda part: part.hours(gpus[-1]))
        measure = next(part for part in found if part.name == "measure")
        n = measure.seconds / 3600 / max(longest.hours(gpus[-1]), 1e-9)
        say(f"stops scaling first: {longest.name}; beyond {max(1, round(n)):,} GPUs it takes longer than measuring")


def _hours(value: float) -> str:
    return f"{value:,.2f}" if value >= 0.005 or value == 0 else "<0.01"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
