"""Comparison: what two runs measured differently, paired by concept.

results, results -> [paired differences with intervals] -> table
"""

from typing import NamedTuple

import numpy as np

from steer_bench.results.board.merging import differing
from steer_bench.results.board.table import Line, Table, Text, interval_cell, number_cell
from steer_bench.results.file import Results
from steer_bench.results.measures import in_order, measure_of
from steer_bench.results.recount import missing_rows
from steer_bench.results.stats.estimate import Estimate, mean_estimate
from steer_bench.results.stats.grid import nan_mean
from steer_bench.results.stats.tests import holm, sign_flip_p
from steer_bench.results.stats.values import task_levels, task_values


class Difference(NamedTuple):
    """One arm on one task of one target, in both runs."""

    target: str
    source: str
    arm: str
    task: str
    level: float
    """Of damage; 0 on a grid of factors."""
    first: Estimate
    """Mean over the shared concepts in the first run."""
    second: Estimate
    difference: Estimate
    """Second minus first, paired by concept; a concept's value is its mean over the items both runs have."""
    p: float
    """Two-sided sign-flip p over concepts, after Holm over all lines."""


def compare(first: Results, second: Results) -> tuple[list[Difference], list[str]]:
    """Return paired differences, second minus first, of every arm and task both runs measured; and remarks on what is not equal.

    Only concepts and items that both measured count, at the first run's headline level of damage, or on a grid at the factor that
    each run chose. Raises ValueError where the runs share no measurement.
    """
    sides = [set(result.rows.texts["target"].present()) for result in (first, second)]
    remarks: list[str] = []
    found: list[Difference] = []
    for target in sorted(sides[0] & sides[1]):
        told = differing(first, second, target)
        remarks += [f"{target}: {one}." for one in told]
        for task in _shared_tasks(first, second, target):
            title = f"{target}: {measure_of(task).title}"
            if measure_of(task).judged and any(one.startswith("different judge") for one in told):
                remarks.append(f"{title} is left out, for ratings of different judges are not comparable.")
                continue
            levels = [task_levels(result.rows, task, target) for result in (first, second)]
            both = sorted(set(levels[0]) & set(levels[1]), key=lambda level: abs(level - first.run.headline))
            if not both:
                remarks.append(f"{title} is left out, for the runs measured it at no common level of damage.")
                continue
            found += _differences(first, second, target, task, both[0], remarks)
    if not found:
        why = f" ({'; '.join(remarks)})" if remarks else ""
        raise ValueError(
            f"runs {first.run.name!r} and {second.run.name!r} share no target, arm and task with a common "
            f"concept and item{why}; give two runs of one target on the same prompts"
        )
    adjusted = holm([line.p for line in found])
    return [line._replace(p=p) for line, p in zip(found, adjusted, strict=True)], remarks


def comparison_table(first: Results, second: Results) -> Table:
    """Return what `compare` gives as a table."""
    found, remarks = compare(first, second)
    names = [result.run.name for result in (first, second)]
    names = names if names[0] != names[1] else ["first", "second"]
    columns = ("target", "task", "damage", "arm", "source", *names, "difference", "p", "n")
    lines = [
        Line(
            (
                *map(
                    Text,
                    (d.target, measure_of(d.task).title, f"{d.level:g}" if d.level else "-", d.arm, d.source or "-"),
                ),
                *map(interval_cell, (d.first, d.second, d.difference)),
                number_cell(d.p),
                Text(str(d.difference.n), float(d.difference.n)),
            ),
            group=d.target,
        )
        for d in found
    ]
    told = [
        f"Difference: {names[1]} minus {names[0]}, over the concepts and items both measured; 95 % interval over concepts; p by "
        "sign flips over concepts, two-sided, Holm over all lines.",
        *remarks,
    ]
    for name, result in zip(names, (first, second), strict=True):
        told += [f"Partial: {name}: {missing}." for missing in missing_rows(result)]
    return Table(f"{names[1]} against {names[0]}", columns, tuple(lines), tuple(told))


def _shared_tasks(first: Results, second: Results, target: str) -> list[str]:
    tasks = [set(result.rows.where(target=target).texts["task"].present()) for result in (first, second)]
    return in_order(task for task in tasks[0] & tasks[1] if measure_of(task).scores_arms)


def _differences(
    first: Results, second: Results, target: str, task: str, level: float, remarks: list[str]
) -> list[Difference]:
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
    one, two = (
        task_values(rows, task, target, level=level, pooled=result.run.pooled)
        for rows, result in zip(kept, (first, second), strict=True)
    )
    found = []
    for arm in sorted(one.items.keys() & two.items.keys()) if one.concepts == two.concepts else ():
        both = np.isfinite(one.items[arm]) & np.isfinite(two.items[arm])
        if both.any():
            mine, theirs = (nan_mean(np.where(both, side.items[arm], np.nan)) for side in (one, two))
            before, after = (mean_estimate(value, bounds=measure_of(task).bounds) for value in (mine, theirs))
            p = min(1.0, 2 * min(sign_flip_p(theirs - mine), sign_flip_p(mine - theirs)))
            found.append(
                Difference(target, arm.source, arm.name, task, level, before, after, mean_estimate(theirs - mine), p)
            )
    return found
