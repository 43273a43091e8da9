"""Fits: one function per transfer method, from what is known of a pair of models to a map.

References are given at each function; `pairs` has the notation. The methods that learn from the fit concepts stand in
`concept_fits`, the network in `network`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps

import torch
from torch import Tensor

from steer_bench.transfer.adapters import LEARN_FROM_PAIRS
from steer_bench.transfer.concept_fits import concept_ridge, contrast, nearest_concept
from steer_bench.transfer.maps import DirectionMap, TransferMap, direction_map, truncate_or_pad
from steer_bench.transfer.network import mlp
from steer_bench.transfer.pairs import Fit, Pair, best, false_pairs, linear_map, r2, ridge, ridge_weight

LEAST_TOKENS = 200
"""Fewer shared tokens than this make no map."""


def identity(pair: Pair) -> Fit:
    """Keep the coordinates as they are: truncated or zero-padded where the widths differ, and then a control."""
    fitted = truncate_or_pad(pair.source.d_model, pair.target.d_model)
    return Fit(fitted, {"r2": r2(fitted.weight, pair.held_out)})


def identity_random(pair: Pair) -> Fit:
    """Draw a random semi-orthogonal matrix: any fixed change of coordinates, compared with the identity's."""
    shape = pair.source.d_model, pair.target.d_model
    gaussian = torch.randn(shape, generator=torch.Generator().manual_seed(pair.seed), dtype=torch.float64)
    u, _, vh = torch.linalg.svd(gaussian, full_matrices=False)
    return Fit(linear_map(u @ vh, pair.train), {"r2": r2(u @ vh, pair.held_out)})


def low_rank(pair: Pair, ranks: Sequence[int] = (8, 16, 32, 64, 128, 256, 512)) -> Fit:
    """Fit reduced-rank ridge (Izenman 1975): the ridge solution projected on the top principal directions of its predictions.

    W_r = W V_r V_r', V_r the top right singular vectors of X W; the rank with the best held-out R2 is taken.
    """
    weight = ridge(pair).map.weight
    _, vectors = torch.linalg.eigh(weight.T @ pair.train.source_source @ weight)
    vectors = vectors.flip(1)  # eigh sorts upwards
    usable = [rank for rank in ranks if rank <= vectors.shape[1]]
    if not usable:
        raise ValueError(f"low-rank: every rank in {list(ranks)} is above the target's width; give smaller ranks")
    return best(pair, {rank: weight @ vectors[:, :rank] @ vectors[:, :rank].T for rank in usable}, "rank")


def procrustes(pair: Pair, ranks: Sequence[int] = (64, 128, 256, 512)) -> Fit:
    """Fit PCA-Procrustes (Schoenemann 1966): the best scaled rotation between the top-k principal spaces of both models.

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
    return best(pair, weights, "rank")


def anchors(pair: Pair, count: int = 256, strength: float = 0.1) -> Fit:
    """Fit relative coordinates (Moschella et al. 2023, arXiv 2209.15430; between language models Kim & Han, arXiv 2605.09875).

    A_s, A_t: states at the end of the same documents, their mean taken off, rows at norm 1. A direction u is its cosines to the
    source's anchors, r = A_s u, and is built again from the target's: v = A_t' (A_t A_t' + a I)^-1 r, so W = A_s' (...)^-1 A_t.
    Its rank is at most the number of anchors.
    """
    if pair.anchors is None or len(pair.anchors[0]) < 2:
        raise ValueError("anchors needs the ends of at least 2 documents; give more neutral texts")
    means = [states.double().mean(dim=0) for states in pair.anchors]
    source, target = (
        torch.nn.functional.normalize(states.double()[:count] - mean, dim=1)
        for states, mean in zip(pair.anchors, means, strict=True)
    )
    kernel = target @ target.T + strength * torch.eye(len(target), dtype=target.dtype)
    weight = source.T @ torch.linalg.solve(kernel, target)
    return Fit(direction_map(weight), {"strength": strength, "anchors": len(source), "r2": r2(weight, pair.held_out)})


def unembedding(pair: Pair, strengths: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)) -> Fit:
    """Fit ridge from the source's to the target's unembedding rows of the tokens that both vocabularies hold (EMB2EMB).

    No text is run: a direction is read as a mixture of words. The final norm's gain is folded into the rows, which are
    centred. Fair for late layers; in the middle it asks whether a transfer is but the promotion of words.
    """
    if not isinstance(pair.vocabulary, tuple):
        raise ValueError(f"unembedding: {pair.vocabulary or 'the vocabularies were not compared'}")
    train, held_out = pair.vocabulary
    if train.n < LEAST_TOKENS:
        raise ValueError(
            f"unembedding needs {LEAST_TOKENS} tokens that both vocabularies hold, there are {train.n + held_out.n}"
        )
    fitted = best(pair, {strength: ridge_weight(train, strength) for strength in strengths}, "strength", held_out)
    return Fit(direction_map(fitted.map.weight), {**fitted.report, "n": train.n})


def _principal(gram: Tensor) -> Tensor:
    """Return the principal directions as columns, the largest first."""
    return torch.linalg.eigh(gram)[1].flip(1)


def on_false_pairs(method: Callable[..., Fit]) -> Callable[..., Fit]:
    """Return a control: the method fitted on false pairs. What it still transfers, it has from means and variances alone."""

    @wraps(method)
    def shuffled(pair: Pair, **options: object) -> Fit:
        return method(false_pairs(pair), **options)

    return shuffled


FITS: dict[str, Callable[..., Fit]] = {
    "identity": identity,
    "identity-random": identity_random,
    "ridge": ridge,
    "low-rank": low_rank,
    "procrustes": procrustes,
    "concept-ridge": concept_ridge,
    "mlp": mlp,
    "contrast": contrast,
    "anchors": anchors,
    "unembedding": unembedding,
    "nearest-concept": nearest_concept,
}
FITS |= {f"shuffled-{name}": on_false_pairs(FITS[name]) for name in LEARN_FROM_PAIRS}
"""Method -> the function that fits it on a pair. It raises ValueError, a row of the board, for a pair that it cannot be fitted on."""


def transfer(
    fitted: TransferMap, vectors: Mapping[str, Tensor], pushed: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Map the source's vectors to the target's space: {concept: (d_target,) float64}.

    A map of directions takes the vector itself, v W (one that was fitted on vectors adds its intercept). For any other,
    `pushed` holds mean f(h+) - mean f(h-) of each concept. Raises ValueError for a vector of another width.
    """
    if isinstance(fitted, DirectionMap):
        wrong = [concept for concept, vector in vectors.items() if len(vector) != fitted.d_source]
        if wrong:
            raise ValueError(
                f"vector {wrong[0]!r} has width {len(vectors[wrong[0]])}, the map takes {fitted.d_source}; "
                "fit the map on the vector's own model"
            )
        return {concept: fitted.direction(vector) for concept, vector in vectors.items()}
    if pushed is None:
        raise ValueError("a nonlinear map transfers by pushing samples: the means of f over both sides of each concept")
    return {concept: pushed[concept].double() for concept in vectors}
