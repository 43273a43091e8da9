"""Rows: the arms a target has without any source: its own vectors (the baseline) and controls a claim must beat."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from steer_bench.transfer.pairs import Side


def native(target: Side, concepts: Sequence[str], seed: int) -> dict[str, Tensor]:
    """The target's own DiffMean vectors: what every transfer is measured against."""
    return {concept: target.vectors[concept] for concept in concepts}


def mean(target: Side, concepts: Sequence[str], seed: int) -> dict[str, Tensor]:
    """The mean of the target's vectors over the fit concepts: what all concepts share, and no concept of its own."""
    if not target.fit:
        raise ValueError("the control 'mean' needs concepts in the fit split; there are none")
    shared = torch.stack([target.vectors[concept] for concept in target.fit]).mean(dim=0)
    return dict.fromkeys(concepts, shared)


def genre_mean(target: Side, concepts: Sequence[str], seed: int) -> dict[str, Tensor]:
    """The mean of the target's vectors over the fit concepts of the same genre: what makes code code, and no concept."""
    means = {}
    for concept in concepts:
        genre = target.genres.get(concept, "")
        kin = [target.vectors[other] for other in target.fit if target.genres.get(other, "") == genre]
        if not kin:
            raise ValueError(f"the control 'genre-mean' needs a concept of the genre {genre!r} in the fit split")
        means[concept] = torch.stack(kin).mean(dim=0)
    return means


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
    """The target's own vector of the next test concept of its genre (of any, where there is none): native's strength, off topic."""
    if len(concepts) < 2:
        raise ValueError("the control 'wrong-concept' needs at least 2 test concepts")
    wrong = {}
    for concept in concepts:
        genre = target.genres.get(concept, "")
        kin = [other for other in concepts if target.genres.get(other, "") == genre]
        kin = kin if len(kin) > 1 else list(concepts)
        wrong[concept] = target.vectors[kin[(kin.index(concept) + 1) % len(kin)]]
    return wrong


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
    "genre-mean": genre_mean,
    "random": random,
    "random-covariance": random_covariance,
    "wrong-concept": wrong_concept,
    "prompt": prompt,
}


def arms_of(
    name: str, method: str, options: Mapping[str, Any], target: Side, concepts: Sequence[str], seed: int
) -> dict[str, dict[str, Tensor]]:
    """The arms that one adapter without a source makes: {arm: {concept: vector}}.

    Several `seeds` make an arm each, random-1 and so on (statistics pool them); `few-shot` makes one of each n. Raises
    ValueError where the target lacks what the method needs.
    """
    if method == "few-shot":
        few = {n: vectors for n, vectors in target.few.items() if n in options.get("n", target.few)}
        if not few:
            raise ValueError(
                "few-shot: no vectors from so few texts; every concept has fewer texts than the smallest n"
            )
        return {f"{name}-{n}": {concept: vectors[concept] for concept in concepts} for n, vectors in few.items()}
    seeds = options.get("seeds", 1)
    if seeds == 1:
        return {name: ROWS[method](target, concepts, seed)}
    return {f"{name}-{i}": ROWS[method](target, concepts, seed + 7919 * i) for i in range(1, seeds + 1)}
