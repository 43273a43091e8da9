"""What the adapters make of one pair of models, and its file, RUN/maps/FIRST--SECOND.safetensors.

    Pair -> fit -> [PairVectors] -> arms of a target

A pair is fitted once, by whichever process, and the arms of every target are made from these files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from steer_bench.concepts.concept import Concept
from steer_bench.files import Checked
from steer_bench.models.activations import mean_activations
from steer_bench.models.load import Loaded
from steer_bench.transfer.fits import transfer
from steer_bench.transfer.maps import DirectionMap, TransferMap
from steer_bench.transfer.pairs import Fit
from steer_bench.vectors.arms import Arm
from steer_bench.vectors.methods import diff_of_means
from steer_bench.vectors.store import FileCard
from steer_bench.vectors.tensor_file import load_card, load_tensors, save_tensors

Vectors = Mapping[str, Tensor]
"""Concept -> (d_model,) float64"""


@dataclass(frozen=True)
class ArmVectors:
    """What one adapter made of one (source, target) pair."""

    vectors: Vectors
    """In the target's space; empty where the adapter was refused for this pair."""
    report: Mapping[str, float] = field(default_factory=dict)
    """What its fit found out."""
    refused: str = ""
    """Why there are no vectors."""


PairVectors = dict[tuple[Arm, str], ArmVectors]
"""(arm, target) -> what was made"""


def push(
    source: Loaded, layer: int, fitted: TransferMap, concepts: Sequence[Concept], *, desc: str = "push"
) -> Vectors:
    """Push the concepts' texts through a map f: mean f(h+) - mean f(h-) of each, (d_target,) float64."""
    groups = {(one.id, sign): texts for one in concepts for sign, texts in (("+", one.positives), ("-", one.negatives))}
    means = mean_activations(source, layer, groups, maps={"f": fitted}, desc=desc)["f"]
    return {one.id: diff_of_means(means[one.id, "+"].value, means[one.id, "-"].value) for one in concepts}


def transfer_vectors(
    fitted: Fit, vectors: Vectors, source: Loaded, layer: int, concepts: Sequence[Concept], *, desc: str = "push"
) -> ArmVectors:
    """Take the source's vectors of the concepts through a fitted map, by pushing their texts where it is not linear."""
    pushed = None if isinstance(fitted.map, DirectionMap) else push(source, layer, fitted.map, concepts, desc=desc)
    wanted = {one.id: vectors[one.id] for one in concepts}
    return ArmVectors(transfer(fitted.map, wanted, pushed), fitted.report)


def united(folds: Sequence[PairVectors]) -> PairVectors:
    """Unite what the maps of each fold made of the concepts that it tests; what their fits found out is the mean over folds.

    An arm that one fold refuses is refused.
    """
    if len(folds) == 1:
        return folds[0]
    made: PairVectors = {}
    for key in dict.fromkeys(key for fold in folds for key in fold):
        own = {number: fold[key] for number, fold in enumerate(folds, 1) if key in fold}
        refused = next((f"fold {number}: {one.refused}" for number, one in own.items() if one.refused), "")
        reports = [one.report for one in own.values()]
        report = {name: fmean(one[name] for one in reports) for name in set.intersection(*map(set, reports))}
        made[key] = ArmVectors({k: v for one in own.values() for k, v in one.vectors.items()}, report, refused)
    return made


class MapCard(FileCard):
    """What the file of one map says: RUN/maps/SOURCE--TARGET/ADAPTER.safetensors."""

    kind: str = "map"
    adapter: str
    source: str
    target: str
    report: dict[str, int | float]


class _Entry(Checked):
    """One arm in the file of a pair."""

    adapter: str
    variant: str
    source: str
    target: str
    concepts: tuple[str, ...]
    report: dict[str, int | float]
    refused: str


class PairCard(FileCard):
    """What the file of a pair says: its vectors are named by the number of their arm."""

    kind: str = "pair"
    arms: tuple[_Entry, ...]


def save_map(path: Path, fitted: Fit, adapter: str, source: str, target: str) -> None:
    """Write a fitted map with its report."""
    card = MapCard(kind="map", adapter=adapter, source=source, target=target, report=dict(fitted.report))
    save_tensors(path, fitted.map.tensors(), card.to_json())


def is_fitted(path: Path, inputs: str) -> bool:
    """Whether a pair's file is there, for the same inputs."""
    return path.is_file() and load_card(path).get("inputs") == inputs


def save_pair(path: Path, inputs: str, made: PairVectors, covariances: Mapping[str, Tensor]) -> None:
    """Write what was made of a pair, and the covariance of each model's activations."""
    entries = [
        _Entry(
            adapter=arm.adapter, variant=arm.variant, source=arm.source, target=target, concepts=tuple(sorted(one.vectors)),
            report=dict(one.report), refused=one.refused,
        )
        for (arm, target), one in made.items()
    ]  # fmt: skip
    tensors = {
        f"{i}|{concept}": vector.float().cpu().numpy()
        for i, one in enumerate(made.values())
        for concept, vector in one.vectors.items()
    }
    tensors |= {f"covariance|{name}": covariance.float().cpu().numpy() for name, covariance in covariances.items()}
    save_tensors(path, tensors, PairCard(kind="pair", inputs=inputs, arms=tuple(entries)).to_json())


def load_pair(path: Path) -> tuple[PairVectors, dict[str, Tensor]]:
    """Read what was made of a pair, and the covariances, in float64. Raises ValueError as `load_tensors`."""
    arrays, content, _ = load_tensors(path)
    tensors = {key: torch.from_numpy(array).double() for key, array in arrays.items()}
    made = {
        (Arm(entry.adapter, entry.variant, entry.source), entry.target): ArmVectors(
            {concept: tensors[f"{i}|{concept}"] for concept in entry.concepts}, entry.report, entry.refused
        )
        for i, entry in enumerate(PairCard.of(content, path).arms)
    }
    covariances = {key.split("|", 1)[1]: value for key, value in tensors.items() if key.startswith("covariance|")}
    return made, covariances
