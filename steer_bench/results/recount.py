"""Recount: whether all rows of a run are there, whatever the run says of itself.

results -> [what is missing, in words]
"""

from collections import defaultdict

import numpy as np

from steer_bench.results.file import Results
from steer_bench.vectors.arms import UNSTEERED

Cell = tuple[str, str, str, float]
"""Source, arm, concept and level."""


def missing_rows(results: Results) -> list[str]:
    """Return what is not there, a sentence each: rows of the count, and of concepts x arms x items. Empty for a whole run.

    The items of a concept are those that any arm has there; a level that an arm could not reach is missing with a reason, and
    is not counted.
    """
    run, told = results.run, []
    if run.expected_rows and len(results.rows) != run.expected_rows:
        told.append(f"{len(results.rows)} of {run.expected_rows} rows")
    elif not run.complete:
        told.append(f"{len(results.rows)} rows of a run that did not finish")
    for task in results.rows.texts["task"].present():
        for target in results.rows.texts["target"].present() if task not in run.capability else ():
            n = _missing_of(results, task, target)
            if n:
                told.append(f"{task} on {target}: {n} values of concepts x arms x items are missing")
    return told


def _missing_of(results: Results, task: str, target: str) -> int:
    """Return how many items are not there, over arms, concepts and levels of one task on one target."""
    run, rows = results.run, results.rows.where(task=task, target=target)
    unreached = {(one.source, one.arm, one.concept, one.level) for one in run.unreached if one.target == target}
    refused = {(one.source, one.arm) for one in run.refused if one.target == target}  # for some kind of concepts
    items: dict[str, set[str]] = defaultdict(set)
    counted: dict[Cell, int] = defaultdict(int)
    names = ("source", "arm", "concept", "role", "item")
    place = np.unique(rows.numbers["level"], return_inverse=True)[1]
    for name in names:
        place = place * len(rows.texts[name].names) + rows.texts[name].codes
    once = rows.take(np.unique(place, return_index=True)[1])
    plain: set[tuple[str, str]] = set()
    columns = (*(once.texts[name].tolist() for name in names), once.numbers["level"].tolist())
    for source, arm, concept, role, item, level in zip(*columns, strict=True):
        key = f"{role}|{item}"
        if concept:
            items[concept].add(key)
        if arm == UNSTEERED:
            plain.add((concept, key))
        else:
            counted[source, arm, concept, level] += 1
    levels: dict[tuple[str, str], set[float]] = defaultdict(set)
    for source, arm, _, level in counted:
        levels[source, arm].add(level)
    every = set().union(*levels.values()) - {0.0}
    pairs = [(concept, item) for concept, found in items.items() for item in found] if plain else []
    missing = sum((concept, item) not in plain and ("", item) not in plain for concept, item in pairs)
    for (source, arm), own in levels.items():
        if (source, run.pooled.get(arm, arm)) in refused:
            continue
        for level in every if own - {0.0} else own:
            for concept, found in items.items():
                if (source, arm, concept, level) not in unreached:
                    missing += len(found) - counted.get((source, arm, concept, level), 0)
    return missing
