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
    unreached = {(dose.source, dose.arm, dose.concept, dose.level) for dose in run.unreached}
    for task in results.rows.texts["task"].present():
        for target in results.rows.texts["target"].present() if task not in run.capability else ():
            n = _missing_of(results, task, target, unreached)
            if n:
                told.append(f"{task} on {target}: {n} values of concepts x arms x items are missing")
    return told


def _missing_of(results: Results, task: str, target: str, unreached: set[Cell]) -> int:
    """Return how many items are not there, over arms, concepts and levels of one task on one target."""
    rows = results.rows.where(task=task, target=target)
    items: dict[str, set[str]] = defaultdict(set)
    counted: dict[Cell, int] = defaultdict(int)
    names = {name: rows.texts[name].names for name in ("source", "arm", "concept", "role", "item")}
    columns = [*(rows.texts[name].codes for name in names), rows.numbers["level"]]
    plain: set[tuple[str, str]] = set()
    for line in np.unique(np.stack(columns, axis=1).astype(float), axis=0).tolist() if len(rows) else ():
        source, arm, concept, role, item = (names[name][int(code)] for name, code in zip(names, line[:-1], strict=True))
        key = f"{role}|{item}"
        if concept:
            items[concept].add(key)
        if arm == UNSTEERED:
            plain.add((concept, key))
        else:
            counted[source, arm, concept, line[-1]] += 1
    levels: dict[tuple[str, str], set[float]] = defaultdict(set)
    for source, arm, _, level in counted:
        levels[source, arm].add(level)
    every = set().union(*levels.values()) - {0.0}
    missing = (
        sum((c, i) not in plain and ("", i) not in plain for c, found in items.items() for i in found) if plain else 0
    )
    for (source, arm), own in levels.items():
        for level in every if own - {0.0} else own:
            for concept, found in items.items():
                if (source, arm, concept, level) not in unreached:
                    missing += len(found) - counted.get((source, arm, concept, level), 0)
    return missing
