"""Specificity: what the vector of each concept does to the texts of every concept.

rows of the task `specificity` -> [matrix of vector by scored concept]
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steer_bench.results.measures import SPECIFICITY
from steer_bench.results.rows import Array, Row, Rows
from steer_bench.results.stats.estimate import Estimate, mean_estimate
from steer_bench.results.stats.grid import ArmKey, Pooled, nan_mean
from steer_bench.vectors.arms import UNSTEERED


@dataclass(frozen=True)
class Specificity:
    """What each concept's vector does to the texts of every concept, at one factor."""

    concepts: tuple[str, ...]
    matrix: Array
    """(n_concepts, n_concepts): change of log-likelihood a token; row: the vector's concept, column: the texts' concept."""

    @property
    def own(self) -> Array:
        """(n_concepts,): each vector on the texts of its own concept."""
        return self.matrix.diagonal()

    @property
    def others(self) -> Array:
        """(n_concepts,): each vector on the texts of the other concepts, mean."""
        off = np.where(np.eye(len(self.concepts), dtype=bool), np.nan, self.matrix)
        return nan_mean(off)

    @property
    def difference(self) -> Estimate:
        """Own minus others, mean over vectors: 0 for a vector that only fits text in general."""
        return mean_estimate(self.own - self.others)

    @property
    def top1(self) -> float | None:
        """Share of vectors that raise the texts of their own concept most; None where no row is whole."""
        whole = np.isfinite(self.matrix).all(axis=1)
        if not whole.any():
            return None
        return float((self.matrix[whole].argmax(axis=1) == np.flatnonzero(whole)).mean())


def specificity(rows: Iterable[Row], target: str, pooled: Pooled | None = None) -> dict[ArmKey, Specificity]:
    """Return the matrix of every arm from the rows of the task `specificity`, whose role names the concept of the text."""
    steered: dict[ArmKey, dict[tuple[str, str], list[float]]] = {}
    mine = Rows.of(rows).where(task=SPECIFICITY, target=target)
    kept = [(row, row.value) for row in mine if row.value is not None]
    plain = {row.item: value for row, value in kept if row.arm == UNSTEERED}
    for row, value in kept:
        if row.arm != UNSTEERED and row.item in plain:
            scored = row.item.rpartition("-")[0]  # `sea-3` is a text of `sea`
            cells = steered.setdefault(ArmKey(row.source, (pooled or {}).get(row.arm, row.arm)), {})
            cells.setdefault((row.concept, scored), []).append(value - plain[row.item])
    concepts = tuple(sorted({concept for cells in steered.values() for pair in cells for concept in pair}))
    return {arm: Specificity(concepts, _matrix(cells, concepts)) for arm, cells in steered.items()}


def _matrix(cells: Mapping[tuple[str, str], Sequence[float]], concepts: Sequence[str]) -> Array:
    return np.array(
        [
            [math.fsum(v) / len(v) if (v := cells.get((row, column))) else math.nan for column in concepts]
            for row in concepts
        ]
    ).reshape(len(concepts), len(concepts))
