"""Requests and answers: what the model is asked, as tokens with a steering, and what it says, as lm-eval takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from steer_bench.models.steered.steering import Steering


class Reply(str):
    """A reply, with what the unsteered model makes of it. Compares and prints as its text."""

    perplexity: float | None = None
    """Of the generated tokens under the unsteered model; None when not asked for or there is no token."""
    n_tokens: int = 0
    invalid: str = ""
    """Why the reply must not be scored: `non_finite` where it was picked from logits that are no numbers."""

    def __new__(cls, text: str, perplexity: float | None = None, n_tokens: int = 0, invalid: str = "") -> Reply:  # noqa: D102
        reply = super().__new__(cls, text)
        reply.perplexity, reply.n_tokens, reply.invalid = perplexity, n_tokens, invalid
        return reply

    def __getnewargs__(self) -> tuple[str, float | None, int, str]:  # type: ignore[override]
        return str(self), self.perplexity, self.n_tokens, self.invalid


class LogLikelihood(tuple[float, bool]):
    """lm-eval's (log-likelihood, is greedy), with the number of tokens it is the sum over."""

    n_tokens: int

    def __new__(cls, value: float, greedy: bool, n_tokens: int) -> LogLikelihood:  # noqa: D102
        answer = super().__new__(cls, (value, greedy))
        answer.n_tokens = n_tokens
        return answer

    def __getnewargs__(self) -> tuple[float, bool, int]:
        return self[0], self[1], self.n_tokens


class RollingLogLikelihood(float):
    """The log-likelihood of a whole text, with the number of tokens it is the sum over."""

    n_tokens: int
    kl: float | None = None
    """Mean over tokens of KL(unsteered || steered), nats; None when not asked for or not steered."""

    def __new__(cls, value: float, n_tokens: int, kl: float | None = None) -> RollingLogLikelihood:  # noqa: D102
        answer = super().__new__(cls, value)
        answer.n_tokens, answer.kl = n_tokens, kl
        return answer

    def __getnewargs__(self) -> tuple[float, int, float | None]:  # type: ignore[override]
        return float(self), self.n_tokens, self.kl


class Scored(NamedTuple):
    """Tokens to score: log p(continuation | context) under a steering."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    steering: Steering
    start: int
    """First position that is steered."""
    kl: bool = False
    """Whether the divergence from the unsteered model is wanted as well."""

    @property
    def input(self) -> tuple[int, ...]:
        """What the model reads: everything but the last token."""
        return (*self.context, *self.continuation)[:-1]


class Generation(NamedTuple):
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


@dataclass(frozen=True)
class Settings:
    """Generation settings of a group of requests."""

    until: tuple[str, ...]
    max_new_tokens: int
    kwargs: str
    """Anything else `generate` takes, as canonical JSON."""
    sampling: str = ""
    """temperature, top_k, top_p and min_p as canonical JSON; "" for greedy decoding."""
