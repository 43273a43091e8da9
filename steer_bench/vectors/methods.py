"""Vector methods: from the activations of a concept's texts to its steering vector.

Arrays are NumPy's or PyTorch's: nothing here imports either.
"""

from __future__ import annotations

from typing import Protocol, Self, TypeVar


class Mean(Protocol):
    """A mean activation: (d_model,)."""

    def __sub__(self, other: Self, /) -> Self:
        """Subtract, coordinate by coordinate."""


class Activations(Protocol):
    """Activations, one row per text or token: (n, d_model)."""

    def mean(self, axis: int, /) -> Self:
        """Average over an axis."""

    def __sub__(self, other: Self, /) -> Self:
        """Subtract, coordinate by coordinate."""


M = TypeVar("M", bound=Mean)
A = TypeVar("A", bound=Activations)


def diff_mean(positive: A, negative: A) -> A:
    """Return the mean of the positives minus the mean of the negatives: DiffMean.

    (n_positive, d_model), (n_negative, d_model) -> (d_model,)

    Marks & Tegmark 2023 (arXiv 2310.06824); Belrose 2023, "Diff-in-means concept editing is worst-case optimal".

    >>> import numpy as np
    >>> diff_mean(np.array([[3.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 1.0]])).tolist()
    [2.0, -1.0]
    """
    return diff_of_means(positive.mean(0), negative.mean(0))


def diff_of_means(positive: M, negative: M) -> M:
    """Return DiffMean of means that were made elsewhere, such as in one pass over a stream: (d_model,), (d_model,) -> (d_model,)"""
    return positive - negative
