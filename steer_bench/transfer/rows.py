"""Rows: the arms a target has without any source: its own vectors (the baseline) and controls a claim must beat."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from steer_bench.transfer.fits import Side


def native(target: Side, concepts: Sequence[str], seed: int) -> dict[str, Tensor]:
    """The target's own DiffMean vectors: what every transfer is measured against."""
    return {concept: target.vectors[concept] for concept in concepts}


def mean(target: Side, concepts: Sequence[str], seed: int) -> dict[str, Tensor]:
    """The mean of the target's vectors over the fit concepts: what all concepts share, and no concept of its own."""
    if not target.fit:
        raise ValueError("the control 'mean' needs concepts in the fit split; there are none")
    shared = torch.stack([target.vectors[concept] for concept in target.fit]).mean(dim=0)
    return dict.fromkeys(concepts, shared)


def random(target: Side, concepts: Sequence[str], seed: int) -> dict[str, Tensor]:
    """A random direction for each concept, isotropic."""
    return {concept: _gaussian(target, concept, seed) for concept in concepts}


def random_covariance(target: Side, concepts: Sequence[str], seed: int) -> dict[str, Tensor]:
    """A random direction with the covariance of the target's neutral activations: the harder null of the two."""
    if target.covariance is None:
        raise ValueError("the control 'random-covariance' needs the covariance of neutral activations")
    values, vectors = torch.linalg.eigh(target.covariance)
    root = vectors * values.clamp_min(0).sqrt()
    return {concept: root @ _gaussian(target, concept, seed) for concept in concepts}


def wrong_concept(target: Side, concepts: Sequence[str], seed: int) -> dict[str, Tensor]:
    """The target's own vector of the next concept: as strong as native, about something else."""
    if len(concepts) < 2:
        raise ValueError("the control 'wrong-concept' needs at least 2 test concepts")
    return {concept: target.vectors[concepts[(i + 1) % len(concepts)]] for i, concept in enumerate(concepts)}


def prompt(target: Side, concepts: Sequence[str], seed: int) -> dict[str, Tensor]:
    """No vector at all: the arm asks for the concept in the instruction."""
    return {}


def _gaussian(target: Side, concept: str, seed: int) -> Tensor:
    """(d_model,) standard normal, its own for each (seed, target, concept) and the same on every machine."""
    digest = hashlib.sha256(f"{seed}:{target.model}:{concept}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randn(target.d_model, generator=generator, dtype=torch.float64)


ROWS: Mapping[str, Callable[[Side, Sequence[str], int], dict[str, Tensor]]] = {
    "native": native,
    "mean": mean,
    "random": random,
    "random-covariance": random_covariance,
    "wrong-concept": wrong_concept,
    "prompt": prompt,
}
