"""Likelihood: log-likelihoods of tokens from a forward pass that computes the output layer only where it is scored.

    token ids -> [forward pass, output layer at chosen positions] -> log p of each wanted token, whether it is the greedy one

With a large vocabulary the output layer and its softmax are most of the work and nearly all of the memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from steer_bench.models.device import sizes


@contextmanager
def head_at(model: PreTrainedModel, rows: Tensor, positions: Tensor) -> Iterator[None]:
    """Compute the output layer at these (row, position)s only, while entered: logits are (1, n, vocab)."""

    def chosen(_module: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states = args[0]
        return (states[rows.to(states.device), positions.to(states.device)][None], *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(chosen)
    try:
        yield
    finally:
        handle.remove()


class TokenScores(NamedTuple):
    """What logits say of the wanted tokens, one per position."""

    log_p: Tensor
    """(n,) float64: log p of the wanted token."""
    greedy: Tensor
    """(n,) bool: whether it is the one that greedy decoding takes."""
    log_z: Tensor
    """(n,) float64: log of the sum of exp(logits)."""


def chunks(logits: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield logits (n, vocab) as (first position, float32 logits), a few positions at a time.

    Each chunk is written over the last: memory that is new each time costs more than what is computed in it.
    """
    size = max(1, sizes(logits.device).chunk_bytes // (4 * logits.shape[1]))
    place = torch.empty(min(size, len(logits)), logits.shape[1], device=logits.device)
    for start in range(0, len(logits), size):
        part = logits[start : start + size]
        yield start, place[: len(part)].copy_(part)


def token_scores(logits: Tensor, wanted: Tensor) -> TokenScores:
    """Return the scores of the wanted tokens (n,) from logits (n, vocab), by a float32 softmax.

    >>> scores = token_scores(torch.zeros(2, 4), torch.tensor([0, 3]))
    >>> [round(p, 6) for p in scores.log_p.exp().tolist()], scores.greedy.tolist()  # of equal logits the first is greedy
    ([0.25, 0.25], [True, False])
    """
    found, same, sums = [], [], []
    for start, part in chunks(logits):
        at = wanted[start : start + len(part)]
        picked, largest = part.gather(1, at[:, None])[:, 0], part.amax(dim=-1)
        first = _is_first(part, picked == largest, at)
        shift = torch.where(largest.isinf(), 0.0, largest)
        log_z = (part.sub_(shift[:, None]).exp_().sum(dim=-1).log() + shift).double()
        found.append(picked.double() - log_z)
        same.append(first)
        sums.append(log_z)
    return TokenScores(torch.cat(found), torch.cat(same), torch.cat(sums))


def _is_first(logits: Tensor, largest: Tensor, at: Tensor) -> Tensor:
    """Return (n,) bool: whether token `at` is the first of those with the largest logit, which greedy decoding takes."""
    if logits.device.type != "cpu":
        return largest & (logits.argmax(dim=-1) == at)
    first = largest.clone()  # argmax of all rows takes longer than the rest of their score
    for row in largest.nonzero()[:, 0].tolist():
        first[row] = not bool((logits[row, : at[row]] == logits[row, at[row]]).any())
    return first


class Divergence:
    """The KL divergence from the next-token distributions of unsteered logits (n, vocab) to those of others, in nats.

    KL(p || q) = sum p log p - sum p z_q + log Z_q, z_q the other logits and Z_q the sum of their exponentials: one product a comparison.

    >>> divergence = Divergence(torch.tensor([[0.0, 0.0]]))
    >>> round(divergence.sum(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]]).logsumexp(1)), 4)  # log(1 + e) - 1/2 - log 2
    0.1201
    """

    def __init__(self, plain: Tensor) -> None:
        self._p = torch.cat([part.softmax(dim=-1) for _, part in chunks(plain)])
        log_p = (part.log_softmax(dim=-1) for _, part in chunks(plain))
        self._entropy = -sum(
            float(torch.linalg.vecdot(p, part).double().sum())
            for (_, p), part in zip(chunks(self._p), log_p, strict=True)
        )

    def sum(self, logits: Tensor, log_z: Tensor) -> float:
        """Return the sum over positions of KL(plain || these logits), given the log sums (n,) of their exponentials."""
        products = sum(
            float(torch.linalg.vecdot(p, part).double().sum())
            for (_, p), (_, part) in zip(chunks(self._p), chunks(logits), strict=True)
        )
        total = float(log_z.double().sum()) - products - self._entropy
        return 0.0 if total < 0 else total  # rounding; NaN stays
