"""Likelihood: log-likelihoods of tokens from a forward pass that computes the output layer only where it is scored.

    token ids -> [forward pass, output layer at chosen positions] -> log p of each wanted token, whether it is the greedy one

With a large vocabulary the output layer and its softmax are most of the work and nearly all of the memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 32 << 20
"""Float32 logits that are summed over at once."""


def right_padded(texts: Sequence[Sequence[int]]) -> Tensor:
    """(texts, longest); what stands behind a text is never read by it.

    >>> right_padded([[5, 6, 7], [8]]).tolist()
    [[5, 6, 7], [8, 0, 0]]
    """
    ids = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)
    for i, text in enumerate(texts):
        ids[i, : len(text)] = torch.tensor(text)
    return ids


@contextmanager
def head_at(model: Any, rows: Tensor, positions: Tensor) -> Iterator[None]:
    """Within the block, the output layer is computed at these (row, position)s only: logits are (1, n, vocab)."""

    def chosen(_module: Any, args: Any) -> Any:
        states = args[0]
        return (states[rows.to(states.device), positions.to(states.device)][None], *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(chosen)
    try:
        yield
    finally:
        handle.remove()


def token_scores(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """(log p of each wanted token, float64; whether it is the greedy token) from logits (n, vocab).

    The softmax is float32, in chunks of positions: over all at once it would be what fills the memory.

    >>> values, greedy = token_scores(torch.zeros(2, 4), torch.tensor([0, 3]))
    >>> [round(value, 4) for value in values.tolist()], greedy.tolist()  # log 1/4; of equal logits the first is greedy
    ([-1.3863, -1.3863], [True, False])
    """
    size = max(1, CHUNK_BYTES // (4 * logits.shape[1]))
    values, same = [], []
    for start in range(0, len(wanted), size):
        part, at = logits[start : start + size].float(), wanted[start : start + size]
        picked, top = part.gather(1, at[:, None])[:, 0], part.amax(dim=-1)
        first = picked == top  # argmax only where it can be
        if first.any():
            first[first.clone()] = part[first].argmax(dim=-1) == at[first]
        own = part if logits.dtype != torch.float32 else part.clone()
        values.append((picked - top).double() - own.sub_(top[:, None]).exp_().sum(dim=-1).double().log())
        same.append(first)
    return torch.cat(values), torch.cat(same)
