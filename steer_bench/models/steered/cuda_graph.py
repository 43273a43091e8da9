"""A decoding step as one CUDA graph, which stays valid for any mix of prompts, vectors and factors.

A step of a small batch is some thousand kernels, and starting them takes longer than running them. Here ids, positions, masks, cache
and what is added to each row stand in fixed memory: a graph captured once replays the step for every batch of its size. Rows are not
dropped when they finish, for the graph's size is fixed. Its first step is compared with the plain one, and so it gives that or nothing.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from steer_bench.models.steered.decoding import GrowingStep, PreallocatedLayer, cache_name
from steer_bench.models.steered.steering import Steerer

logger = logging.getLogger(__name__)

BLOCK = 64
"""Lengths are rounded up to multiples of this, so that batches of like lengths share a graph."""
WARM_UP = 3
"""Steps before the capture, as torch asks for."""
TOLERANCE = 0.05
"""Accepted difference, as a share of the largest logit: bfloat16 kernels of other shapes differ by 1 to 2 %."""


class FixedLayer(DynamicLayer):
    """A block's cache in memory of a fixed length, whose next token goes to position `at`, a tensor that a graph reads anew."""

    keys: Tensor
    values: Tensor

    def __init__(self, old: Any, length: int, at: Tensor) -> None:
        super().__init__()
        self.at, self.is_initialized = at, True
        self.keys = old.keys.new_zeros(*old.keys.shape[:2], length, old.keys.shape[-1])
        self.values = old.values.new_zeros(*old.values.shape[:2], length, old.values.shape[-1])
        self.device = self.keys.device

    def fill(self, old: Any) -> None:
        """Take over what `old` holds. The rest is 0: what is masked still counts where an earlier batch left NaN."""
        for memory, held in ((self.keys, old.keys), (self.values, old.values)):
            memory[:, :, : held.shape[-2]] = held
            memory[:, :, held.shape[-2] :] = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write one token of each row; return the whole memory."""
        self.keys.index_copy_(2, self.at, key_states)
        self.values.index_copy_(2, self.at, value_states)
        return self.keys, self.values


class FixedStep:
    """One more token for each row of a batch, in fixed memory; on a GPU a captured graph."""

    def __init__(self, model: PreTrainedModel, steerer: Steerer | None, like: GrowingStep, length: int) -> None:
        self.model, self.steerer, self.length = model, steerer if like.added is not None else None, length
        rows, device = len(like.mask), like.mask.device
        self.ids, self.positions = (torch.zeros(rows, 1, dtype=torch.long, device=device) for _ in range(2))
        self.seen = torch.zeros(rows, 1, 1, length, dtype=torch.bool, device=device)
        self.at = torch.zeros(1, dtype=torch.long, device=device)
        self.added = None if like.added is None else torch.zeros_like(like.added)
        self.layers = [FixedLayer(layer, length, self.at) for layer in like.past.layers]
        self.cache = DynamicCache()
        self.cache.layers = list(self.layers)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.logits: Tensor | None = None

    @property
    def size(self) -> tuple[int, int, bool]:
        """What it is made for: (rows, tokens, whether steered)."""
        return len(self.ids), self.length, self.added is not None

    def start(self, given: GrowingStep) -> None:
        """Take over a batch whose prompts have been read."""
        for fixed, old in zip(self.layers, given.past.layers, strict=True):
            fixed.fill(old)
        width = given.mask.shape[1]
        self.seen.zero_()
        self.seen[:, 0, 0, :width] = given.mask.bool()
        self.positions.copy_(given.mask.sum(dim=1, keepdim=True) - 1)
        self.at.fill_(width - 1)
        if self.added is not None and given.added is not None:
            self.added.copy_(given.added)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return logits (rows, 1, vocab) after `tokens` (rows,)."""
        self.ids.copy_(tokens[:, None])
        self.positions.add_(1)
        self.at.add_(1)
        if self.ids.device.type != "cuda":
            return self._forward()
        graph = self.graph or self._capture()
        graph.replay()
        assert self.logits is not None
        return self.logits

    def _forward(self) -> Tensor:
        self.seen.index_fill_(3, self.at, True)
        steered = nullcontext() if self.steerer is None or self.added is None else self.steerer.steering(self.added)
        named = {cache_name(type(self.model).forward): self.cache}
        with torch.inference_mode(), steered:
            return self.model(
                input_ids=self.ids, attention_mask=self.seen, position_ids=self.positions, use_cache=True, logits_to_keep=1, **named
            ).logits  # fmt: skip

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Record the step. Repeating it writes the same token to the same place, so the steps of the warm-up change nothing."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._forward()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.logits = self._forward()
        return self.graph


class GraphStep:
    """The fixed step of a model for batches of one size, kept for the next batch, or the reason why there is none."""

    def __init__(self, model: PreTrainedModel, steerer: Steerer | None) -> None:
        self.model, self.steerer = model, steerer
        self.kept: FixedStep | None = None
        self.refused = ""
        """Why this model's steps run kernel by kernel, where they do."""
        self._told: set[str] = set()

    def step(self, given: GrowingStep, tokens: Tensor, max_new_tokens: int) -> FixedStep | None:
        """Return a step that goes on where `given` is, or None; `tokens` (rows,) are the next ones, on which both are compared."""
        length = -(-(given.mask.shape[1] + max_new_tokens) // BLOCK) * BLOCK
        reason = self.refused or why_not(given.past, length)
        if not reason:
            try:
                return self._started(given, tokens, length)
            except torch.OutOfMemoryError:
                self.kept = None
                raise  # the batch is halved, as everywhere
            except Exception as error:  # whatever a driver or a model does not support: the plain step does the same
                self.kept = None
                reason = self.refused = f"{type(error).__name__}: {error}"
        if reason not in self._told:
            self._told.add(reason)
            logger.warning("decoding without a captured step: %s", reason)
        return None

    def _started(self, given: GrowingStep, tokens: Tensor, length: int) -> FixedStep | None:
        """Return the kept step where it fits, or a new one; None when all logits are non-finite, so it cannot be validated."""
        kept = self.kept
        if kept is not None and kept.size == (len(given.mask), length, given.added is not None):
            kept.start(given)
            return kept
        self.kept = kept = None  # its memory is given back first
        kept = FixedStep(self.model, self.steerer, given, length)
        kept.start(given)
        found = kept(tokens).clone()
        kept.start(given)
        expected = given.copy()(tokens)
        judged = expected.isfinite().flatten(1).all(dim=1)
        if not judged.any():
            return None
        apart = float((found - expected)[judged].abs().max() / expected[judged].abs().max())
        if not apart <= TOLERANCE:
            raise ValueError(f"its logits differ from the plain step's by {apart:.2g} of the largest")
        self.kept = kept
        return kept


def why_not(past: Cache, length: int) -> str:
    """Return why a cache cannot stand in fixed memory of `length` tokens; "" where it can."""
    for layer in past.layers:
        if type(layer) is DynamicSlidingWindowLayer:
            if length >= layer.sliding_window:
                return f"{length} tokens are not less than the sliding window of {layer.sliding_window}"
        elif type(layer) not in (DynamicLayer, PreallocatedLayer):
            return f"a cache of {type(layer).__name__}"
    return ""
