"""Screening: how much each vector of a bank would raise the log-likelihood of texts, estimated for all vectors at once.

    texts -> trunk -> gradient of the log-likelihood at the steered layer -> product with the bank -> first-order lifts
    the best, and a random sample -> exact lifts, one pass for each -> rank correlation

A gradient costs one forward and one backward pass per text, however many vectors there are. It is averaged over points between
zero and the mean of the bank (Gauss-Legendre), and so holds what all vectors do alike, which is most of what bends the curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from steer_bench.models.activations import batches
from steer_bench.models.blocks import BlockOutput, decoder_layers, outputs_of
from steer_bench.models.device import sizes
from steer_bench.models.load import Loaded
from steer_bench.models.padding import right_padded
from steer_bench.models.steered.likelihood import head_at, token_scores
from steer_bench.models.steered.steering import Steerer
from steer_bench.models.steered.trunk import shared_trunk
from steer_bench.models.tokens import encode

LOGIT_BYTES = 12
"""Memory of one logit: its float32 copy, the gradient of that, and both in the model's dtype."""


@dataclass(frozen=True)
class Screening:
    """Lifts of the bank's vectors, in nats per token."""

    first_order: np.ndarray
    """(n,), one per vector."""
    exact: dict[int, float]
    """Lifts of the vectors that were run: the best and the sample."""
    sample: tuple[int, ...]
    """Vectors that were drawn at random, and run whatever their rank."""
    n_tokens: int

    @property
    def order(self) -> list[int]:
        """The vectors, largest first-order lift first."""
        return [int(i) for i in np.argsort(-self.first_order, kind="stable")]

    @property
    def correlation(self) -> float | None:
        """Spearman's correlation of first-order and exact lifts over the random sample; None for fewer than three vectors."""
        if len(self.sample) < 3:
            return None
        pairs = [(self.first_order[i], self.exact[i]) for i in self.sample]
        value = float(spearmanr(*zip(*pairs, strict=True)).statistic)
        return value if np.isfinite(value) else None


@dataclass(frozen=True)
class _Texts:
    """A batch of texts as the model reads them, with its trunk."""

    ids: Tensor
    rows: Tensor
    positions: Tensor
    """(n,) each: where the next token is scored."""
    wanted: Tensor
    trunk: BlockOutput


def _prepared(loaded: Loaded, layer: int, texts: Sequence[str]) -> list[_Texts]:
    """Return the texts in batches of similar length; each text follows one BOS, as in loglikelihood_rolling."""
    tokenizer = loaded.tokenizer
    prefix = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    encoded = [encode(tokenizer, text) for text in texts]
    coded = [ids if ids[:1] == [prefix] else [prefix, *ids] for ids in encoded]
    vocabulary = loaded.model.config.get_text_config(decoder=True).vocab_size
    most = sizes(loaded.device)
    budget = min(most.tokens, most.logits_bytes // (LOGIT_BYTES * vocabulary))
    out, block = [], decoder_layers(loaded.model)[layer]
    for batch in batches([len(ids) for ids in coded], budget):
        part = [coded[i] for i in batch]
        padded = right_padded([text[:-1] for text in part], device=loaded.device)[0]
        rows = torch.tensor([i for i, text in enumerate(part) for _ in text[1:]])
        positions = torch.tensor([at for text in part for at in range(len(text) - 1)])
        wanted = torch.tensor([token for text in part for token in text[1:]], device=loaded.device)
        with torch.no_grad():
            (trunk,) = outputs_of([block], partial(loaded.model, input_ids=padded, use_cache=False))
        out.append(_Texts(padded, rows, positions, wanted, trunk))
    return out


class _Lifts:
    """The log-likelihood of prepared texts as a function of what is added at the layer."""

    def __init__(self, loaded: Loaded, layer: int, texts: Sequence[str]) -> None:
        if not texts:
            raise ValueError("no texts to screen on; give a file with at least one")
        self.model = loaded.model
        self.blocks = list(decoder_layers(self.model))[: layer + 1]
        self.steerer = Steerer(self.blocks[-1])
        self.batches = _prepared(loaded, layer, texts)
        self.n_tokens = sum(len(batch.wanted) for batch in self.batches)

    def logits(self, batch: _Texts, added: Tensor | None) -> Tensor:
        """Return logits (scored tokens, vocab) with `added` (1, 1, d_model) on every token but the BOS."""
        starts = torch.ones(len(batch.ids), dtype=torch.long)
        steered = nullcontext() if added is None else self.steerer.steering(added.expand(len(starts), 1, -1), starts)
        every = torch.arange(len(batch.ids), device=batch.ids.device)
        with shared_trunk(self.blocks, batch.trunk, every), steered, head_at(self.model, batch.rows, batch.positions):
            return self.model(input_ids=batch.ids, use_cache=False).logits[0]

    def value(self, added: Tensor | None) -> float:
        """Return the log-likelihood of all texts, in nats."""
        with torch.no_grad():
            return sum(float(token_scores(self.logits(b, added), b.wanted)[0].sum()) for b in self.batches)

    def gradient(self, added: Tensor) -> Tensor:
        """Return the gradient of the log-likelihood of all texts at `added`, (d_model,) float64."""
        total = torch.zeros_like(added, dtype=torch.float64)
        for batch in self.batches:
            point = added.detach().clone().requires_grad_(True)
            with torch.enable_grad():
                logits = self.logits(batch, point)
                loss = torch.nn.functional.cross_entropy(logits.float(), batch.wanted, reduction="sum")
            (found,) = torch.autograd.grad(loss, point)
            total -= found
        return total.cpu().flatten()


def screen(
    loaded: Loaded,
    layer: int,
    texts: Sequence[str],
    bank: Tensor,
    *, points: int = 1, top: int = 20, sample: int = 20, seed: int = 0,
) -> Screening:  # fmt: skip
    """Return first-order lifts of every vector of `bank` (n, d_model), as it would be added, and exact lifts of the best.

    points: how many gradients are averaged; 1 is the gradient where nothing is added. Raises ValueError for a bank that does not
    fit the model.
    """
    width = loaded.model.config.get_text_config(decoder=True).hidden_size
    if bank.ndim != 2 or bank.shape[1] != width or not len(bank):
        raise ValueError(
            f"{loaded.name} has d_model {width}, the bank {tuple(bank.shape)}; give (vectors, d_model) of this model"
        )
    if points < 1:
        raise ValueError(f"points {points}: give at least 1")
    lifts = _Lifts(loaded, layer, texts)
    try:
        mean = bank.float().mean(dim=0)
        nodes, weights = np.polynomial.legendre.leggauss(points) if points > 1 else (np.array([-1.0]), np.array([2.0]))
        gradient = torch.zeros(width, dtype=torch.float64)
        for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            at = (float(node) * mean).to(loaded.device).reshape(1, 1, -1)
            gradient += float(weight) * lifts.gradient(at)
        first = (bank.double().cpu() @ gradient).numpy() / lifts.n_tokens
        if not np.isfinite(first).all():
            raise ValueError(f"{loaded.name}, layer {layer}: gradients are not finite; try dtype float32")
        drawn = np.random.default_rng(seed).permutation(len(bank))[:sample]
        chosen = dict.fromkeys([*(int(i) for i in np.argsort(-first, kind="stable")[:top]), *(int(i) for i in drawn)])
        base = lifts.value(None)
        exact = {i: (lifts.value(bank[i].to(loaded.device).reshape(1, 1, -1)) - base) / lifts.n_tokens for i in chosen}
    finally:
        lifts.steerer.remove()
    return Screening(first, exact, tuple(int(i) for i in drawn), lifts.n_tokens)
