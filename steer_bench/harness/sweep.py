"""Sweep: any of lm-eval's tasks under many vectors, with one loaded model and tasks built once.

    tasks -> requests, once -> [every request under every steering, in shared batches] -> a result a steering

lm-eval asks its model for one steering after the other; the model answers the first question for all of them (see `pool`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lm_eval import evaluate
from lm_eval.tasks import TaskManager

from steer_bench import shipped
from steer_bench.harness.model import SteeredLM
from steer_bench.models.steered.steering import Steering


def task_manager(names: Sequence[str], folder: Path | None = None) -> TaskManager:
    """Return lm-eval's TaskManager of our tasks and those of `folder`, and of lm-eval's own only where a name is not among these.

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
    """Return unsteered, then every (arm, source, concept) of `known` that is asked for, at every factor.

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
    lm: SteeredLM,
    tasks: dict[str, Any],
    pool: Sequence[Steering],
    *,
    limit: int | None = None,
    num_fewshot: int | None = None,
    apply_chat_template: bool = False,
    log_samples: bool = False,
    seed: int = 1234,
    bootstrap_iters: int = 0,
) -> Iterator[tuple[Steering, dict[str, Any]]]:
    """Yield (steering, what lm-eval's `evaluate` gives), one after the other; nothing on other ranks than the first.

    tasks: what lm-eval's `TaskManager.load` gives. bootstrap_iters: for standard errors; none are made at 0.
    The few-shot examples are the same for all steerings.
    """
    for task in tasks["tasks"].values():
        if num_fewshot is not None and task.get_config("num_fewshot") != 0:
            task.set_config(key="num_fewshot", value=num_fewshot)
        elif task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
    lm.pool.steerings = tuple(pool)
    for steering in pool:
        for task in tasks["tasks"].values():
            task.set_fewshot_seed(seed=seed)
        lm.default = steering
        found = evaluate(
            lm=lm, task_dict=tasks, limit=limit, bootstrap_iters=bootstrap_iters, log_samples=log_samples,
            apply_chat_template=apply_chat_template,
        )  # fmt: skip
        if found is not None:
            yield steering, found
