"""Activations: residual-stream values of one layer or several, streamed over texts.

    texts -> token ids, end offsets -> forward pass stopped at the layer -> [activations] -> sums

Memory does not grow with the number of texts: only sums are kept, in float64. Every token is read but padding, the BOS and, for a
tokenizer without BOS, the first token, which is that model's attention sink.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor
from tqdm.auto import tqdm

from steer_bench.models.blocks import d_model, decoder_layers, outputs_of, states_of
from steer_bench.models.device import sizes
from steer_bench.models.load import Loaded
from steer_bench.models.padding import right_padded
from steer_bench.models.tokens import Tokens, tokenize, tokenized

FIRST_READ = 1
"""Position 0 is never read: it is the BOS, or the first token of a model without BOS, which is that model's sink."""
SINK_RATIO = 5.0
"""A token whose norm is more than this many times its text's median norm is an attention sink."""

Group = TypeVar("Group", bound=Hashable)
"""The name of a group of texts."""
Name = TypeVar("Name", str, int)


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield indices in batches of similar length, longest first, each of at most `budget` padded tokens (at least one text).

    >>> list(batches([3, 9, 4], budget=9))
    [[1], [2, 0]]
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batch: list[int] = []
    for index in order:
        if batch and lengths[batch[0]] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def stream(
    loaded: Loaded, layer: int, texts: Sequence[Tokens], *, desc: str | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Yield (index of a text, its activations (n_tokens, d_model) float32, BOS included) at one layer.

    Blocks after `layer` are not run. Texts come in the order of their lengths, longest first, not in the order given.
    """
    for index, (states,) in stream_layers(loaded, [layer], texts, desc=desc):
        yield index, states


@torch.inference_mode()
def stream_layers(
    loaded: Loaded, layers: Sequence[int], texts: Sequence[Tokens], *, desc: str | None = None
) -> Iterator[tuple[int, list[Tensor]]]:
    """Yield (index of a text, its activations at each of `layers`), as `stream`; layers: ascending, all read in one pass."""
    if not layers or list(layers) != sorted(set(layers)):
        raise ValueError(f"layers {list(layers)}: give at least one, each once, ascending")
    blocks, pad = decoder_layers(loaded.model), loaded.tokenizer.pad_token_id or 0
    with tqdm(total=len(texts), desc=desc, disable=None if desc else True, unit="text") as bar:
        for batch in batches([len(text.ids) for text in texts], sizes(loaded.device).tokens):
            ids, mask = right_padded([texts[i].ids for i in batch], pad, loaded.device)
            run = partial(loaded.model, input_ids=ids, attention_mask=mask, use_cache=False)
            states = [states_of(output) for output in outputs_of([blocks[layer] for layer in layers], run)]
            for hidden in states:
                if hidden.shape != (*ids.shape, d_model(loaded.model)):
                    raise ValueError(
                        f"a block of {loaded.name} gives {tuple(hidden.shape)} for {len(batch)} texts of {ids.shape[1]} tokens, not "
                        f"(texts, tokens, d_model = {d_model(loaded.model)}): its residual stream is not one vector per token"
                    )
            for row, i in enumerate(batch):
                yield i, [hidden[row, : len(texts[i].ids)].float() for hidden in states]
            bar.update(len(batch))


@dataclass(frozen=True)
class Mean:
    """Mean activation of a group of texts, over all tokens read."""

    value: Tensor
    """(d_model,) float64"""
    n_tokens: int


def mean_activations(
    loaded: Loaded,
    layer: int,
    groups: Mapping[Group, Sequence[str]],
    *,
    maps: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    desc: str | None = None,
) -> dict[str, dict[Group, Mean]]:
    """Return the mean over tokens of f(activation), for every map f and every group of texts: {map: {group: mean}}.

    A text shared by several groups is run once. Without `maps` the only map is "" (the activation itself). Raises
    ValueError where an activation is not finite.
    """
    maps = maps or {"": lambda activations: activations}

    def mapped(states: list[Tensor]) -> dict[str, Tensor]:
        return {name: function(states[0]) for name, function in maps.items()}

    return _means(loaded, [layer], groups, mapped, desc)


def layer_means(
    loaded: Loaded, layers: Sequence[int], groups: Mapping[Group, Sequence[str]], *, desc: str | None = None
) -> dict[int, dict[Group, Mean]]:
    """Return the mean activation at every layer of every group of texts, in one pass: {layer: {group: mean}}."""
    return _means(loaded, layers, groups, lambda states: dict(zip(layers, states, strict=True)), desc)


def _means(
    loaded: Loaded, layers: Sequence[int], groups: Mapping[Group, Sequence[str]],
    read: Callable[[list[Tensor]], dict[Name, Tensor]], desc: str | None,
) -> dict[Name, dict[Group, Mean]]:  # fmt: skip
    """Return means over tokens of what `read` makes of a text's activations (n_read, d_model) at the layers."""
    members: dict[str, list[Group]] = {}
    for group, group_texts in groups.items():
        for text in group_texts:
            members.setdefault(text, []).append(group)
    unique = list(members)
    sums: dict[Name, dict[Group, Tensor]] = {}
    counts = dict.fromkeys(groups, 0)
    tokens = [Tokens(array("i", text.ids), ()) for text in tokenized(loaded, unique)]
    for i, hidden in stream_layers(loaded, layers, tokens, desc=desc):
        states = [of_layer[FIRST_READ:] for of_layer in hidden]
        for group in members[unique[i]]:
            counts[group] += len(states[0])
        for name, values in read(states).items():
            total = values.double().sum(dim=0)
            if not torch.isfinite(total).all():
                at = name if isinstance(name, int) else layers[0]
                raise ValueError(f"{loaded.name}, layer {at}: activations are not finite; try dtype float32")
            of_name = sums.setdefault(name, {})
            for group in members[unique[i]]:
                of_name[group] = of_name.get(group, 0) + total
    empty = [group for group, count in counts.items() if count == 0]
    if empty:
        raise ValueError(f"{loaded.name}: no token to read in the texts of {', '.join(map(str, empty[:3]))}")
    return {
        name: {group: Mean((total / counts[group]).cpu(), counts[group]) for group, total in of_name.items()}
        for name, of_name in sums.items()
    }


def text_means(loaded: Loaded, layer: int, texts: Sequence[str], *, desc: str | None = None) -> Tensor:
    """Return the mean activation of each text over the tokens read, (n_texts, d_model) float32, in order."""
    tokens = tokenize(loaded, texts)
    means: list[Tensor] = [torch.empty(0)] * len(texts)
    for i, hidden in stream(loaded, layer, tokens, desc=desc):
        if len(hidden) <= FIRST_READ:
            raise ValueError(f"{loaded.name}: no token to read in the text {texts[i][:40]!r}")
        means[i] = hidden[FIRST_READ:].mean(dim=0).cpu()
    stacked = torch.stack(means)
    if not torch.isfinite(stacked).all():
        raise ValueError(f"{loaded.name}, layer {layer}: activations are not finite; try dtype float32")
    return stacked


def centred_norm(loaded: Loaded, layer: int, texts: Sequence[str]) -> float:
    """Return S, the unit of all factors: the median norm of (activation - mean activation) over tokens, without attention sinks.

    It is not the raw norm, of which a few massive dimensions are nearly all in Gemma.
    """
    return centred_norms(loaded, [layer], texts)[layer]


def centred_norms(loaded: Loaded, layers: Sequence[int], texts: Sequence[str]) -> dict[int, float]:
    """Return S at each of `layers`, as `centred_norm`, in one pass."""
    states: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for _, hidden in stream_layers(loaded, layers, tokenize(loaded, texts)):
        for layer, of_layer in zip(layers, hidden, strict=True):
            states[layer].append(_without_sinks(of_layer[FIRST_READ:]))
    every = {layer: torch.cat(found) for layer, found in states.items()}
    return {layer: float((found - found.mean(dim=0)).norm(dim=1).median()) for layer, found in every.items()}


def _without_sinks(states: Tensor) -> Tensor:
    return states[not_sink(states)].cpu()


def not_sink(states: Tensor) -> Tensor:
    """Return which of the activations (n, d_model) of one text are of no attention sink, (n,) bool."""
    norms = states.norm(dim=-1)
    return norms <= SINK_RATIO * norms.median()
