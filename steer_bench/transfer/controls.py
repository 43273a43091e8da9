"""Controls: the arms of a target that need no source: its own vectors (the baseline), and what a claim must beat."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from steer_bench.transfer.adapters import Adapter
from steer_bench.transfer.pairs import ModelSide
from steer_bench.vectors.arms import Arm
from steer_bench.vectors.store import ALIKE

Vectors = Mapping[str, Tensor]
"""Concept -> (d_model,) float64"""


def native(target: ModelSide, concepts: Sequence[str], seed: int) -> Vectors:
    """Return the target's own DiffMean vectors: what every transfer is measured against."""
    return {concept: target.vectors[concept] for concept in concepts}


def mean(target: ModelSide, concepts: Sequence[str], seed: int) -> Vectors:
    """Return the mean of the target's vectors over the fit concepts: what all concepts share, and nothing of any one."""
    if not target.fit:
        raise ValueError("the control 'mean' needs concepts in the fit split; there are none")
    shared = torch.stack([target.vectors[concept] for concept in target.fit]).mean(dim=0)
    return dict.fromkeys(concepts, shared)


def genre_mean(target: ModelSide, concepts: Sequence[str], seed: int) -> Vectors:
    """Return the mean of the target's vectors over the fit concepts of the same genre: what makes code code, and no concept."""
    means = {}
    for concept in concepts:
        genre = target.genres.get(concept, "")
        others = [target.vectors[other] for other in target.fit if target.genres.get(other, "") == genre]
        if not others:
            raise ValueError(f"the control 'genre-mean' needs a concept of the genre {genre!r} in the fit split")
        means[concept] = torch.stack(others).mean(dim=0)
    return means


def random(target: ModelSide, concepts: Sequence[str], seed: int) -> Vectors:
    """Draw a random direction for each concept, isotropic."""
    return {concept: _gaussian(target, concept, seed) for concept in concepts}


def random_covariance(target: ModelSide, concepts: Sequence[str], seed: int) -> Vectors:
    """Draw a random direction with the covariance of the target's neutral activations: the harder null of the two."""
    if target.covariance is None:
        raise ValueError("the control 'random-covariance' needs the covariance of neutral activations")
    values, vectors = torch.linalg.eigh(target.covariance)
    root = vectors * values.clamp_min(0).sqrt()
    return {concept: root @ _gaussian(target, concept, seed) for concept in concepts}


def wrong_concepts(
    vectors: Vectors, concepts: Sequence[str], n: int, genres: Mapping[str, str] = MappingProxyType({})
) -> dict[str, list[str]]:
    """Return n other concepts of each, whose vectors have native's strength and are off topic.

    The next concepts of the genre come first, then the next of any; never the concept itself, one whose vector is alike
    (cosine above `ALIKE`), or one twice. Raises ValueError where a concept has fewer than n others.
    """
    units = {concept: torch.nn.functional.normalize(vectors[concept], dim=0) for concept in concepts}
    found = {}
    for place, concept in enumerate(concepts):
        genre, taken = genres.get(concept, ""), [concept]
        following = [*concepts[place + 1 :], *concepts[:place]]
        for other in sorted(following, key=lambda key: genres.get(key, "") != genre):  # stable: the genre's first
            if len(taken) <= n and all(float(units[other] @ units[one]) <= ALIKE for one in taken):
                taken.append(other)
        if len(taken) <= n:
            raise ValueError(
                f"the control 'wrong-concept' needs {n} other test concepts whose vectors are not alike, and {concept!r} has "
                f"{len(taken) - 1}; give more test concepts, or {{wrong-concept: {{n: {max(1, len(taken) - 1)}}}}}"
            )
        found[concept] = taken[1:]
    return found


def prompt(target: ModelSide, concepts: Sequence[str], seed: int) -> Vectors:
    """Return no vector at all: the arm asks for the concept in the instruction."""
    return {}


def _gaussian(target: ModelSide, concept: str, seed: int) -> Tensor:
    """Draw (d_model,) standard normal numbers, different for each (seed, target, concept) and the same on every machine."""
    digest = hashlib.sha256(f"{seed}:{target.model}:{concept}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randn(target.d_model, generator=generator, dtype=torch.float64)


CONTROL_VECTORS: Mapping[str, Callable[[ModelSide, Sequence[str], int], Vectors]] = {
    "native": native,
    "mean": mean,
    "genre-mean": genre_mean,
    "random": random,
    "random-covariance": random_covariance,
    "prompt": prompt,
}


def control_arms(adapter: Adapter, target: ModelSide, concepts: Sequence[str], seed: int) -> dict[Arm, Vectors]:
    """Make the arms of one adapter without a source: {arm: {concept: vector}}.

    Several seeds make an arm each, random-1 and so on, and so does each wrong concept (statistics pool them); `few-shot` makes
    one for each n. Raises ValueError where the target lacks what the method needs.
    """
    arms = adapter.arms([], target.few_shot)
    if adapter.method == "few-shot":
        if not arms:
            raise ValueError(
                "few-shot: no vectors from so few texts; every concept has fewer texts than the smallest n"
            )
        return {arm: {concept: target.few_shot[int(arm.variant)][concept] for concept in concepts} for arm in arms}
    if adapter.method == "wrong-concept":
        others = wrong_concepts(target.vectors, concepts, len(arms), target.genres)
        return {arm: {key: target.vectors[others[key][i]] for key in concepts} for i, arm in enumerate(arms)}
    make = CONTROL_VECTORS[adapter.method]
    return {arm: make(target, concepts, seed + 7919 * int(arm.variant or 0)) for arm in arms}
