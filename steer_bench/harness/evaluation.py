"""Evaluation: tasks of ours on one model, by lm-eval, with its own files in a folder.

model, tasks -> [Evaluation] -> results_*.json and samples_*.jsonl
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager

from steer_bench import shipped
from steer_bench.harness.model import SteeredLM


class Evaluation:
    """What lm-eval measured on a model: nothing is written before `save`."""

    def __init__(
        self,
        lm: SteeredLM,
        tasks: Sequence[str],
        metadata: Mapping[str, object],
        folder: Path,
        *,
        chat: bool,
        seed: int,
        batch_size: int | str,
    ) -> None:
        """Run the tasks; `metadata` is what they read their options from."""
        self._tracker = EvaluationTracker(output_path=str(folder))
        with torch.inference_mode():
            self._results = simple_evaluate(
                model=lm, tasks=list(tasks), task_manager=_task_manager(metadata), evaluation_tracker=self._tracker,
                apply_chat_template=chat and has_chat_template(lm), bootstrap_iters=0, metadata=dict(metadata), random_seed=seed,
                batch_size=batch_size,
            )  # fmt: skip

    def save(self) -> dict[str, int]:
        """Write lm-eval's files; return the number of samples of each task, for lm-eval only logs that it could not write one."""
        samples = self._results.pop("samples")
        self._tracker.save_results_aggregated(results=self._results, samples=samples)
        for task, of_task in samples.items():
            self._tracker.save_results_samples(task_name=task, samples=of_task)
        return {task: len(rows) for task, rows in samples.items()}


Requests = dict[str, list[Instance]]
"""Requests by kind, in the order in which lm-eval asks them."""


def has_chat_template(lm: SteeredLM) -> bool:
    """Return whether the model's tokenizer has a chat template."""
    return lm.tokenizer.chat_template is not None


def requests_of(lm: SteeredLM, tasks: Sequence[str], metadata: Mapping[str, object], *, chat: bool) -> Requests:
    """Return the requests of tasks by kind, in the order in which lm-eval asks them: all tasks together."""
    chat &= has_chat_template(lm)
    loaded = _task_manager(metadata).load(list(tasks))["tasks"]
    requests: dict[str, list[Instance]] = defaultdict(list)
    for name in tasks:
        loaded[name].build_all_requests(
            rank=0, world_size=1, apply_chat_template=chat, chat_template=lm.apply_chat_template if chat else None,
            tokenizer_name=lm.tokenizer_name if chat else "",
        )  # fmt: skip
        for request in loaded[name].instances:
            requests[request.request_type].extend([request] * request.repeats)
    return dict(requests)


def _task_manager(metadata: Mapping[str, object]) -> TaskManager:
    return TaskManager(include_path=str(shipped("tasks")), include_defaults=False, metadata=dict(metadata))
