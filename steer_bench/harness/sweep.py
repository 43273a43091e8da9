"""Sweep: any of lm-eval's tasks under many vectors, with one loaded model and tasks built once.

    tasks -> requests, once -> [every request under every steering, in shared batches] -> a result a steering

lm-eval asks its model for one steering after the other. The model here answers the first question for all of them, so that
texts share their trunk and batches are full, and has the rest at hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from steer_bench import shipped
from steer_bench.harness.steered_lm import SteeredLM
from steer_bench.models.steered.steering import Steering


class PooledLM(SteeredLM):
    """A steered model that answers requests without a steering of their own for all steerings of `pool` at once."""

    pool: tuple[Steering, ...] = ()

    def steer(self, steering: Steering) -> None:
        """Make it the steering of requests that bring none."""
        self._default = steering

    def _pooled(
        self, ask: Callable[[list[Instance]], list[Any]], requests: list[Instance], disable_tqdm: bool
    ) -> list[Any]:
        if self._default not in self.pool or any(
            len(r.args) > (r.request_type != "loglikelihood_rolling") + 1 for r in requests
        ):
            return ask(requests, disable_tqdm)  # type: ignore[call-arg]
        known: dict[str, Any] = self.__dict__.setdefault("_answers", {})
        names = [json.dumps([r.request_type, *r.args], sort_keys=True, default=str) for r in requests]
        new = {name: request for name, request in zip(names, requests, strict=True) if name not in known}
        jobs = [
            Instance(request.request_type, request.doc, (*request.args, {"steer": asdict(steering)}), 0)
            for request in new.values()
            for steering in self.pool
        ]
        answers = iter(ask(jobs, disable_tqdm) if jobs else [])  # type: ignore[call-arg]
        for name in new:
            known[name] = {steering: next(answers) for steering in self.pool}
        return [known[name][self._default] for name in names]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Any]:
        """As SteeredLM, for the whole pool at once."""
        return self._pooled(super().loglikelihood, requests, disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Any]:
        """As SteeredLM, for the whole pool at once."""
        return self._pooled(super().loglikelihood_rolling, requests, disable_tqdm)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Any]:
        """As SteeredLM, for the whole pool at once."""
        return self._pooled(super().generate_until, requests, disable_tqdm)


def task_manager(names: Sequence[str], folder: Path | None = None) -> TaskManager:
    """lm-eval's TaskManager of our tasks and those of `folder`, and of lm-eval's own only where a name is not among these.

    lm-eval has 15,000 YAMLs, which it reads in 10 s.
    """
    paths = [shipped("tasks"), *([folder] if folder else [])]
    near = TaskManager(include_path=paths, include_defaults=False)
    known = {*near.all_subtasks}
    if all(name.endswith((".yaml", ".yml")) or name in known for name in names):
        return near
    return TaskManager(include_path=paths)


def steerings(
    known: Iterable[tuple[str, str, str]],
    *,
    arms: Sequence[str] = (),
    concepts: Sequence[str] = (),
    factors: Sequence[float] = (0.1, 0.2, 0.3),
) -> list[Steering]:
    """Unsteered, then every (arm, source, concept) of `known` that is asked for, at every factor.

    Raises ValueError for a name that is not there.
    """
    entries = sorted(known)
    for asked, there, what in (
        (arms, {a for a, _, _ in entries}, "arm"),
        (concepts, {c for *_, c in entries}, "concept"),
    ):
        for name in asked:
            if name not in there:
                raise ValueError(f"unknown {what} {name!r}; there are: {', '.join(sorted(there))}")
    chosen = [
        Steering(arm, source, concept, factor)
        for arm, source, concept in entries
        if (not arms or arm in arms) and (not concepts or concept in concepts)
        for factor in factors
    ]
    return list(dict.fromkeys([Steering(), *chosen]))


def sweep(
    lm: PooledLM,
    tasks: dict[str, Any],
    pool: Sequence[Steering],
    *,
    limit: int | None = None,
    num_fewshot: int | None = None,
    apply_chat_template: bool = False,
    log_samples: bool = False,
    seed: int = 1234,
) -> Iterator[tuple[Steering, dict[str, Any]]]:
    """(steering, what lm-eval's `evaluate` gives), one after the other; nothing on other ranks than the first.

    tasks: what lm-eval's `TaskManager.load` gives. The few-shot examples are the same for all steerings.
    """
    from lm_eval import evaluate

    for task in tasks["tasks"].values():
        if num_fewshot is not None and task.get_config("num_fewshot") != 0:
            task.set_config(key="num_fewshot", value=num_fewshot)
        elif task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
    lm.pool = tuple(pool)
    for steering in pool:
        for task in tasks["tasks"].values():
            task.set_fewshot_seed(seed=seed)
        lm.steer(steering)
        found = evaluate(
            lm=lm, task_dict=tasks, limit=limit, bootstrap_iters=0, log_samples=log_samples,
            apply_chat_template=apply_chat_template,
        )  # fmt: skip
        if found is not None:
            yield steering, found
