"""Fits that learn from the concepts of the fit split: their vectors, or what each of their texts has over the negatives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steer_bench.transfer.maps import LookupMap, VectorMap, direction_map
from steer_bench.transfer.pairs import Contrasts, Fit, Pair, fit_vectors, r2, ridge


def concept_ridge(pair: Pair, strength: float = 1e-2, intercept: bool = False) -> Fit:
    """Fit ridge on the concept vectors of the fit split, in kernel form: W = Vs' (Vs Vs' + a I)^-1 Vt.

    The way of the experiment this project starts from. With an intercept the target's mean vector is added to every transferred
    vector: compare with the control `mean`.
    """
    source, target = fit_vectors(pair, "concept-ridge", 2)
    source_mean, target_mean = (source.mean(0), target.mean(0)) if intercept else (source[0] * 0, target[0] * 0)
    x, y = source - source_mean, target - target_mean
    kernel = x @ x.T
    ridge_term = strength * kernel.diagonal().mean() * torch.eye(len(kernel), dtype=kernel.dtype)
    weight = x.T @ torch.linalg.solve(kernel + ridge_term, y)
    report = {"strength": strength, "concepts": len(source), "r2": r2(weight, pair.held_out)}
    if intercept:  # what is added whatever the concept
        report["intercept_norm"] = float((target_mean - source_mean @ weight).norm())
    return Fit(VectorMap(weight, source_mean, target_mean), report)


def contrast(
    pair: Pair, strengths: Sequence[float] = (1e-2, 1e-1, 1.0, 10.0, 100.0), shrink_to_linear: bool = False
) -> Fit:
    """Fit ridge on contrast differences of the fit concepts: rows are h(positive text) - mean h(negatives), the same texts in both.

    W = argmin |Ds W - Dt|^2 + a |W - W0|^2, no intercept; W0 = 0, or the neutral ridge map with `shrink_to_linear` (then it is
    what that map leaves over, Dt - Ds W0, that is fitted). The subtraction takes the common content of texts off before the fit
    (Hoerl & Kennard 1970 for ridge). The strength with the best R2 on every fifth concept is taken,
    and the map fitted again on all.
    """
    data = pair.contrasts
    if data is None or len(pair.source.fit) < 2:
        raise ValueError(
            f"contrast needs texts of at least 2 concepts in the fit split, there are {len(pair.source.fit)}"
        )
    numbers = sorted(set(data.concept.tolist()))
    held = torch.isin(data.concept, torch.tensor(numbers[-1:] if len(numbers) < 5 else numbers[4::5]))
    start = torch.zeros(pair.source.d_model, pair.target.d_model, dtype=torch.float64)
    if shrink_to_linear:
        start = ridge(pair).map.weight

    def fitted(rows: Tensor, strength: float) -> Tensor:
        x, y = data.source[rows].double(), data.target[rows].double()
        scale = x.pow(2).mean(dim=0).clamp_min(1e-12).sqrt()
        x = x / scale
        gram = x.T @ x + strength * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
        left_over = y - (x * scale) @ start
        return start + torch.linalg.solve(gram, x.T @ left_over) / scale[:, None]

    scores = {strength: _explained(data, held, fitted(~held, strength)) for strength in strengths}
    chosen = max(scores, key=lambda strength: scores[strength])
    weight = fitted(torch.ones_like(held), chosen)
    report = {
        "strength": chosen, "contrast_r2": scores[chosen], "r2": r2(weight, pair.held_out), "n": len(held),
        "concepts": len(numbers),
    }  # fmt: skip
    return Fit(direction_map(weight), report)


def _explained(data: Contrasts, rows: Tensor, weight: Tensor) -> float:
    """Return the share of the target differences' squares that D_s W explains on these rows, averaged over coordinates."""
    x, y = data.source[rows].double(), data.target[rows].double()
    return float((1 - (y - x @ weight).pow(2).sum(dim=0) / y.pow(2).sum(dim=0).clamp_min(1e-12)).mean())


def nearest_concept(pair: Pair) -> Fit:
    """Look up the target's own vector of the fit concept whose source vector is nearest: a control, for no map is needed for that.

    Nearest by cosine after the mean of the fit concepts is taken off. A transfer that does not beat it has found a neighbour.
    """
    source, target = fit_vectors(pair, "nearest-concept", 2)
    return Fit(LookupMap(source, target), {"concepts": len(source)})
