"""Sizes: how much is computed at once, by kind of device."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """What a pass takes at most on a kind of device."""

    rows: int
    """Of a batch, where batch_size is auto; halved where memory runs out."""
    tokens: int
    """Padded tokens of a pass over texts."""
    logits_bytes: int
    """Logits of a pass, in the model's dtype."""
    chunk_bytes: int
    """Float32 logits that are summed over at once."""


ON_CPU = Sizes(rows=128, tokens=2048, logits_bytes=512 << 20, chunk_bytes=2 << 20)
"""A chunk of logits fits the cache: 6 times as fast as 32 MB with 262,144 tokens."""
ELSEWHERE = Sizes(rows=512, tokens=16384, logits_bytes=2 << 30, chunk_bytes=256 << 20)
"""On a GPU a pass of a small model takes as long to start as to run, however few its rows are."""


def sizes(device: object) -> Sizes:
    """Sizes for a torch device, or its name.

    >>> sizes("cpu").rows, sizes("cuda:1").rows
    (128, 512)
    """
    return ON_CPU if str(device).startswith("cpu") else ELSEWHERE
