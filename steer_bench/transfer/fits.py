"""Fits: one function per transfer method, from what is known of a pair of models to a map.

Concept vectors enter only for the concepts of the fit split: a map can not have seen a test concept. References are
given at each function; notation: rows are samples, X source, Y target, both centred; W maps rows: Y ~ X W.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steer_bench.activations import PairedMoments
from steer_bench.transfer.maps import LinearMap, MLPMap, TransferMap, VectorMap, truncate_or_pad


@dataclass(frozen=True)
class Side:
    """One model of a pair, or the target alone."""

    model: str
    vectors: Mapping[str, Tensor]
    """DiffMean of every concept, unnormalised: {concept: (d_model,) float64}"""
    fit: tuple[str, ...]
    """Concepts a fit may use."""
    d_model: int
    covariance: Tensor | None = None
    """(d_model, d_model) of neutral activations"""


@dataclass(frozen=True)
class Pair:
    """Two models with paired activations of the same neutral texts, some documents held out."""

    source: Side
    target: Side
    train: PairedMoments
    held_out: PairedMoments
    """The same of other documents: options (ridge strength, rank) are chosen on it."""
    train_samples: tuple[Tensor, Tensor]
    """A bounded sample of the pairs themselves, for maps without a closed form: (n, d_source), (n, d_target) float32"""
    held_out_samples: tuple[Tensor, Tensor]
    seed: int


@dataclass(frozen=True)
class Fit:
    """A map and what its fit found out."""

    map: TransferMap
    report: Mapping[str, float]
    """Chosen strength or rank, held-out R2, ..."""


def r2(weight: Tensor, moments: PairedMoments) -> float:
    """Share of each target coordinate's variance that X W explains, averaged over coordinates.

    Averaged after dividing by each coordinate's variance: in raw units a few massive dimensions would be all of it.
    """
    explained = 2 * (weight * moments.source_target).sum(dim=0) - (weight * (moments.source_source @ weight)).sum(dim=0)
    variance = moments.target_target.diagonal().clamp_min(1e-12)
    return float((explained / variance).mean())


def _linear(weight: Tensor, moments: PairedMoments) -> LinearMap:
    return LinearMap(weight, moments.source_mean, moments.target_mean)


def identity(pair: Pair) -> Fit:
    """Coordinates as they are: truncated or zero-padded where the widths differ, and then a control."""
    fitted = truncate_or_pad(pair.source.d_model, pair.target.d_model)
    return Fit(fitted, {"r2": r2(fitted.weight, pair.held_out)})


def identity_random(pair: Pair) -> Fit:
    """A random semi-orthogonal matrix: any fixed change of coordinates, compared with the identity's."""
    shape = pair.source.d_model, pair.target.d_model
    gaussian = torch.randn(shape, generator=torch.Generator().manual_seed(pair.seed), dtype=torch.float64)
    u, _, vh = torch.linalg.svd(gaussian, full_matrices=False)
    return Fit(_linear(u @ vh, pair.train), {"r2": r2(u @ vh, pair.held_out)})


def ridge(pair: Pair, strengths: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)) -> Fit:
    """Ridge regression of paired activations: W = (X'X + a n I)^-1 X'Y, X standardised by coordinate.

    Hoerl & Kennard 1970; as a map between models Chen et al. 2025 (model stitching), Bello et al. 2025 (arXiv 2506.00653).
    The strength `a` with the best held-out R2 is taken.
    """
    return _best(pair, {strength: _ridge_weight(pair.train, strength) for strength in strengths}, "strength")


def _ridge_weight(moments: PairedMoments, strength: float) -> Tensor:
    """(d_source, d_target); `strength` is relative to the variance of a standardised coordinate."""
    scale = (moments.source_source.diagonal() / moments.n).clamp_min(1e-12).sqrt()
    gram = moments.source_source / torch.outer(scale, scale)
    gram = gram + strength * moments.n * torch.eye(len(gram), dtype=gram.dtype)
    solved = torch.cholesky_solve(moments.source_target / scale[:, None], torch.linalg.cholesky(gram))
    return solved / scale[:, None]


def _best(pair: Pair, weights: Mapping[float, Tensor], option: str) -> Fit:
    """The weight matrix with the best held-out R2, and the option that gave it."""
    scores = {value: r2(weight, pair.held_out) for value, weight in weights.items()}
    chosen = max(scores, key=lambda value: scores[value])
    return Fit(_linear(weights[chosen], pair.train), {option: chosen, "r2": scores[chosen], "n": pair.train.n})


def low_rank(pair: Pair, ranks: Sequence[int] = (8, 16, 32, 64, 128, 256, 512)) -> Fit:
    """Reduced-rank ridge (Izenman 1975): the ridge solution projected on the top principal directions of its predictions.

    W_r = W V_r V_r', V_r the top right singular vectors of X W; the rank with the best held-out R2 is taken.
    """
    weight = ridge(pair).map.weight  # type: ignore[attr-defined]
    _, vectors = torch.linalg.eigh(weight.T @ pair.train.source_source @ weight)
    vectors = vectors.flip(1)  # eigh sorts upwards
    usable = [rank for rank in ranks if rank <= vectors.shape[1]]
    if not usable:
        raise ValueError(f"low-rank: every rank in {list(ranks)} is above the target's width; give smaller ranks")
    return _best(pair, {rank: weight @ vectors[:, :rank] @ vectors[:, :rank].T for rank in usable}, "rank")


def procrustes(pair: Pair, ranks: Sequence[int] = (64, 128, 256, 512)) -> Fit:
    """PCA-Procrustes (Schoenemann 1966): the best scaled rotation between the top-k principal spaces of both models.

    A = X V_s, B = Y V_t; U S V' = svd(A'B); R = U V'; W = (tr S / |A|^2) V_s R V_t'. The k with the best held-out R2 is taken.
    """
    source, target = _principal(pair.train.source_source), _principal(pair.train.target_target)
    weights = {}
    for rank in ranks:
        if rank > min(pair.source.d_model, pair.target.d_model):
            continue
        v_s, v_t = source[:, :rank], target[:, :rank]
        u, s, vh = torch.linalg.svd(v_s.T @ pair.train.source_target @ v_t)
        norm = (v_s * (pair.train.source_source @ v_s)).sum()
        weights[float(rank)] = (s.sum() / norm) * v_s @ u @ vh @ v_t.T
    if not weights:
        raise ValueError(
            f"procrustes: every rank in {list(ranks)} is above the narrower model's width; give smaller ranks"
        )
    return _best(pair, weights, "rank")


def _principal(gram: Tensor) -> Tensor:
    """Principal directions as columns, the largest first."""
    return torch.linalg.eigh(gram)[1].flip(1)


def concept_ridge(pair: Pair, strength: float = 1e-2, intercept: bool = False) -> Fit:
    """Ridge on the concept vectors of the fit split, in kernel form: W = Vs' (Vs Vs' + a I)^-1 Vt.

    With an intercept the target's mean vector is added to every transferred vector: compare with the control `mean`.
    """
    source = torch.stack([pair.source.vectors[concept] for concept in pair.source.fit])
    target = torch.stack([pair.target.vectors[concept] for concept in pair.source.fit])
    if len(source) < 2:
        raise ValueError(f"concept-ridge needs at least 2 concepts in the fit split, there are {len(source)}")
    source_mean, target_mean = (source.mean(0), target.mean(0)) if intercept else (source[0] * 0, target[0] * 0)
    x, y = source - source_mean, target - target_mean
    kernel = x @ x.T
    ridge_term = strength * kernel.diagonal().mean() * torch.eye(len(kernel), dtype=kernel.dtype)
    weight = x.T @ torch.linalg.solve(kernel + ridge_term, y)
    report = {"strength": strength, "concepts": len(source), "r2": r2(weight, pair.held_out)}
    return Fit(VectorMap(weight, source_mean, target_mean), report)


def mlp(
    pair: Pair,
    hidden: int = 512,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-2,
    batch: int = 1024,
    max_epochs: int = 20,
    patience: int = 2,
) -> Fit:
    """Ridge plus a residual network on standardised activations, stopped early on held-out documents.

    The network as in Oozeer et al. 2025 (arXiv 2503.04429): one hidden layer. Trained with AdamW on what ridge leaves over,
    in units of the target's standard deviations, so that massive dimensions do not make up the whole loss.
    """
    linear = ridge(pair)
    x, y = (side.float() for side in pair.train_samples)
    x_held, y_held = (side.float() for side in pair.held_out_samples)
    source_scale = (pair.train.source_source.diagonal() / pair.train.n).clamp_min(1e-12).sqrt()
    target_scale = (pair.train.target_target.diagonal() / pair.train.n).clamp_min(1e-12).sqrt()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(pair.seed)
        model = MLPMap(linear.map, source_scale, target_scale, hidden)  # type: ignore[arg-type]
    mean, scale_s, scale_t = pair.train.source_mean.float(), source_scale.float(), target_scale.float()
    inputs, left_over = (x - mean) / scale_s, (y - linear.map(x)) / scale_t
    held_inputs, held_left_over = (x_held - mean) / scale_s, (y_held - linear.map(x_held)) / scale_t
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    shuffle = torch.Generator().manual_seed(pair.seed)
    best_loss, best_state, epochs_since = float(held_left_over.pow(2).mean()), _state(model), 0
    start_loss, epochs = best_loss, 0
    for _ in range(max_epochs):
        for part in torch.randperm(len(inputs), generator=shuffle).split(batch):
            optimizer.zero_grad()
            nn_loss = (model.residual(inputs[part]) - left_over[part]).pow(2).mean()
            nn_loss.backward()
            optimizer.step()
        epochs += 1
        with torch.no_grad():
            loss = float((model.residual(held_inputs) - held_left_over).pow(2).mean())
        if not math.isfinite(loss):
            raise ValueError("mlp: the loss is not finite; lower its learning_rate in the adapter YAML")
        if loss < best_loss:
            best_loss, best_state, epochs_since = loss, _state(model), 0
        else:
            epochs_since += 1
            if epochs_since > patience:
                break
    model.load_state_dict(best_state)
    model.requires_grad_(False)
    report = {"epochs": epochs, "held_out_loss": best_loss, "linear_held_out_loss": start_loss, "n": len(inputs)}
    return Fit(model, {**report, **{key: value for key, value in linear.report.items() if key == "strength"}})


def _state(model: MLPMap) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


FITS: dict[str, Callable[..., Fit]] = {
    "identity": identity,
    "identity-random": identity_random,
    "ridge": ridge,
    "low-rank": low_rank,
    "procrustes": procrustes,
    "concept-ridge": concept_ridge,
    "mlp": mlp,
}


def transfer(
    fitted: TransferMap, vectors: Mapping[str, Tensor], pushed: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """The source's vectors in the target's space: {concept: (d_target,) float64}.

    A linear map takes the direction itself, v W (one that was fitted on vectors adds its intercept). For any other, `pushed`
    holds mean f(h+) - mean f(h-) of each concept.
    """
    if isinstance(fitted, LinearMap):
        wrong = [concept for concept, vector in vectors.items() if vector.shape != fitted.weight.shape[:1]]
        if wrong:
            raise ValueError(
                f"vector {wrong[0]!r} has width {len(vectors[wrong[0]])}, the map takes {fitted.weight.shape[0]}; "
                "fit the map on the vector's own model"
            )
        return {concept: fitted.direction(vector) for concept, vector in vectors.items()}
    if pushed is None:
        raise ValueError("a nonlinear map transfers by pushing samples: the means of f over both sides of each concept")
    return {concept: pushed[concept].double() for concept in vectors}


def options_of(method: Callable[..., Any]) -> tuple[str, ...]:
    """Names of a method's options, for checking an adapter's YAML before anything runs."""
    code = method.__code__
    return code.co_varnames[1 : code.co_argcount]
