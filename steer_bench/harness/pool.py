"""Pool: requests without a steering, answered for all steerings of a sweep at once.

lm-eval asks its model for one steering after the other. The first question is answered for all of them, so that texts share their
trunk and batches are full, and the rest is at hand.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

from lm_eval.api.instance import Instance

from steer_bench.models.steered.steering import Steering

Answer = TypeVar("Answer")


class Pool:
    """The steerings of a sweep, and the answers found so far. Without steerings every request is asked as it is."""

    def __init__(self) -> None:
        self.steerings: tuple[Steering, ...] = ()
        self._answers: dict[str, dict[Steering, Any]] = {}

    def ask(
        self, ask: Callable[[list[Instance], bool], list[Answer]], requests: list[Instance], quiet: bool, now: Steering
    ) -> list[Answer]:
        """Return the answers under the steering `now`, those to the whole pool asked for by `ask` where they are new."""
        if now not in self.steerings or any(_is_steered(request) for request in requests):
            return ask(requests, quiet)
        asked = [json.dumps([r.request_type, *r.args], sort_keys=True, default=str) for r in requests]
        repeats: Counter[str] = Counter()  # a request that is repeated gets as many replies, each its own draw
        names = []
        for text in asked:
            names.append(f"{text}#{repeats[text]}")
            repeats[text] += 1
        new = {name: r for name, r in zip(names, requests, strict=True) if name not in self._answers}
        jobs = [
            Instance(
                request.request_type, request.doc, (*request.args, {"steer": asdict(steering), "compared": True}), 0
            )
            for request in new.values()
            for steering in self.steerings
        ]
        answers = iter(ask(jobs, quiet) if jobs else [])
        for name in new:
            self._answers[name] = {steering: next(answers) for steering in self.steerings}
        return [self._answers[name][now] for name in names]


def _is_steered(request: Instance) -> bool:
    return len(request.args) > (request.request_type != "loglikelihood_rolling") + 1
