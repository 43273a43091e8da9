"""Geometry: how near transferred vectors lie to native ones. A diagnostic beside behaviour, never a ranking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Geometry(NamedTuple):
    """Transferred against native vectors, over the test concepts."""

    cosine: float
    """Mean cosine to native: high even for the mean vector, which all concepts share."""
    centred_cosine: float
    """The same after the native mean of the fit concepts is taken off both: what is left is the concept's own."""
    retrieval: float
    """Share of concepts whose own native vector is the nearest of all (by centred cosine)."""


def geometry(transferred: Mapping[str, Tensor], native: Mapping[str, Tensor], native_mean: Tensor) -> Geometry:
    """Compare unit vectors; each map is {concept: (d_target,)}, `native_mean` the mean unit native vector of the fit split."""
    concepts = sorted(transferred)
    ours = _rows([transferred[c] for c in concepts])
    own = _rows([native[c] for c in concepts])
    shared = native_mean.double()
    centred, centred_own = _rows(list(ours - shared)), _rows(list(own - shared))
    nearest = (centred @ centred_own.T).argmax(dim=1)
    return Geometry(
        cosine=float((ours * own).sum(dim=1).mean()),
        centred_cosine=float((centred * centred_own).sum(dim=1).mean()),
        retrieval=float((nearest == torch.arange(len(concepts))).double().mean()),
    )


def _rows(vectors: list[Tensor]) -> Tensor:
    """Stacked at norm 1; a zero vector stays zero."""
    return torch.nn.functional.normalize(torch.stack(vectors).double(), dim=1)
