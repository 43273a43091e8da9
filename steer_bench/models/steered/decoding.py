"""Decoding: greedy replies of many rows, each under its own steering, with nothing computed twice.

    prompts -> trunk once a distinct prompt -> rest of the prompt once a row -> a token a step, finished rows dropped

What transformers' `generate` gives for the same rows, token for token.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from steer_bench.models.blocks import outputs_of
from steer_bench.models.padding import left_padded
from steer_bench.models.steered.attention import grouped_heads
from steer_bench.models.steered.steering import Steerer
from steer_bench.models.steered.trunk import shared_trunk

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


def is_plain(model: PreTrainedModel) -> bool:
    """Return whether greedy decoding of this model is the argmax of every step, on a cache whose rows can be chosen."""
    supported = getattr(model, "_supports_default_dynamic_cache", None)
    if supported is None or not supported() or model.config.is_encoder_decoder:
        return False
    layers = new_cache(model).layers
    if len(layers) != model.config.get_text_config(decoder=True).num_hidden_layers:
        return False  # blocks that share a cache
    if not all(isinstance(layer, DynamicLayer) for layer in layers):
        return False  # the states of linear attention, convolutions, state spaces: rows of these cannot be chosen
    given = {key: value for key, value in model.generation_config.to_diff_dict().items() if key not in PLAIN}
    return all(value in (None, False, 0) or OFF.get(key) == value for key, value in given.items())


class PreallocatedLayer(DynamicLayer):
    """A block's cache as transformers has it, whose memory has room for ROOM more tokens: a step copies its own, not all before it.

    Where anything else has changed `keys` (rows chosen, tokens cut), the next update takes them up as they are.
    """

    _memory: tuple[Tensor, Tensor] | None = None
    _shown: tuple[Tensor, Tensor] | None = None
    """`keys` and `values` as the last update left them, views of `_memory`."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Return all keys and values so far, (rows, heads, tokens, width) each, as DynamicLayer does."""
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
    """Return memory (rows, heads, before + new + ROOM, width) that begins with the `before` old ones."""
    memory = new.new_empty(*new.shape[:2], before + new.shape[-2] + ROOM, new.shape[-1])
    if before and old is not None:
        memory[:, :, :before] = old
    return memory


def new_cache(model: PreTrainedModel) -> DynamicCache:
    """Return an empty cache with one layer per decoder block."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    cache.layers = [PreallocatedLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


@cache
def cache_name(forward: Callable[..., object]) -> str:
    """Return what a model's `forward` calls its cache: `cache` since transformers 5.24."""
    return "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"


def forward(model: PreTrainedModel, ids: Tensor, mask: Tensor, past: Cache, *, keep: int = 1) -> Tensor:
    """Return logits of the last `keep` positions; the cache grows by `ids`. mask: (rows, cached + new), 0 where there is padding."""
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)[:, -ids.shape[1] :]
    named = {cache_name(type(model).forward): past}
    return model(
        input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=keep, **named
    ).logits


Step = Callable[[Tensor], Tensor]
"""One more token for each row of a batch: (rows,) -> logits (rows, 1, vocab)"""


@dataclass(frozen=True)
class RowSteering:
    """How the rows of a batch are steered."""

    steerer: Steerer
    added: Tensor
    """(rows, 1, d_model): what is added to each row"""
    starts: Tensor
    """(rows,): first steered position of each row, without padding"""
    blocks: Sequence[torch.nn.Module] = ()
    """Blocks 0 to the steered one, which are run once a distinct prompt; none given, nothing is shared."""


@dataclass
class GrowingStep:
    """The step on a cache that grows."""

    model: PreTrainedModel
    past: Cache
    mask: Tensor
    """(rows, tokens in the cache): 0 where there is padding"""
    steerer: Steerer | None = None
    added: Tensor | None = None
    """(rows, 1, d_model), or None where no row is steered"""

    def __call__(self, tokens: Tensor) -> Tensor:
        """See `Step`."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        steered = nullcontext() if self.added is None or self.steerer is None else self.steerer.steering(self.added)
        with steered, grouped_heads(self.model):
            return forward(self.model, tokens[:, None], self.mask, self.past)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        self.past.batch_select_indices(rows)
        self.mask = self.mask[rows]
        self.added = self.added[rows] if self.added is not None else None

    def copy(self) -> GrowingStep:
        """Return the same step with its own cache."""
        return replace(self, past=copy.deepcopy(self.past))


Faster = Callable[[GrowingStep, Tensor, int], Step | None]
"""Asked for a faster step, once the prompts are read: (step, next tokens (rows,), most new tokens) -> step or None."""


def read_prompts(
    model: PreTrainedModel,
    prompts: Sequence[tuple[int, ...]],
    *,
    pad: int,
    device: torch.device | str,
    steering: RowSteering | None = None,
) -> tuple[GrowingStep, Tensor]:
    """Read the prompts, each distinct one as far as possible once: the step that goes on, and logits (rows, 1, vocab)."""
    distinct = list(dict.fromkeys(prompts))
    place = {prompt: i for i, prompt in enumerate(distinct)}
    index = torch.tensor([place[prompt] for prompt in prompts], device=device)
    ids, mask = left_padded(distinct, pad, device)
    past = new_cache(model)
    if steering is None:  # rows of one prompt stay the same: the whole prompt is shared
        logits = forward(model, ids, mask, past)[index]
        past.batch_select_indices(index)
        return GrowingStep(model, past, mask[index]), logits
    added = steering.added.to(device, model.dtype)
    starts = steering.starts.to(device) + (mask == 0).sum(dim=1)[index]
    steered = steering.steerer.steering(added, starts if bool(starts.any()) else None)
    blocks = steering.blocks if len(distinct) < len(prompts) else ()
    if blocks:
        trunk_past = new_cache(model)
        (trunk,) = outputs_of(blocks[-1:], lambda: forward(model, ids, mask, trunk_past))
        with shared_trunk(blocks, trunk, index), steered:
            logits = forward(model, ids[index], mask[index], past)
        for i in range(len(blocks)):
            trunk_past.layers[i].batch_select_indices(index)  # type: ignore[union-attr]
            past.layers[i] = trunk_past.layers[i]
    else:
        with steered:
            logits = forward(model, ids[index], mask[index], past)
    return GrowingStep(model, past, mask[index], steering.steerer, added), logits


class Written(NamedTuple):
    """New tokens of a row."""

    tokens: list[int]
    """The one that finished the row included."""
    bad_step: int | None
    """The first step whose logits were NaN or +Inf, if one was; 0 picks the first token."""


def greedy(
    read: tuple[GrowingStep, Tensor],
    *,
    max_new_tokens: int,
    is_finished: Callable[[list[int]], bool],
    faster: Faster | None = None,
) -> list[Written]:
    """Return the greedy continuation of each row that `read_prompts` has read."""
    growing, logits = read
    step: Step = growing
    rows = list(range(len(logits)))  # which reply each row of the batch is
    running = list(rows)  # rows of the batch that are not finished
    replies: list[list[int]] = [[] for _ in rows]
    bad: dict[int, int] = {}
    for i in range(max_new_tokens):
        highest, tokens = logits[:, -1].max(dim=-1)  # on ties the first, as argmax, which is 4 times slower in bfloat16
        chosen, finite = tokens.tolist(), torch.isfinite(highest).tolist()
        for row in running:
            replies[rows[row]].append(chosen[row])
            if not finite[row]:
                bad.setdefault(rows[row], i)
        running = [row for row in running if not is_finished(replies[rows[row]])]
        if not running or i == max_new_tokens - 1:
            break
        if i == 0 and faster is not None:
            step = faster(growing, tokens, max_new_tokens) or growing
        if step is growing and len(running) <= FULL * len(rows):
            kept = torch.tensor(running, device=tokens.device)
            growing.keep(kept)
            tokens = tokens[kept]
            rows, running = [rows[row] for row in running], list(range(len(running)))
        logits = step(tokens)
    return [Written(reply, bad.get(i)) for i, reply in enumerate(replies)]
