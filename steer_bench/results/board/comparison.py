"""Comparison: what two runs measured differently, paired over the concepts and items both have.

results, results -> [paired differences with intervals] -> table
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from steer_bench.results.board.merging import differing, protocol_of, shorten
from steer_bench.results.board.table import MISSING, Line, Table, Text, interval_cell, number
from steer_bench.results.file import Results
from steer_bench.results.measures import LIKELIHOOD, in_order, measure_of
from steer_bench.results.provenance import Provenance
from steer_bench.results.rows import Rows
from steer_bench.results.stats.bootstrap import Estimate, hierarchical_bootstrap
from steer_bench.results.stats.effects import TaskEffects, likelihood_curves, measure_generation, measure_likelihood
from steer_bench.results.stats.grid import ArmKey, value_grid
from steer_bench.results.stats.verdict import holm, sign_flip_p


class Difference(NamedTuple):
    """One arm on one task of one target, in both runs."""

    target: str
    source: str
    arm: str
    task: str
    first: Estimate
    """Mean over the shared concepts in the first run."""
    second: Estimate
    difference: Estimate
    """Second minus first, paired by concept and item."""
    p: float | None
    """Two-sided sign-flip p over concepts, after Holm over all lines; None with fewer than 2 concepts."""


def compare(first: Results, second: Results) -> tuple[list[Difference], list[str]]:
    """Return paired differences, second minus first, of every arm and task both runs measured; and remarks on what is not equal.

    Only concepts and items that both measured count. Each run keeps its own factors: likelihood at matched damage, other
    tasks at the selected factor. Raises ValueError where the runs share no measurement.
    """
    sides = [set(result.rows.texts["target"].present()) for result in (first, second)]
    targets = sorted(sides[0] & sides[1])
    remarks: list[str] = []
    found: list[Difference] = []
    for target in targets:
        one, two = protocol_of(first, target), protocol_of(second, target)
        keys = differing(one, two)
        remarks += [f"{target}: different {key}: {shorten(one[key])} and {shorten(two[key])}." for key in keys]
        for task in _shared_tasks(first, second, target):
            if measure_of(task).judged and "judge" in keys:
                remarks.append(f"{target}: {task} is left out, for ratings of different judges are not comparable.")
                continue
            found += _differences(first, second, target, task, remarks)
    if not found:
        why = f" ({'; '.join(remarks)})" if remarks else ""
        raise ValueError(
            f"runs {first.run.name!r} and {second.run.name!r} share no target, arm and task with a common "
            f"concept and item{why}; give two runs of one target on the same prompts"
        )
    return _holm(found), remarks


def comparison_table(first: Results, second: Results) -> Table:
    """Return what `compare` gives as a table."""
    found, remarks = compare(first, second)
    names = [result.run.name for result in (first, second)]
    names = names if names[0] != names[1] else ["first", "second"]
    columns = ("target", "task", "arm", "source", *names, "difference", "p", "n")
    lines = [
        Line(
            (
                Text(d.target),
                Text(measure_of(d.task).title),
                Text(d.arm),
                Text(d.source or "-"),
                *map(interval_cell, (d.first, d.second, d.difference)),
                Text(MISSING if d.p is None else number(d.p), d.p),
                Text(str(d.difference.n), float(d.difference.n)),
            ),
            group=d.target,
        )
        for d in found
    ]
    told = [
        f"Difference: {names[1]} minus {names[0]}, over the concepts and items both measured; 95 % interval by paired "
        "bootstrap over concepts, then items; p by sign flips over concepts, Holm over all lines.",
        *remarks,
    ]
    partial = [name for name, result in zip(names, (first, second), strict=True) if not result.run.complete]
    told += [f"Partial: {name} did not finish; its numbers may change." for name in partial]
    return Table(f"{names[1]} against {names[0]}", columns, tuple(lines), tuple(told))


def _shared_tasks(first: Results, second: Results, target: str) -> list[str]:
    tasks = [set(result.rows.where(target=target).texts["task"].present()) for result in (first, second)]
    return in_order(task for task in tasks[0] & tasks[1] if measure_of(task).scores_arms)


def _differences(first: Results, second: Results, target: str, task: str, remarks: list[str]) -> list[Difference]:
    sides = [result.rows.where(target=target, task=task) for result in (first, second)]
    columns = ("concept", "item", "role")
    places = [list(zip(*(rows.texts[name].tolist() for name in columns), strict=True)) for rows in sides]
    shared = set(places[0]) & set(places[1])
    dropped = len({*places[0], *places[1]}) - len(shared)
    if not shared:
        return []
    if dropped:
        remarks.append(
            f"{target}: {measure_of(task).title}: {dropped} concept-item pairs that only one run measured are left out."
        )
    kept = [rows.take(np.array([place in shared for place in own])) for rows, own in zip(sides, places, strict=True)]
    one, two = (_measured(rows, task, target, result.run) for rows, result in zip(kept, (first, second), strict=True))
    found = []
    for arm in sorted(one.effects.keys() & two.effects.keys()) if one.concepts == two.concepts else ():
        values = {ArmKey("1", arm.name): one, ArmKey("2", arm.name): two}
        scores = {key: side.scores[arm] for key, side in values.items()}
        neutral = {key: side.neutral[arm] for key, side in values.items()} if task == LIKELIHOOD else None
        bootstrap = hierarchical_bootstrap(scores, neutral, seed=0)
        mine, theirs = values
        difference = bootstrap.difference(theirs, mine)
        if difference.value is None:
            continue
        p = sign_flip_p(bootstrap.differences(theirs, mine))
        found.append(
            Difference(
                target, arm.source, arm.name, task, bootstrap.effect(mine), bootstrap.effect(theirs), difference, p
            )
        )
    return found


def _measured(rows: Rows, task: str, target: str, run: Provenance) -> TaskEffects:
    if task == LIKELIHOOD:
        curves = likelihood_curves(rows, target, pooled=run.pooled)
        return measure_likelihood(curves, run.damage_limit)
    return measure_generation(value_grid(rows, task, target, run.pooled))


def _holm(found: Sequence[Difference]) -> list[Difference]:
    """Return the same with p values after Holm over all lines."""
    known: Mapping[int, float] = {place: d.p for place, d in enumerate(found) if d.p is not None}
    adjusted = dict(zip(known, holm(list(known.values())), strict=True)) if known else {}
    return [d._replace(p=adjusted.get(place)) for place, d in enumerate(found)]
