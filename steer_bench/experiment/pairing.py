"""Pairing: what a fit knows of two models of a run, measured in one pass over the map corpus.

    map corpus, texts of the fit concepts, vocabularies -> [Pair] -> fits

One pass serves both directions of two models and every linear adapter; what only one adapter needs (texts of the fit concepts,
vocabularies) is read only where an adapter asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from steer_bench.experiment.data import TextSide
from steer_bench.experiment.run import Run
from steer_bench.models.activations import text_means
from steer_bench.transfer.moments import MomentAccumulator, paired
from steer_bench.transfer.pairs import Contrasts, Pair, Side
from steer_bench.transfer.vocabulary import shared_unembedding

if TYPE_CHECKING:
    from torch import Tensor

    from steer_bench.models.load import Loaded
    from steer_bench.vectors.store import VectorStore


def side(
    run: Run,
    store: VectorStore,
    covariance: Tensor | None = None,
    few: Mapping[int, Mapping[str, Tensor]] | None = None,
) -> Side:
    """A model as fits and controls see it."""
    vectors = {key: torch.from_numpy(vector).double() for key, vector in store.vectors.items()}
    genres = {key: concept.genre for key, concept in run.data.concepts.items()}
    return Side(store.model, vectors, run.data.splits.fit, store.d_model, covariance, genres, few or {})


def pair_of(run: Run, first: Loaded, second: Loaded, stores: Stores) -> Pair:
    """The pair (first, second): activations of the map corpus token by token, every tenth document held out."""
    layers = stores.native[first.name].layer, stores.native[second.name].layer
    moments = MomentAccumulator(), MomentAccumulator()
    samples: tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]] = ([], [])
    ends: list[tuple[Tensor, Tensor]] = []
    desc = f"pair {first.name} and {second.name}"
    for index, x, y in paired(first, layers[0], second, layers[1], run.data.map_texts, desc=desc):
        held = int(index % 10 == 9)
        moments[held].add(x, y)
        if not held:
            ends.append((x[-1].cpu(), y[-1].cpu()))
        if sum(len(part) for part, _ in samples[held]) < run.experiment.map_pairs:
            samples[held].append((x.cpu(), y.cpu()))
    train, held_out = (_joined(part, torch.cat) for part in samples)
    methods = {adapter.method for adapter in run.data.adapters}
    return Pair(
        side(run, stores.source[first.name]), side(run, stores.native[second.name]), moments[0].moments(), moments[1].moments(),
        train, held_out, run.experiment.seed, _joined(ends, torch.stack),
        _contrasts(run, (first, second), layers) if "contrast" in methods else None,
        shared_unembedding(first, second) if "unembedding" in methods else None,
    )  # fmt: skip


def turned(run: Run, pair: Pair, stores: Stores) -> Pair:
    """The pair (second, first): the same activations, with the source's vectors of the second and the first's own."""
    source, target = stores.source[pair.target.model], stores.native[pair.source.model]
    return replace(pair.reversed(), source=side(run, source), target=side(run, target))


class Stores:
    """The vectors of every model: its own, where it is a target, and those that are transferred, where it is a source."""

    def __init__(self, native: Mapping[str, VectorStore], source: Mapping[str, VectorStore]) -> None:
        self.native, self.source = native, source


def _joined(parts: list[tuple[Tensor, Tensor]], join: Any) -> tuple[Tensor, Tensor]:
    return join([x for x, _ in parts]), join([y for _, y in parts])


def _contrasts(run: Run, models: tuple[Loaded, Loaded], layers: tuple[int, int]) -> Contrasts | None:
    """What each positive text of the fit concepts has over the mean of the concept's negatives, in both models."""
    texts = run.data.texts_by_side(run.data.splits.fit)
    if not texts:
        return None
    unique = list(dict.fromkeys(text for side in texts.values() for text in side))
    place = {text: i for i, text in enumerate(unique)}
    found = []
    for loaded, layer in zip(models, layers, strict=True):
        means = text_means(loaded, layer, unique, desc=f"contrasts {loaded.name}")
        rows = []
        for key in run.data.splits.fit:
            negative = means[[place[text] for text in texts[TextSide(key, "-")]]].mean(dim=0)
            rows.append(means[[place[text] for text in texts[TextSide(key, "+")]]] - negative)
        found.append(torch.cat(rows))
    numbers = [torch.full((len(texts[TextSide(key, "+")]),), i) for i, key in enumerate(run.data.splits.fit)]
    return Contrasts(found[0], found[1], torch.cat(numbers))
