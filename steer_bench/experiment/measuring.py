"""Stage evaluate: one lm-eval run a target, RUN/evaluation/TARGET/…"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from steer_bench import shipped
from steer_bench.experiment.run import MissingStageError, Run, digest, protocol, versions
from steer_bench.results import write_atomic

logger = logging.getLogger(__name__)


def evaluate(run: Run) -> list[Path]:
    """One lm-eval run a target, the model loaded once: all arms, concepts, factors and tasks. RUN/evaluation/TARGET/…"""
    missing = [target for target in run.targets if not run.arms_file(target).is_file()]
    if missing:
        raise MissingStageError(f"no arms of {missing[0]} in {run.folder}; run steer-bench fit {run.folder} first")
    protocol(run).save(run.folder / "protocol.json")
    return [_evaluate_target(run, target) for target in run.targets]


def _evaluate_target(run: Run, target: str) -> Path:
    from steer_bench.vectors import load_card

    experiment, folder = run.experiment, run.evaluation(target)
    arms, records = run.arms_file(target), run.folder / "records.sqlite"
    task_options = {task: limits.model_dump(exclude_none=True) for task, limits in experiment.tasks.items()}
    done = digest(load_card(arms)["inputs"], (run.folder / "protocol.json").read_text(), task_options, versions())
    marker = folder / "complete.json"
    if marker.is_file() and json.loads(marker.read_text()).get("inputs") == done:
        logger.info("%s is up to date", folder)
        return folder
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    from steer_bench.lm import SteeredLM
    from steer_bench.models import default_device, resolve_dtype

    device = experiment.device or default_device()
    dtype = str(resolve_dtype(experiment.dtype, device)).removeprefix("torch.")
    arguments: dict[str, Any] = {
        "pretrained": target,
        "arms": str(arms),
        "records": str(records),
        "positions": experiment.positions,
        "dtype": dtype,
    }
    lm = SteeredLM(**arguments, device=device, batch_size=experiment.batch_size)
    metadata = {**arguments, "limits": task_options}
    manager = TaskManager(include_path=str(shipped("tasks")), include_defaults=False, metadata=metadata)
    tracker = EvaluationTracker(output_path=str(folder))
    chat = experiment.chat and lm.tokenizer.chat_template is not None
    with torch.inference_mode():
        results = simple_evaluate(
            model=lm, tasks=list(experiment.tasks), task_manager=manager, evaluation_tracker=tracker, apply_chat_template=chat,
            bootstrap_iters=0, metadata=metadata, random_seed=experiment.seed, batch_size=experiment.batch_size,
        )  # fmt: skip
    if results is None:  # another rank writes
        return folder
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for task, of_task in samples.items():
        tracker.save_results_samples(task_name=task, samples=of_task)
    write_atomic(marker, json.dumps({"inputs": done, "samples": {task: len(rows) for task, rows in samples.items()}}))
    return folder
