"""Means of a model's activations over groups of texts, and the DiffMean vectors they give.

texts by concept, side and half -> mean activations -> [vectors, and how reliable they are]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from steer_bench.experiment.data import Half, TextSide
from steer_bench.models.activations import Mean
from steer_bench.transfer.geometry import geometry
from steer_bench.vectors.methods import diff_of_means


class Group(NamedTuple):
    """The texts behind one mean: all texts of a concept's side, a half of them, or the first few of the target's own."""

    side: TextSide
    half: Half = ""
    few: int = 0

    def __str__(self) -> str:
        return f"{self.side.sign}{self.side.concept}"


Means = Mapping[Group, Mean]


def diff_means(means: Means, half: Half = "", few: int = 0) -> dict[str, Tensor]:
    """Return the DiffMean of each concept that has these texts: {concept: (d_model,) float64}."""
    sides = {group.side: mean.value for group, mean in means.items() if (group.half, group.few) == (half, few)}
    return {
        side.concept: diff_of_means(value, sides[TextSide(side.concept, "-")])
        for side, value in sides.items()
        if side.sign == "+"
    }


def reliability(means: Means, tested: Iterable[str], fit: Iterable[str]) -> dict[str, float] | None:
    """Compare the vectors of two disjoint halves of the texts, over the tested concepts; None where none has halves.

    What a transfer could at best reach: a cosine between models is read against sqrt(reliability * reliability).
    Centred on the mean over the `fit` concepts.
    """
    first, second = diff_means(means, "a"), diff_means(means, "b")
    tested = [key for key in tested if key in first and key in second]
    if not tested:
        return None
    about = [key for key in fit if key in second] or tested
    mean = torch.stack([torch.nn.functional.normalize(second[key], dim=0) for key in about]).mean(dim=0)
    found = geometry({key: first[key] for key in tested}, {key: second[key] for key in tested}, mean)
    return {**found._asdict(), "n": len(tested)}
