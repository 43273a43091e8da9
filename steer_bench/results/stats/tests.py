"""Tests: how often chance alone would do as much, and what that becomes of many claims.

differences of concepts -> [p] -> adjusted p -> verdicts
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from steer_bench.results.rows import Array

ALPHA = 0.025
"""Of every one-sided test, after correction."""
EXACT_UP_TO = 16
DRAWS = 10_000


def sign_flip_p(differences: Sequence[float] | Array, *, draws: int = DRAWS) -> float:
    """Return the one-sided permutation p that paired differences are above 0: each may as well have had the other sign.

    Exact up to 16 differences, else seeded draws with the observed one counted; NaN is left out, and p is 1 of none.

    >>> sign_flip_p([1.0, 2.0, 3.0])  # of 8 sign patterns only +++ reaches the sum 6
    0.125
    """
    values = np.asarray(differences, dtype=float)
    values = values[np.isfinite(values)]
    n = len(values)
    # einsum, not @: the number of BLAS threads decides its last digits
    sums = np.einsum("ni,i->n", _all_signs(n), values) if n <= EXACT_UP_TO else _drawn_sums(values, draws)
    reached = int((sums >= math.fsum(values) - 1e-9 * math.fsum(np.abs(values))).sum())
    return reached / len(sums) if n <= EXACT_UP_TO else (1 + reached) / (1 + len(sums))


@lru_cache(maxsize=4)
def _all_signs(length: int) -> Array:
    """Return (2 ** length, length): every pattern of -1 and 1."""
    bits = np.arange(2**length)[:, None] >> np.arange(length) & 1
    return (2 * bits - 1).astype(np.float64)


def _drawn_sums(values: Array, draws: int) -> Array:
    """Return (draws,): sums under random signs, eight values at a time from a table of their 256 sums."""
    eights = np.pad(values, (0, -len(values) % 8)).reshape(-1, 8)
    sums = np.zeros(draws)
    for table, patterns in zip(
        np.einsum("pi,ei->ep", _all_signs(8), eights), _patterns(len(eights), draws), strict=True
    ):
        sums += table[patterns]
    return sums


@lru_cache(maxsize=8)
def _patterns(n_eights: int, draws: int) -> NDArray[np.uint8]:
    """Return (n_eights, draws): random patterns of eight signs, kept because every comparison of a board asks for the same."""
    return np.random.default_rng(0).integers(256, size=(n_eights, draws), dtype=np.uint8)


def holm(p: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p values (Holm 1979), in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, running = [0.0] * len(p), 0.0
    for rank, index in enumerate(_order(p)):
        running = max(running, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = running
    return adjusted


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Return p values adjusted for the false discovery rate (Benjamini & Hochberg 1995), in the order given.

    >>> benjamini_hochberg([0.01, 0.04, 0.03])
    [0.03, 0.04, 0.04]
    """
    adjusted, running = [0.0] * len(p), 1.0
    for rank, index in reversed(list(enumerate(_order(p), 1))):
        running = min(running, len(p) / rank * p[index])
        adjusted[index] = running
    return adjusted


def _order(p: Sequence[float]) -> list[int]:
    """Return the places of p values, smallest first. Raises ValueError for what is no probability."""
    if not all(0 <= one <= 1 for one in p):
        raise ValueError(f"p values {list(p)} are not all in [0, 1]; leave out the tests that could not be run")
    return sorted(range(len(p)), key=lambda index: p[index])


def fewest_concepts(n_claims: int) -> int:
    """Return the smallest n at which n differences all above 0 pass the test after Holm over the claims.

    >>> fewest_concepts(1), fewest_concepts(4)
    (6, 8)
    """
    return math.ceil(math.log2(max(n_claims, 1) / ALPHA) - 1e-12)
