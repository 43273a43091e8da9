"""Activations: residual-stream values of one layer or several, streamed over texts.

    texts -> token ids, end offsets -> forward pass stopped at the layer -> [activations] -> sums, moments, pairs

Every reader here takes a model and texts and keeps only what it accumulates, in float64: memory does not grow with the
number of texts. Which tokens are read: every token but padding, BOS and, for a tokenizer without BOS, the first token,
which is that model's attention sink.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from steer_bench.models.device import sizes
from steer_bench.models.load import Loaded, decoder_layers

MAX_TOKENS = 512
"""Longer texts are cut: concept passages and neutral paragraphs are far shorter."""
TEXTS_AT_ONCE = 1000
"""Texts given to the tokenizer in one call: what it says of them takes many times the memory of what is kept."""
FIRST_READ = 1
"""Position 0 is never read: it is the BOS, or the first token of a model without BOS, which is that model's sink."""
SINK_RATIO = 5.0
"""A token whose norm is more than this many times its text's median norm is an attention sink."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One tokenised text."""

    ids: Sequence[int]
    ends: Sequence[int]
    """Characters of the text that each token has read to the end; 0 for one that ends within a character, and for a BOS."""


def tokenize(loaded: Loaded, texts: Sequence[str]) -> list[Tokens]:
    """Token ids with exactly one leading BOS (or none, as the tokenizer has it), and end offsets."""
    return list(_tokenized(loaded, texts))


def _tokenized(loaded: Loaded, texts: Sequence[str]) -> Iterator[Tokens]:
    bos = loaded.tokenizer.bos_token_id
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        part = list(texts[start : start + TEXTS_AT_ONCE])
        batch = loaded.tokenizer(part, return_offsets_mapping=True, truncation=True, max_length=MAX_TOKENS)
        for ids, offsets in zip(batch.input_ids, batch.offset_mapping, strict=True):
            doubled = int(bos is not None and ids[:2] == [bos, bos])  # the text itself begins with one
            yield Tokens(tuple(ids[doubled:]), _ends(offsets[doubled:]))


def _ends(offsets: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """End of each token; 0 where the next token starts before it, and so goes on with the same character.

    Tokenizers give every byte of one emoji the emoji's offsets, and a space put in front of a text its first character's.

    >>> _ends([(0, 0), (0, 1), (0, 2), (2, 3), (2, 3)])
    (0, 0, 2, 0, 3)
    """
    following = [*offsets[1:], (0, 0)]  # (0, 0) is a special token: it reads nothing
    return tuple(
        0 if start < end and last > 0 else end for (_, end), (start, last) in zip(offsets, following, strict=True)
    )


class _Stop(Exception):
    """Ends a forward pass at the last layer that was asked for."""


@contextmanager
def _stopped_at(blocks: Sequence[Any]) -> Iterator[list[Tensor]]:
    """Within the block, forward passes leave the outputs of these blocks in the list, and raise `_Stop` after the last."""
    caught: list[Tensor] = []

    def hook(_module: Any, _args: Any, output: Any) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)
        if len(caught) == len(blocks):
            raise _Stop

    handles = [block.register_forward_hook(hook) for block in blocks]
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first, each of at most `budget` padded tokens (at least one text).

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
    """(index of the text, its activations (n_tokens, d_model) float32, BOS and padding included) at one layer.

    Blocks after `layer` are not run. Texts come out in order of length, not in the order given.
    """
    for index, (states,) in stream_layers(loaded, [layer], texts, desc=desc):
        yield index, states


@torch.inference_mode()
def stream_layers(
    loaded: Loaded, layers: Sequence[int], texts: Sequence[Tokens], *, desc: str | None = None
) -> Iterator[tuple[int, list[Tensor]]]:
    """`stream` of several layers, ascending, in one pass: (index of the text, its activations at each of them)."""
    if not layers or list(layers) != sorted(set(layers)):
        raise ValueError(f"layers {list(layers)}: give at least one, each once, ascending")
    blocks, pad = decoder_layers(loaded.model), loaded.tokenizer.pad_token_id or 0
    with tqdm(total=len(texts), desc=desc, disable=None if desc else True, unit="text") as bar:
        for batch in batches([len(text.ids) for text in texts], sizes(loaded.device).tokens):
            width = max(len(texts[i].ids) for i in batch)
            ids = torch.full((len(batch), width), pad)
            mask = torch.zeros_like(ids)
            for row, i in enumerate(batch):
                ids[row, : len(texts[i].ids)] = torch.tensor(texts[i].ids)
                mask[row, : len(texts[i].ids)] = 1
            with _stopped_at([blocks[layer] for layer in layers]) as caught, suppress(_Stop):
                loaded.model(input_ids=ids.to(loaded.device), attention_mask=mask.to(loaded.device), use_cache=False)
            for row, i in enumerate(batch):
                yield i, [hidden[row, : len(texts[i].ids)].float() for hidden in caught]
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
    groups: Mapping[str, Sequence[str]],
    *,
    maps: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    desc: str | None = None,
) -> dict[str, dict[str, Mean]]:
    """Mean over tokens of f(activation), for every map f and every group of texts: {map: {group: mean}}.

    A text shared by several groups is run once. Without `maps` the only map is "" (the activation itself). Raises
    ValueError where an activation is not finite.
    """
    maps = maps or {"": lambda activations: activations}

    def mapped(states: list[Tensor]) -> dict[str, Tensor]:
        return {name: function(states[0]) for name, function in maps.items()}

    return _means(loaded, [layer], groups, mapped, desc)


def layer_means(
    loaded: Loaded, layers: Sequence[int], groups: Mapping[str, Sequence[str]], *, desc: str | None = None
) -> dict[int, dict[str, Mean]]:
    """Mean over tokens of the activation, for every layer and every group of texts, in one pass: {layer: {group: mean}}."""
    return _means(loaded, layers, groups, lambda states: dict(zip(layers, states, strict=True)), desc)


Name = TypeVar("Name", str, int)


def _means(
    loaded: Loaded, layers: Sequence[int], groups: Mapping[str, Sequence[str]],
    read: Callable[[list[Tensor]], dict[Name, Tensor]], desc: str | None,
) -> dict[Name, dict[str, Mean]]:  # fmt: skip
    """Means over tokens of what `read` makes of a text's activations (n_read, d_model) at the layers."""
    members: dict[str, list[str]] = {}
    for group, group_texts in groups.items():
        for text in group_texts:
            members.setdefault(text, []).append(group)
    unique = list(members)
    sums: dict[Name, dict[str, Tensor]] = {}
    counts = dict.fromkeys(groups, 0)
    tokens = [Tokens(array("i", text.ids), ()) for text in _tokenized(loaded, unique)]
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
        raise ValueError(f"{loaded.name}: no token to read in the texts of {', '.join(empty[:3])}")
    return {
        name: {group: Mean((total / counts[group]).cpu(), counts[group]) for group, total in of_name.items()}
        for name, of_name in sums.items()
    }


def text_means(loaded: Loaded, layer: int, texts: Sequence[str], *, desc: str | None = None) -> Tensor:
    """(n_texts, d_model) float32: mean activation of each text over the tokens read, in the order of the texts."""
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
    """S: median over tokens of the norm of (activation - mean activation), attention sinks left out.

    The unit of all factors (DESIGN: not the raw norm, of which a few massive dimensions are nearly all in Gemma).
    """
    tokens = tokenize(loaded, texts)
    states = torch.cat([_without_sinks(hidden[FIRST_READ:]).cpu() for _, hidden in stream(loaded, layer, tokens)])
    return float((states - states.mean(dim=0)).norm(dim=1).median())


def _without_sinks(states: Tensor) -> Tensor:
    """(n, d_model) -> (n_kept, d_model)"""
    return states[_not_sink(states)]


def _not_sink(states: Tensor) -> Tensor:
    """(n, d_model) -> (n,) bool"""
    norms = states.norm(dim=-1)
    return norms <= SINK_RATIO * norms.median()


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
                keep = _not_sink(x).cpu() & _not_sink(y).cpu()
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
