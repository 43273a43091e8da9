"""Power: before a run, what its number of concepts can find on each task.

experiment, standard deviations of earlier runs -> [Power] -> `steer-bench plan`
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from steer_bench.experiment.run import Run
from steer_bench.results.board.entries import entries
from steer_bench.results.file import load_results
from steer_bench.results.measures import MEASURES
from steer_bench.results.stats.power import detectable
from steer_bench.results.stats.tests import fewest_concepts

SPREAD: Mapping[str, float] = {"concept_likelihood": 0.11, "concept_steering": 0.19, "rule_following": 0.06}
"""Task -> standard deviation over concepts of an arm's effect, in the quickstart's committed results: 12 concepts, but only 4 rules."""

LEAST = fewest_concepts(1)
"""Concepts from which a verdict is possible where all other claims are shown: Holm's last step."""


class Power(NamedTuple):
    """What a task can find."""

    task: str
    n: int
    """Concepts that it is measured on."""
    sd: float | None
    """Standard deviation over concepts of an arm's effect; None where none is known."""
    smallest: float | None
    """Smallest effect that is found 80 % of the time as the hardest of the claims; None where n is too small for any verdict."""
    fewest: int
    """Concepts from which a verdict is possible whatever becomes of the other claims."""

    def __str__(self) -> str:
        """Return it as one line."""
        said = f"{self.task}: {self.n} concepts; a verdict is possible from {LEAST}"
        if self.n < LEAST:
            return f"{said}: too few concepts, whatever is measured"
        if self.n < self.fewest:
            return f"{said}, below {self.fewest} only where other claims are shown first"
        if self.smallest is None or self.sd is None:
            return f"{said}; how small an effect is found is not known (give --power RUN, a finished run like it)"
        return f"{said}; an effect of {self.smallest:.2g} is found 80 % of the time (sd over concepts {self.sd:.2g})"


def power(run: Run, measured: Path | None = None, concepts: int | None = None) -> list[Power]:
    """Return what each task with verdicts can find.

    measured: results file of a run like this one, whose spread is taken; else that of the offline models. concepts: as if there
    were so many test concepts. Raises ValueError as `load_results` does.
    """
    spread, data, experiment = dict(SPREAD) if measured is None else spread_of(measured), run.data, run.experiment
    tasks = [task for task in experiment.tasks if MEASURES[task].heading]
    arms = {adapter.name for adapter in data.adapters if adapter.kind == "transfer"} | {
        one.name for one in experiment.vectors
    }
    claims = len(arms.intersection(experiment.claims or arms)) * len(experiment.directed) * len(tasks)
    found = []
    for task in tasks:
        of_kind = [key for key in data.measured if data.concepts[key].kind == MEASURES[task].subject]
        limits, is_topic = experiment.tasks[task], MEASURES[task].subject == "topic"
        n = concepts if concepts and is_topic else len(of_kind)
        n = min(n, (limits.max_concepts if is_topic else limits.max_rules) or n)
        sd = spread.get(task)
        smallest = None if sd is None else detectable(n, sd, max(1, claims))
        found.append(Power(task, n, sd, smallest, fewest_concepts(max(1, claims))))
    return found


def spread_of(file: Path) -> dict[str, float]:
    """Return task -> standard deviation over concepts of the effects of transfer arms in a results file, the median over arms."""
    spread: dict[str, list[float]] = {}
    for entry in entries(load_results(file)):
        for task, cell in entry.cells.items():
            if entry.kind == "transfer" and len(cell.effects) > 1:
                spread.setdefault(task, []).append(float(np.std(list(cell.effects.values()), ddof=1)))
    return {task: median(found) for task, found in spread.items()}
