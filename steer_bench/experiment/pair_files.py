"""What the adapters made of one pair of models, on disk: RUN/maps/FIRST--SECOND.safetensors.

A pair is fitted once, by whichever process, and the arms of every target are made from these files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Transferred:
    """What one adapter made of one (source, target) pair."""

    vectors: Mapping[str, Tensor]
    """Concept -> (d_target,); empty when the adapter was refused for this pair."""
    report: Mapping[str, Any]


Made = dict[tuple[str, str, str], Transferred]
"""(adapter, source, target) -> what it made."""


def is_fitted(path: Path, inputs: str) -> bool:
    """Return whether the pair's file is there, for the same inputs."""
    from steer_bench.vectors.store import load_card

    return path.is_file() and load_card(path).get("inputs") == inputs


def save_pair(path: Path, inputs: str, made: Made, covariances: Mapping[str, Tensor]) -> None:
    """Write what was made of a pair, and the covariance of each model's activations."""
    from steer_bench.vectors.store import save_tensors

    entries = [[*key, dict(one.report), sorted(one.vectors)] for key, one in made.items()]
    tensors = {
        f"{i}|{concept}": vector.float().cpu().numpy()
        for i, one in enumerate(made.values())
        for concept, vector in one.vectors.items()
    }
    tensors |= {f"covariance|{name}": covariance.float().cpu().numpy() for name, covariance in covariances.items()}
    save_tensors(path, tensors, {"kind": "pair", "inputs": inputs, "entries": entries})


def load_pair(path: Path) -> tuple[Made, dict[str, Tensor]]:
    """What was made of a pair, and the covariances, in float64."""
    import torch

    from steer_bench.vectors.store import load_tensors

    arrays, card = load_tensors(path)
    tensors = {key: torch.from_numpy(array).double() for key, array in arrays.items()}
    made = {
        (adapter, source, target): Transferred({concept: tensors[f"{i}|{concept}"] for concept in concepts}, report)
        for i, (adapter, source, target, report, concepts) in enumerate(card["entries"])
    }
    covariances = {key.split("|", 1)[1]: value for key, value in tensors.items() if key.startswith("covariance|")}
    return made, covariances
