"""Selection: on a grid, the factor that did best on the selection prompts, at which the other prompts are then measured.

samples of the selection prompts + ratings by the experiment's judge -> [choose] -> (arm, source, concept, factor)
"""

from __future__ import annotations

from collections.abc import Iterable

from steer_bench.experiment.ratings import ratings_of, with_ratings
from steer_bench.experiment.run import Run
from steer_bench.judge.config import judge_id
from steer_bench.results.lmeval_samples import load_rows
from steer_bench.results.measures import JUDGED
from steer_bench.results.provenance import ArmInfo
from steer_bench.results.rows import Rows
from steer_bench.results.stats.grid import ArmKey
from steer_bench.results.stats.values import choices
from steer_bench.vectors.arms import ArmEntry, ArmsCard

Choice = list[str | float | None]
"""[arm, source, concept, factor]; None: no factor has half of its selection replies scored."""


def choose(run: Run, target: str) -> dict[str, list[Choice]]:
    """Return task on a grid -> the choices for a target; {} while replies that the experiment's judge is to rate are unrated.

    Arms that differ in a seed alone share their factor, as they share their line in the statistics.
    """
    grids = run.experiment.grids
    mine = ratings_of(run, target).get(judge_id(run.experiment.judge)) if JUDGED in grids else None
    if JUDGED in grids and mine is None:
        return {}
    rows = Rows.of(with_ratings(load_rows(run.folder.evaluation(target)), {} if mine is None else {target: mine}))
    entries = ArmsCard.read(run.folder.arms(target)).arms
    pooled = {info.arm: info.pooled for info in arm_infos(entries)}
    found: dict[str, list[Choice]] = {}
    for task in grids:
        best = choices(rows, task, target, pooled)
        keys = [
            (entry, concept, (ArmKey(entry.source, pooled[entry.arm.name]), concept))
            for entry in entries
            for concept in entry.concepts
        ]
        found[task] = [
            [entry.arm.name, entry.source, concept, best[key]] for entry, concept, key in keys if key in best
        ]
    return found


def arm_infos(entries: Iterable[ArmEntry]) -> tuple[ArmInfo, ...]:
    """Return what each arm is; of several targets and sources once."""
    return tuple(
        {
            one.arm.name: ArmInfo(
                arm=one.arm.name, adapter=one.adapter, variant=one.variant, kind=one.kind, method=one.method
            )
            for one in entries
        }.values()
    )
