"""Measure what a fit has to know of two models, in one pass over the map corpus.

    map corpus, texts of the fit concepts, vocabularies -> [Pair] -> fits

One pass serves both directions of two models and every linear adapter; what only one adapter needs (texts of the fit concepts,
vocabularies) is read only where an adapter asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from steer_bench.concepts.concept import Concept
from steer_bench.models.activations import text_means
from steer_bench.models.load import Loaded
from steer_bench.transfer.moments import MomentAccumulator, paired
from steer_bench.transfer.pairs import Contrasts, ModelSide, Pair
from steer_bench.transfer.vocabulary import shared_unembedding
from steer_bench.vectors.store import VectorStore


def model_side(
    store: VectorStore,
    fit: Sequence[str] = (),
    genres: Mapping[str, str] | None = None,
    covariance: Tensor | None = None,
    few_shot: Mapping[int, Mapping[str, Tensor]] | None = None,
) -> ModelSide:
    """Return a model's vectors as fits and controls take them; `fit`: concepts that a fit may use."""
    vectors = {key: torch.from_numpy(vector).double() for key, vector in store.vectors.items()}
    return ModelSide(store.model, vectors, tuple(fit), store.d_model, covariance, genres or {}, few_shot or {})


def measure_pair(
    first: Loaded,
    second: Loaded,
    layers: tuple[int, int],
    sides: tuple[ModelSide, ModelSide],
    texts: Sequence[str],
    *,
    methods: Collection[str] = (),
    concepts: Sequence[Concept] = (),
    samples: int = 20_000,
    seed: int = 0,
) -> Pair:
    """Return the pair (first, second): activations of the texts token by token, every tenth document held out.

    methods: those that are to be fitted; `contrast` needs `concepts`, those of the fit split. samples: tokens kept for maps
    without a closed form.
    """
    moments = MomentAccumulator(), MomentAccumulator()
    kept: tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]] = ([], [])
    ends: list[tuple[Tensor, Tensor]] = []
    for index, x, y in paired(first, layers[0], second, layers[1], texts, desc=f"pair {first.name} and {second.name}"):
        held = int(index % 10 == 9)
        moments[held].add(x, y)
        if not held:
            ends.append((x[-1].cpu(), y[-1].cpu()))
        if sum(len(part) for part, _ in kept[held]) < samples:
            kept[held].append((x.cpu(), y.cpu()))
    train, held_out = (_joined(part, torch.cat) for part in kept)
    return Pair(
        *sides, moments[0].moments(), moments[1].moments(), train, held_out, seed, _joined(ends, torch.stack),
        _contrasts((first, second), layers, concepts) if "contrast" in methods and concepts else None,
        shared_unembedding(first, second) if "unembedding" in methods else None,
    )  # fmt: skip


def _joined(parts: list[tuple[Tensor, Tensor]], join: Callable[[list[Tensor]], Tensor]) -> tuple[Tensor, Tensor]:
    return join([x for x, _ in parts]), join([y for _, y in parts])


def _contrasts(models: tuple[Loaded, Loaded], layers: tuple[int, int], concepts: Sequence[Concept]) -> Contrasts:
    """Subtract from each positive text of a concept the mean of the concept's negatives, in both models."""
    texts = (text for concept in concepts for text in (*concept.positives, *concept.negatives))
    place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    found = []
    for loaded, layer in zip(models, layers, strict=True):
        means = text_means(loaded, layer, list(place), desc=f"contrasts {loaded.name}")
        rows = []
        for concept in concepts:
            negative = means[[place[text] for text in concept.negatives]].mean(dim=0)
            rows.append(means[[place[text] for text in concept.positives]] - negative)
        found.append(torch.cat(rows))
    numbers = [torch.full((len(concept.positives),), i) for i, concept in enumerate(concepts)]
    return Contrasts(found[0], found[1], torch.cat(numbers))
