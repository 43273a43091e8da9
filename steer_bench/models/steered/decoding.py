"""Decoding: greedy replies of many rows, each under its own steering, with nothing computed twice.

    prompts -> trunk once a distinct prompt -> rest of the prompt once a row -> a token a step, finished rows dropped

What transformers' `generate` gives for the same rows, token for token. Knows nothing of lm_eval.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from steer_bench.models.steered.steering import Steerer, run_to, shared_trunk

PLAIN = {
    "_from_model_config", "bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "use_cache", "do_sample",
    "temperature", "top_k", "top_p", "min_p", "typical_p", "max_length", "max_new_tokens", "cache_implementation",
}  # fmt: skip
"""Keys of a generation config that say nothing about greedy decoding; any other leaves decoding to `generate`, unless off."""
OFF = {"num_beams": 1, "num_return_sequences": 1, "num_beam_groups": 1, "repetition_penalty": 1, "length_penalty": 1}
ROOM = 32
"""Tokens that a cache's memory has room for beyond what it holds."""
FULL = 0.75
"""A batch is made smaller when no more than this part of its rows still runs: dropping rows copies the cache."""


def is_plain(model: Any) -> bool:
    """Whether greedy decoding of this model is the argmax of every step, on a cache whose rows can be chosen."""
    supported = getattr(model, "_supports_default_dynamic_cache", None)
    if supported is None or not supported() or model.config.is_encoder_decoder:
        return False
    if len(new_cache(model).layers) != model.config.get_text_config(decoder=True).num_hidden_layers:
        return False  # blocks that share a cache
    given = {key: value for key, value in model.generation_config.to_diff_dict().items() if key not in PLAIN}
    return all(value in (None, False, 0) or OFF.get(key) == value for key, value in given.items())


class RoomyLayer(DynamicLayer):
    """A block's cache as transformers has it, whose memory has room for ROOM more tokens: a step copies its own, not all before it.

    Where anything else has changed `keys` (rows chosen, tokens cut), the next update takes them up as they are.
    """

    _memory: tuple[Tensor, Tensor] | None = None
    _shown: tuple[Tensor, Tensor] | None = None
    """`keys` and `values` as the last update left them, views of `_memory`."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """As DynamicLayer: all keys and values so far, (rows, heads, tokens, width) each."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        memory, ours = self._memory, self._shown is not None and self.keys is self._shown[0]
        if memory is None or not ours or memory[0].shape[-2] < after:
            memory = _with_room(self.keys, key_states, before), _with_room(self.values, value_states, before)
        for room, states in zip(memory, (key_states, value_states), strict=True):
            room[:, :, before:after] = states
        shown = memory[0][:, :, :after], memory[1][:, :, :after]
        self._memory, self._shown, (self.keys, self.values) = memory, shown, shown
        return shown


def _with_room(old: Tensor | None, new: Tensor, before: int) -> Tensor:
    """Memory (rows, heads, before + new + ROOM, width) that begins with the `before` old ones."""
    memory = new.new_empty(*new.shape[:2], before + new.shape[-2] + ROOM, new.shape[-1])
    if before and old is not None:
        memory[:, :, :before] = old
    return memory


def new_cache(model: Any) -> Any:
    """An empty cache with a layer a block."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


@cache
def cache_name(forward: Callable[..., Any]) -> str:
    """What a model's `forward` calls its cache: `cache` in newer transformers."""
    return "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"


def forward(model: Any, ids: Tensor, mask: Tensor, past: Any, *, keep: int = 1) -> Tensor:
    """Logits of the last `keep` positions; the cache grows by `ids`. mask: (rows, cached + new), 0 where there is padding."""
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)[:, -ids.shape[1] :]
    named = {cache_name(type(model).forward): past}
    return model(
        input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=keep, **named
    ).logits


@contextmanager
def grouped_heads() -> Iterator[None]:
    """Within the block, query heads that share keys and values attend as one, where there is one query a row, on a CPU.

    The numbers are the same but for rounding. torch's kernel for the CPU takes a head at a time and is 4 times slower for single
    queries; transformers avoids that only where there is a mask, which rows of equal length do not need.
    """
    given = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def attention(
        module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, None]:
        rows, heads, queries, width = query.shape
        plain = query.device.type == "cpu" and queries == 1 and key.shape[1] < heads and mask_is_shared(mask)
        if not plain or options.get("position_bias") is not None or options.get("softcap") is not None:
            return given(module, query, key, value, mask, **options)
        out = torch.nn.functional.scaled_dot_product_attention(
            query.view(rows, key.shape[1], -1, width), key, value, attn_mask=mask, scale=options.get("scaling")
        )
        return out.view(rows, 1, heads, -1), None

    ALL_ATTENTION_FUNCTIONS["sdpa"] = attention
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = given


def mask_is_shared(mask: Tensor | None) -> bool:
    """Whether all heads have the same mask (rows, 1, queries, keys), or none."""
    return mask is None or (mask.ndim == 4 and mask.shape[1] == 1)


def left_padded(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(ids, mask), each (prompts, longest)"""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    return ids, mask


Step = Callable[[Tensor], Tensor]
"""One more token for each row of a batch: (rows,) -> logits (rows, 1, vocab)"""


@dataclass
class GrowingStep:
    """The step on a cache that grows."""

    model: Any
    past: Any
    mask: Tensor
    """(rows, tokens in the cache): 0 where there is padding"""
    steerer: Steerer | None
    added: Tensor | None
    """(rows, 1, d_model), or None where no row is steered"""

    def __call__(self, tokens: Tensor) -> Tensor:
        """See `Step`."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        steered = nullcontext() if self.added is None or self.steerer is None else self.steerer.steering(self.added)
        with steered, grouped_heads():
            return forward(self.model, tokens[:, None], self.mask, self.past)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        self.past.batch_select_indices(rows)
        self.mask = self.mask[rows]
        self.added = self.added[rows] if self.added is not None else None

    def copy(self) -> GrowingStep:
        """The same, with a cache of its own."""
        return replace(self, past=copy.deepcopy(self.past))


def greedy(
    model: Any,
    prompts: Sequence[tuple[int, ...]],
    *,
    max_new_tokens: int,
    is_finished: Callable[[list[int]], bool],
    pad: int,
    device: torch.device,
    steerer: Steerer | None = None,
    added: Tensor | None = None,
    starts: Tensor | None = None,
    blocks: Sequence[torch.nn.Module] = (),
    bad: dict[int, int] | None = None,
    captured: Callable[[GrowingStep, Tensor, int], Step | None] | None = None,
) -> list[list[int]]:
    """New tokens of each row, the one that finished it included.

    added: (rows, 1, d_model), what steers each row, or None; starts: first steered position of each row without padding;
    blocks: 0 to the steered one, which are run once a distinct prompt; bad: takes, of each row whose logits were once NaN or +Inf,
    the first such step; captured: asked for a faster step of the batch, once its prompts are read (see `captured.Captured.step`).
    """
    distinct = list(dict.fromkeys(prompts))
    place = {prompt: i for i, prompt in enumerate(distinct)}
    index = torch.tensor([place[prompt] for prompt in prompts], device=device)
    ids, mask = left_padded(distinct, pad, device)
    shared = added is not None and bool(blocks) and len(distinct) < len(prompts)
    past = new_cache(model)
    if added is None:  # rows of one prompt stay the same: the whole prompt is shared
        logits = forward(model, ids, mask, past)[index]
        past.batch_select_indices(index)
    else:
        assert steerer is not None
        assert starts is not None
        added = added.to(device, model.dtype)
        starts = starts.to(device) + (mask == 0).sum(dim=1)[index]
        first = starts if bool(starts.any()) else None
        if shared:
            trunk_past = new_cache(model)
            trunk = run_to(blocks[-1], lambda: forward(model, ids, mask, trunk_past))
            with shared_trunk(blocks, trunk, index), steerer.steering(added, first):
                logits = forward(model, ids[index], mask[index], past)
            for i in range(len(blocks)):
                trunk_past.layers[i].batch_select_indices(index)
                past.layers[i] = trunk_past.layers[i]
        else:
            with steerer.steering(added, first):
                logits = forward(model, ids[index], mask[index], past)
    step_of: Step = GrowingStep(model, past, mask[index], steerer, added)

    replies: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))  # which reply each row of the batch is
    running = list(range(len(prompts)))  # rows of the batch that are not finished
    for step in range(max_new_tokens):
        highest, tokens = logits[:, -1].max(dim=-1)  # on ties the first, as argmax, which is 4 times slower in bfloat16
        chosen, finite = tokens.tolist(), torch.isfinite(highest).tolist()
        for row in running:
            replies[rows[row]].append(chosen[row])
            if bad is not None and not finite[row]:
                bad.setdefault(rows[row], step)
        running = [row for row in running if not is_finished(replies[rows[row]])]
        if not running or step == max_new_tokens - 1:
            break
        if step == 0 and captured is not None and isinstance(step_of, GrowingStep):
            step_of = captured(step_of, tokens, max_new_tokens) or step_of
        if isinstance(step_of, GrowingStep) and len(running) <= FULL * len(rows):
            kept = torch.tensor(running, device=device)
            step_of.keep(kept)
            tokens = tokens[kept]
            rows, running = [rows[row] for row in running], list(range(len(running)))
        logits = step_of(tokens)
    return replies
