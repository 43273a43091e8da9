"""Sampling that does not depend on the batch: every row has its own random numbers.

    logits / temperature + Gumbel noise -> argmax        (the Gumbel-max trick: a draw from softmax(logits / temperature))

The noise comes from a generator on the CPU seeded by what the row is, so neither batch, order nor device changes a reply, and a row
that is asked again after a stop gets the reply it would have had.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import (
    EpsilonLogitsWarper,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

WARPERS = {
    "temperature": TemperatureLogitsWarper,
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
    "typical_p": TypicalLogitsWarper,
    "epsilon_cutoff": EpsilonLogitsWarper,
}
"""Options that only sampling has, in the order in which they are applied."""


class GumbelNoise(LogitsProcessor):
    """Add Gumbel noise to the scores, each row's own, so that the largest is a draw from their softmax."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores with noise, (rows, vocab) float32; every call is the next token of every row."""
        width = scores.shape[-1]
        noise = torch.stack([torch.empty(width).exponential_(generator=one) for one in self._generators])
        return scores.float() - noise.clamp_min(torch.finfo(torch.float32).tiny).log().to(scores.device)


def row_seed(*parts: object) -> int:
    """Return 63 bits that differ whenever one of the parts does, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def samplers(options: Mapping[str, float], seeds: Sequence[int]) -> LogitsProcessorList:
    """Return what turns greedy decoding into sampling: WARPERS as far as given, then noise."""
    chosen = [warper(options[name]) for name, warper in WARPERS.items() if options.get(name)]
    return LogitsProcessorList([*chosen, GumbelNoise(seeds)])
