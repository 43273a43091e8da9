"""What a request asks for beside its text: the last argument that our tasks give it."""

from __future__ import annotations

from typing import Any, NamedTuple

from lm_eval.api.instance import Instance

from steer_bench.models.steered.steering import Steering


class Asked(NamedTuple):
    """What a request asks for beside its text."""

    steering: Steering
    perplexity: bool = False
    """Whether the perplexity of its reply is wanted."""
    kl: bool = False
    """Whether the divergence from the unsteered model is wanted."""
    sample: int = 0
    """Which of several replies it is."""
    as_hf: bool = False
    """Whether an unsteered answer is that of `hf` to the bit; one that is compared with steered answers is computed as they are."""


def extra_of(request: Instance) -> dict[str, Any] | None:
    """Return what our tasks add to a request's arguments, {"steer": …}; None where it is a request of another task."""
    last = request.args[-1]
    return last if isinstance(last, dict) and "steer" in last else None
