"""Moments: paired activations of two models, and the sufficient statistics of maps between them.

texts -> token ids, end offsets -> [activations of both models, token by token] -> moments
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from steer_bench.models.activations import FIRST_READ, not_sink, stream
from steer_bench.models.load import Loaded
from steer_bench.models.tokens import Tokens, tokenize


def shared_ends(source: Tokens, target: Tokens) -> tuple[list[int], list[int]]:
    """Positions of the tokens that end at the same character in both tokenisations, BOS left out.

    A causal state at a token's end has seen exactly the text up to that character, so these states pair; states at equal
    starts do not.

    >>> a = Tokens(ids=(0, 5, 6, 7), ends=(0, 2, 4, 9))
    >>> b = Tokens(ids=(8, 9, 3), ends=(4, 6, 9))
    >>> shared_ends(a, b)
    ([3], [2])
    """
    of_source = {end: position for position, end in enumerate(source.ends) if position >= FIRST_READ and end}
    of_target = {end: position for position, end in enumerate(target.ends) if position >= FIRST_READ and end}
    ends = [end for end in of_source if end in of_target]
    return [of_source[end] for end in ends], [of_target[end] for end in ends]


def paired(
    source: Loaded,
    source_layer: int,
    target: Loaded,
    target_layer: int,
    texts: Sequence[str],
    *,
    desc: str | None = None,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(index of the text, source activations (n, d_source), target activations (n, d_target)), token by token.

    Tokens are paired where both end at the same character; a token that is an attention sink in either model is left out.
    """
    source_tokens, target_tokens = tokenize(source, texts), tokenize(target, texts)
    order = sorted(range(len(texts)), key=lambda i: -len(source_tokens[i].ids))
    chunk = 64  # texts held at once
    with tqdm(total=len(texts), desc=desc, disable=None if desc else True, unit="text") as bar:
        for start in range(0, len(order), chunk):
            part = order[start : start + chunk]
            of_source = dict(stream(source, source_layer, [source_tokens[i] for i in part]))
            of_target = dict(stream(target, target_layer, [target_tokens[i] for i in part]))
            for place, i in enumerate(part):
                s, t = shared_ends(source_tokens[i], target_tokens[i])
                if not s:
                    continue
                x, y = of_source[place][s], of_target[place][t]
                keep = not_sink(x).cpu() & not_sink(y).cpu()
                if keep.any():
                    yield i, x[keep.to(x.device)], y[keep.to(y.device)]
            bar.update(len(part))


@dataclass(frozen=True)
class PairedMoments:
    """Sufficient statistics of paired activations: closed-form maps in both directions need nothing else."""

    n: int
    source_mean: Tensor
    """(d_source,)"""
    target_mean: Tensor
    """(d_target,)"""
    source_source: Tensor
    """(d_source, d_source): sum of centred outer products"""
    source_target: Tensor
    """(d_source, d_target)"""
    target_target: Tensor
    """(d_target, d_target)"""

    def reversed(self) -> PairedMoments:
        """The same pairs with source and target exchanged."""
        return PairedMoments(
            self.n, self.target_mean, self.source_mean, self.target_target, self.source_target.T, self.source_source
        )


class MomentAccumulator:
    """Adds paired activations up to `PairedMoments`, in float64, HELD rows at a time.

    Sums are taken about the first batch's mean, so that a large common mean (Gemma's massive dimensions) costs no digits.
    """

    HELD = 1024

    def __init__(self) -> None:
        self._n = 0
        self._shift: Tensor | None = None
        self._sum: Tensor
        self._outer: np.ndarray
        self._waiting: list[Tensor] = []
        self._d_source = 0

    def add(self, source: Tensor, target: Tensor) -> None:
        """(n, d_source), (n, d_target)"""
        both = torch.cat([source.double().cpu(), target.double().cpu()], dim=1)
        if self._shift is None:
            self._d_source, self._shift = source.shape[1], both.mean(dim=0)
            self._sum = torch.zeros_like(self._shift)
            self._outer = np.zeros((both.shape[1], both.shape[1]))
        both = both - self._shift
        self._n += len(both)
        self._sum += both.sum(dim=0)
        self._waiting.append(both)
        if sum(map(len, self._waiting)) >= self.HELD:
            self._multiply()

    def _multiply(self) -> None:
        """numpy sees that a matrix meets its own transpose, and computes half of the product (syrk); torch computes all of it."""
        if self._waiting:
            rows = torch.cat(self._waiting).numpy()
            self._outer += rows.T @ rows
            self._waiting.clear()

    def moments(self) -> PairedMoments:
        """What has been added so far. Raises ValueError when nothing has."""
        if self._shift is None:
            raise ValueError("no token ends at the same character in both tokenisations: the models share no pairs")
        self._multiply()
        mean = self._sum / self._n
        centred = torch.from_numpy(self._outer) - self._n * torch.outer(mean, mean)
        mean, d = mean + self._shift, self._d_source
        return PairedMoments(self._n, mean[:d], mean[d:], centred[:d, :d], centred[:d, d:], centred[d:, d:])
