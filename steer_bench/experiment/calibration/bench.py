"""The bench: the model under calibration with its texts, its own vectors, and what is measured on it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steer_bench.concepts.concept import Concept
from steer_bench.concepts.load import load_concepts, load_texts
from steer_bench.concepts.splits import halves, held_out
from steer_bench.models.activations import centred_norm, mean_activations
from steer_bench.models.blocks import d_model
from steer_bench.models.load import Loaded
from steer_bench.models.tokens import tokenize
from steer_bench.results.stats.grid import ArmKey
from steer_bench.transfer.maps import TransferMap
from steer_bench.transfer.pairs import ModelSide
from steer_bench.vectors.methods import diff_of_means

Vectors = Mapping[str, Tensor]
"""Concept -> (d_model,) float64."""
NATIVE, RANDOM, WRONG = ArmKey("", "native"), ArmKey("", "random"), ArmKey("", "wrong-concept")
SAME, ROTATED, PERMUTED, SHUFFLED_PAIRS = "same model", "rotated twin", "permuted twin", "shuffled pairs"
DEAD, NULL = "dead-", "null-"
"""What the ids of dead concepts and the names of null arms begin with."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured: about a minute on two cores for a model of 135M parameters."""

    concepts: int = 10
    """Concepts that are steered; the others serve the map."""
    positives: int = 16
    """Texts of a concept behind its vector (half of them for the concepts that serve the map)."""
    negatives: int = 48
    scored: int = 4
    """Held-out texts of a concept, and as many neutral texts, whose likelihood is measured."""
    words: int = 16
    """Scored texts are cut to as many words."""
    factors: tuple[float, ...] = (0.4,)
    pairs: int = 7
    """Paired tokens of a map, as a multiple of d_model."""
    map_texts: int = 50
    """Fewest texts of a map, whatever the width: every tenth is held out."""
    nulls: int = 20
    """Random arms of the false-positive check, measured on `null_texts` texts at the largest factor."""
    null_texts: int = 2


@dataclass(frozen=True)
class Bench:
    """The model under calibration with its texts and its own vectors."""

    loaded: Loaded
    layer: int
    sizes: Sizes
    seed: int
    dtype: torch.dtype
    """In which steering is measured; everything else is float32."""
    data: Path
    """Folder with concepts.jsonl, neutral.jsonl and, if it is there, neutral_map.jsonl."""

    @cached_property
    def steered(self) -> Loaded:
        """The model in the precision that steering is measured in."""
        if self.loaded.model.dtype == self.dtype:
            return self.loaded
        return replace(self.loaded, model=copy.deepcopy(self.loaded.model).to(self.dtype))

    @cached_property
    def all_concepts(self) -> list[Concept]:
        """The first ones are steered."""
        return load_concepts(self.data / "concepts.jsonl")

    @cached_property
    def test(self) -> tuple[str, ...]:
        """Concepts that are steered."""
        return tuple(concept.id for concept in self.all_concepts[: self.sizes.concepts])

    @cached_property
    def fit(self) -> tuple[str, ...]:
        """Concepts that only serve the map."""
        return tuple(concept.id for concept in self.all_concepts[self.sizes.concepts :])

    @cached_property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Texts by side: +concept and -concept; for a dead concept both are halves of the same positives."""
        sizes, groups = self.sizes, {}
        for concept in self.all_concepts:
            texts, _ = held_out(concept, sizes.scored, self.seed)
            tested = concept.id in self.test
            positives = texts.positives[: sizes.positives if tested else sizes.positives // 2]
            groups[f"+{concept.id}"] = positives
            groups[f"-{concept.id}"] = texts.negatives[: sizes.negatives]
            if tested:
                one, other = halves(replace(texts, positives=positives), self.seed)
                groups[f"+{dead(concept.id)}"], groups[f"-{dead(concept.id)}"] = one.positives, other.positives
        return groups

    @cached_property
    def scored(self) -> dict[str, list[str]]:
        """Held-out texts of the steered concepts, of which the dead ones have the same; "" holds the neutral texts."""
        neutral = load_texts(self.data / "neutral.jsonl")
        texts = {"": self._cut(neutral)}
        for concept in self.all_concepts[: self.sizes.concepts]:
            texts[concept.id] = self._cut(held_out(concept, self.sizes.scored, self.seed)[1].positives)
        return {**texts, **{dead(key): texts[key] for key in self.test}}

    def _cut(self, texts: Sequence[str]) -> list[str]:
        return [" ".join(text.split()[: self.sizes.words]) for text in texts[: self.sizes.scored]]

    @cached_property
    def map_texts(self) -> list[str]:
        """The map corpus or, without it, texts of the concepts that are not steered: as many as a map needs."""
        corpus = self.data / "neutral_map.jsonl"
        by_concept = [concept.positives for concept in self.all_concepts[self.sizes.concepts :]]
        in_turn = (text for texts in zip_longest(*by_concept) for text in texts if text is not None)
        texts, wanted, kept = load_texts(corpus) if corpus.is_file() else in_turn, self.sizes.pairs * self.width, []
        for text in texts:
            wanted -= len(tokenize(self.loaded, [text])[0].ids) - 1
            kept.append(text)
            if wanted <= 0 and len(kept) >= self.sizes.map_texts:
                break
        return kept

    @cached_property
    def scale(self) -> float:
        """S, the unit of factors."""
        return centred_norm(self.loaded, self.layer, self.map_texts[:40])

    @cached_property
    def vectors(self) -> Vectors:
        """The model's own vectors of all concepts, dead ones too."""
        return self.extract(self.loaded)[0]

    @property
    def width(self) -> int:
        """d_model"""
        return d_model(self.loaded.model)

    def extract(self, loaded: Loaded, pushed_through: TransferMap | None = None) -> tuple[Vectors, Vectors]:
        """DiffMean vectors of all concepts: of the activations, and of what the map makes of them (none without a map)."""
        maps: dict[str, Any] = {"": lambda states: states}
        if pushed_through is not None:
            maps["pushed"] = pushed_through
        means = mean_activations(loaded, self.layer, self.groups, maps=maps, desc=f"activations of {loaded.name}")
        concepts = [group[1:] for group in self.groups if group.startswith("+")]
        plain, pushed = (
            {
                key: diff_of_means(means[name][f"+{key}"].value, means[name][f"-{key}"].value)
                for key in concepts
                if name in means
            }
            for name in ("", "pushed")
        )
        return plain, pushed

    def side(self, name: str, vectors: Vectors) -> ModelSide:
        """A model of a pair."""
        return ModelSide(name, vectors, self.fit, self.width)


def dead(concept: str) -> str:
    """The id of a concept's dead twin."""
    return DEAD + concept


def cosine(one: Tensor, other: Tensor) -> float:
    """Of two vectors."""
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))
