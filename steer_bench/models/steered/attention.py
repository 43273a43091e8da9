"""Attention of single queries: an attention function with a name of its own, in transformers' table of them.

torch's kernel for the CPU takes a head at a time and is 4 times slower for single queries than one that takes the heads that share
keys and values together. transformers does that only where there is a mask, which rows of equal length do not need.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

NAME = "steer_bench_grouped_sdpa"


def grouped_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """Compute `sdpa` attention; heads that share keys and values attend as one where there is one query a row, on a CPU.

    The numbers are those of `sdpa` but for rounding.
    """
    rows, heads, queries, width = query.shape
    plain = query.device.type == "cpu" and queries == 1 and key.shape[1] < heads and mask_is_shared(mask)
    if not plain or options.get("position_bias") is not None or options.get("softcap") is not None:
        return AttentionInterface()["sdpa"](module, query, key, value, mask, **options)
    out = torch.nn.functional.scaled_dot_product_attention(
        query.view(rows, key.shape[1], -1, width), key, value, attn_mask=mask, scale=options.get("scaling")
    )
    return out.view(rows, 1, heads, -1), None


AttentionInterface.register(NAME, grouped_attention)
AttentionMaskInterface.register(NAME, AttentionMaskInterface()["sdpa"])


def mask_is_shared(mask: Tensor | None) -> bool:
    """Return whether all heads have the same mask (rows, 1, queries, keys), or none."""
    return mask is None or (mask.ndim == 4 and mask.shape[1] == 1)


@contextmanager
def grouped_heads(model: PreTrainedModel) -> Iterator[None]:
    """Have one model attend by `grouped_attention` while entered, where it attends by `sdpa`; other models are left alone."""
    config = model.config.get_text_config(decoder=True)
    given = config._attn_implementation
    if given != "sdpa":
        yield
        return
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = given
