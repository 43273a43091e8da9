"""Unapplied vectors: arms that did nothing at all.

rows of scored texts -> [arms without effect] -> the report refuses them
"""

from collections.abc import Iterable

from steer_bench.results.measures import MEASURES
from steer_bench.results.rows import Row
from steer_bench.vectors.arms import UNSTEERED


def arms_without_effect(rows: Iterable[Row]) -> list[tuple[str, str, str]]:
    """Return (task, target, arm) where every steered value equals the unsteered one: the vector was not applied.

    A steered model that is bit for bit the unsteered one is a fault of the evaluation, never a finding.
    """
    plain: dict[tuple[str, str, str, str], float | None] = {}
    rows = list(rows)
    for row in rows:
        if row.arm == UNSTEERED:
            plain[row.task, row.target, row.concept, row.item] = row.value
    moved: dict[tuple[str, str, str], bool] = {}
    for row in rows:
        where = row.task, row.target
        keys = [(*where, row.concept, row.item), (*where, "", row.item)]
        base = next((plain[key] for key in keys if key in plain), None)
        if row.task not in MEASURES or MEASURES[row.task].replies:  # a rating may well stay the same
            continue
        if row.arm == UNSTEERED or row.factor == 0 or row.value is None or base is None:
            continue
        arm = (*where, row.arm)
        moved[arm] = moved.get(arm, False) or row.value != base
    return sorted(arm for arm, has_moved in moved.items() if not has_moved)
