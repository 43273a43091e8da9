"""Fits that need no paired tokens: the ends of some documents (anchors), or the words of both vocabularies (unembedding)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from steer_bench.transfer.maps import VectorMap
from steer_bench.transfer.pairs import Fit, Pair, best, r2, ridge_weight

LEAST_TOKENS = 200
"""Fewer shared tokens than this make no map."""


def anchors(pair: Pair, count: int = 256, strength: float = 0.1) -> Fit:
    """Relative coordinates (Moschella et al. 2023, arXiv 2209.15430; between language models Kim & Han, arXiv 2605.09875).

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
    none = torch.zeros(pair.source.d_model, dtype=torch.float64), torch.zeros(pair.target.d_model, dtype=torch.float64)
    return Fit(
        VectorMap(weight, *none), {"strength": strength, "anchors": len(source), "r2": r2(weight, pair.held_out)}
    )


def unembedding(pair: Pair, strengths: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)) -> Fit:
    """Ridge from the source's to the target's unembedding rows of the tokens that both vocabularies hold (EMB2EMB).

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
    none = torch.zeros(pair.source.d_model, dtype=torch.float64), torch.zeros(pair.target.d_model, dtype=torch.float64)
    weight = fitted.map.weight  # type: ignore[attr-defined]
    return Fit(VectorMap(weight, *none), {**fitted.report, "n": train.n})
