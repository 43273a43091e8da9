"""Answers as lm-eval takes them: a text, a pair, a number, each with what our tasks read beside it."""

from __future__ import annotations

import math

from steer_bench.models.steered.requests import Score


class ReplyText(str):
    """A reply, with what the unsteered model makes of it. Compares and prints as its text. numpy makes one of plain text alone."""

    perplexity: float | None = None
    """Perplexity of the generated tokens under the unsteered model; None when not asked for or there is no token."""
    n_tokens: int = 0
    invalid: str = ""
    """Why the reply must not be scored; "" where it may."""

    def __new__(cls, text: str, perplexity: float | None = None, n_tokens: int = 0, invalid: str = "") -> ReplyText:  # noqa: D102
        answer = super().__new__(cls, text)
        answer.perplexity, answer.n_tokens, answer.invalid = perplexity, n_tokens, invalid
        return answer

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
    """Mean over tokens of KL(unsteered || steered), nats; None when not asked for, not steered or not finite."""

    def __new__(cls, value: float, n_tokens: int, kl: float | None = None) -> RollingLogLikelihood:  # noqa: D102
        answer = super().__new__(cls, value)
        answer.n_tokens, answer.kl = n_tokens, kl
        return answer

    def __getnewargs__(self) -> tuple[float, int, float | None]:  # type: ignore[override]
        return float(self), self.n_tokens, self.kl


def rolling_answer(score: Score) -> RollingLogLikelihood:
    """Return a whole text's score as lm-eval takes it."""
    total, n = score.kl, score.n_tokens
    mean = total / n if total is not None and n and math.isfinite(total) else None
    return RollingLogLikelihood(score.log_likelihood, n, mean)
