"""Requests and answers: what a steered model is asked, as token ids with a steering, and what it says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from steer_bench.models.steered.steering import Steering

Number = float | str | None
"""A number in a record: JSON has no NaN, which stands there as text."""


class ScoreRow(NamedTuple):
    """Tokens to score: log p(continuation | context) under a steering."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    steering: Steering
    start: int
    """First position that is steered."""
    kl: bool = False
    """Whether the divergence from the unsteered model is wanted as well."""
    as_hf: bool = False
    """Unsteered rows: whether lm-eval's `hf` is to be repeated to the bit, whose softmax and sum have the precision of the model."""

    @property
    def input(self) -> tuple[int, ...]:
        """What the model reads: everything but the last token."""
        return (*self.context, *self.continuation)[:-1]


class Score(NamedTuple):
    """How likely the model finds a row's continuation."""

    log_likelihood: float
    """Nats, the sum over the tokens."""
    is_greedy: bool
    """Whether greedy decoding gives the continuation."""
    n_tokens: int
    kl: float | None = None
    """Sum over tokens of KL(unsteered || steered), nats; None where it was not asked for."""

    def record(self) -> list[Number]:
        """Return the form that is kept in records."""
        return [_plain(self.log_likelihood), self.is_greedy, *([] if self.kl is None else [_plain(self.kl)])]

    @classmethod
    def from_record(cls, record: Sequence[float], n_tokens: int) -> Score:
        """Read what `record` wrote."""
        value, greedy, *kl = record
        return cls(float(value), bool(greedy), n_tokens, float(kl[0]) if kl else None)


class ReplyRow(NamedTuple):
    """A prompt to continue under a steering."""

    prompt: tuple[int, ...]
    steering: Steering
    start: int
    perplexity: bool
    """Whether the reply's perplexity under the unsteered model is wanted."""
    sample: int = 0
    """Which of several replies to the same request; always 0 in greedy decoding."""
    repeat: int = 0
    """How often the same request and sample stood before it in the list; always 0 in greedy decoding."""


class Reply(NamedTuple):
    """A reply, with what the unsteered model makes of it."""

    text: str
    perplexity: float | None = None
    """Perplexity of the generated tokens under the unsteered model; None when not asked for or there is no token."""
    n_tokens: int = 0
    invalid: str = ""
    """Why the reply must not be scored: `non_finite` where it was picked from logits that are NaN or infinite."""

    def record(self) -> list[Number]:
        """Return the form that is kept in records."""
        return [self.text, self.perplexity, self.n_tokens, *([self.invalid] if self.invalid else [])]


@dataclass(frozen=True)
class ReplySettings:
    """How a group of replies is generated."""

    until: tuple[str, ...]
    """A reply ends before the first of these."""
    max_new_tokens: int
    options: str = '{"do_sample": false}'
    """Anything else that transformers' `generate` takes, as canonical JSON."""
    sampling: str = ""
    """temperature, top_k, top_p and min_p as canonical JSON; "" for greedy decoding."""

    @classmethod
    def sampled(cls, max_new_tokens: int, *, temperature: float, top_k: int = 0) -> ReplySettings:
        """Return settings for replies drawn at a temperature; 0 is greedy decoding."""
        drawn = {"temperature": float(temperature), **({"top_k": top_k} if top_k else {})} if temperature else None
        return cls((), max_new_tokens, sampling=json.dumps(drawn, sort_keys=True) if drawn else "")

    @property
    def is_greedy(self) -> bool:
        """Whether replies are plain greedy decoding, with no option that only `generate` knows."""
        return not self.sampling and json.loads(self.options) == {"do_sample": False}


def _plain(value: float) -> float | str:
    """Return a number as JSON holds it: NaN and Inf as text, so that an invalid sample stays visible."""
    return value if value - value == 0 else str(value)
