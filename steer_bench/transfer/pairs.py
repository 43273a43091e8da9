"""Pairs: what is known of two models before a map between them is fitted.

    vectors and paired activations -> [ModelSide, Pair] -> fits -> Fit

Everything a linear fit needs are sufficient statistics of one streaming pass (`PairedMoments`). Concept vectors enter only for
the concepts of the fit split: a map cannot have seen a test concept. Notation: rows are samples, X source, Y target, both
centred; W maps rows: Y ~ X W.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from steer_bench.transfer.maps import LinearMap, TransferMap
from steer_bench.transfer.moments import MomentAccumulator, PairedMoments


@dataclass(frozen=True)
class ModelSide:
    """One model of a pair, or the target alone."""

    model: str
    vectors: Mapping[str, Tensor]
    """DiffMean of every concept, unnormalised: {concept: (d_model,) float64}"""
    fit: tuple[str, ...]
    """Concepts a fit may use."""
    d_model: int
    covariance: Tensor | None = None
    """(d_model, d_model) of neutral activations"""
    genres: Mapping[str, str] = field(default_factory=dict)
    """Genre of each concept; a concept that is not in it has the genre ""."""
    few_shot: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    """n -> DiffMean of each concept from its first n texts a side."""


@dataclass(frozen=True)
class Contrasts:
    """How each text of the fit concepts differs from the negatives, in both models: rows are the same texts in both."""

    source: Tensor
    """(n, d_source)"""
    target: Tensor
    """(n, d_target)"""
    concept: Tensor
    """(n,): index of the concept that a row's text shows"""


@dataclass(frozen=True)
class Pair:
    """Two models with paired activations of the same neutral texts, some documents held out."""

    source: ModelSide
    target: ModelSide
    train: PairedMoments
    held_out: PairedMoments
    """The same of other documents: options (ridge strength, rank) are chosen on it."""
    train_samples: tuple[Tensor, Tensor]
    """A bounded sample of the pairs themselves, for maps without a closed form: (n, d_source), (n, d_target) float32"""
    held_out_samples: tuple[Tensor, Tensor]
    seed: int
    anchors: tuple[Tensor, Tensor] | None = None
    """State at the end of each document: (n_documents, d_source), (n_documents, d_target)"""
    contrasts: Contrasts | None = None
    vocabulary: tuple[PairedMoments, PairedMoments] | str | None = None
    """Unembedding rows of the tokens that both vocabularies hold, every tenth held out; or why there are none."""

    def swap(self, source: ModelSide | None = None, target: ModelSide | None = None) -> Pair:
        """Return the pair with source and target exchanged: nothing is measured again.

        source, target: the two models with other vectors, where those that a source transfers are not its own.
        """
        contrasts, vocabulary = self.contrasts, self.vocabulary
        if contrasts is not None:
            contrasts = Contrasts(contrasts.target, contrasts.source, contrasts.concept)
        if isinstance(vocabulary, tuple):
            vocabulary = vocabulary[0].reversed(), vocabulary[1].reversed()
        return Pair(
            source or self.target, target or self.source, self.train.reversed(), self.held_out.reversed(),
            self.train_samples[::-1], self.held_out_samples[::-1], self.seed, self.anchors and self.anchors[::-1], contrasts,
            vocabulary,
        )  # fmt: skip


@dataclass(frozen=True)
class Fit:
    """A map and what its fit found out."""

    map: TransferMap
    report: Mapping[str, float]
    """Chosen strength or rank, held-out R2, …"""


@dataclass(frozen=True)
class LinearFit(Fit):
    """A fit whose map is linear."""

    map: LinearMap


def false_pairs(pair: Pair) -> Pair:
    """Return the pair with every x beside the y of another token, along one random cycle, so that no pair is kept.

    So are the ends of the documents, and each fit concept of the source stands beside the next one of the target. The held-out
    pairs stay true: options are chosen as they are for a true map.
    """
    x, y = pair.train_samples
    moments = MomentAccumulator()
    moments.add(x, moved := _moved(y, pair.seed))
    following = zip(pair.source.fit, (*pair.source.fit[1:], *pair.source.fit[:1]), strict=True)
    vectors = {**pair.target.vectors, **{key: pair.target.vectors[other] for key, other in following}}
    ends = pair.anchors and (pair.anchors[0], _moved(pair.anchors[1], pair.seed))
    return replace(
        pair, target=replace(pair.target, vectors=vectors), train=moments.moments(), train_samples=(x, moved), anchors=ends
    )  # fmt: skip


def _moved(rows: Tensor, seed: int) -> Tensor:
    """Return the rows moved along one random cycle: none stays in its place."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    moved = torch.empty_like(rows)
    moved[order] = rows[order.roll(1)]
    return moved


def check_unseen(fit: Iterable[str], transferred: Iterable[str]) -> None:
    """Raise ValueError where a concept is to go through a map that has seen it: it would come out as native by algebra."""
    seen = sorted(set(fit) & set(transferred))
    if seen:
        raise ValueError(
            f"the map was fitted on the concept {seen[0]!r} ({len(seen)} such), which is to be tested; a map may see only "
            "concepts of the fit split: move the concept to one split"
        )


def r2(weight: Tensor, moments: PairedMoments) -> float:
    """Return the share of each target coordinate's variance that X W explains, averaged over coordinates.

    Averaged after dividing by each coordinate's variance: in raw units a few massive dimensions would be all of it.
    """
    explained = 2 * (weight * moments.source_target).sum(dim=0) - (weight * (moments.source_source @ weight)).sum(dim=0)
    variance = moments.target_target.diagonal().clamp_min(1e-12)
    return float((explained / variance).mean())


def linear_map(weight: Tensor, moments: PairedMoments) -> LinearMap:
    """Return the map x -> (x - mean x) W + mean y."""
    return LinearMap(weight, moments.source_mean, moments.target_mean)


def ridge_weight(moments: PairedMoments, strength: float) -> Tensor:
    """Return W of ridge, (d_source, d_target); `strength` is relative to the variance of a standardised coordinate."""
    scale = (moments.source_source.diagonal() / moments.n).clamp_min(1e-12).sqrt()
    gram = moments.source_source / torch.outer(scale, scale)
    gram = gram + strength * moments.n * torch.eye(len(gram), dtype=gram.dtype)
    solved = torch.cholesky_solve(moments.source_target / scale[:, None], torch.linalg.cholesky(gram))
    return solved / scale[:, None]


def best(pair: Pair, weights: Mapping[float, Tensor], option: str, held_out: PairedMoments | None = None) -> LinearFit:
    """Choose the weights with the best held-out R2, and report the option that gave them; R2 is reported on activations."""
    scores = {value: r2(weight, held_out or pair.held_out) for value, weight in weights.items()}
    chosen = max(scores, key=lambda value: scores[value])
    weight = weights[chosen]
    return LinearFit(
        linear_map(weight, pair.train), {option: chosen, "r2": r2(weight, pair.held_out), "n": pair.train.n}
    )


def ridge(pair: Pair, strengths: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)) -> LinearFit:
    """Fit ridge regression on paired activations: W = (X'X + a n I)^-1 X'Y, X standardised by coordinate.

    Hoerl & Kennard 1970; as a map between models Chen et al. 2025 (model stitching), Bello et al. 2025 (arXiv 2506.00653).
    The strength `a` with the best held-out R2 is taken.
    """
    return best(pair, {strength: ridge_weight(pair.train, strength) for strength in strengths}, "strength")


def fit_vectors(pair: Pair, method: str, least: int) -> tuple[Tensor, Tensor]:
    """Return the fit concepts' vectors in both models, (n, d_source) and (n, d_target). Raises ValueError below `least` concepts."""
    if len(pair.source.fit) < least:
        raise ValueError(f"{method} needs at least {least} concepts in the fit split, there are {len(pair.source.fit)}")
    return stacked(pair.source.vectors, pair.source.fit), stacked(pair.target.vectors, pair.source.fit)


def stacked(vectors: Mapping[str, Tensor], concepts: Sequence[str]) -> Tensor:
    """Stack the vectors of concepts as rows: (n, d_model)."""
    return torch.stack([vectors[concept] for concept in concepts])
