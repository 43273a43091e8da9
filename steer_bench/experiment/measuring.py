"""Stage evaluate: one lm-eval run a target, RUN/evaluation/TARGET/…"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from steer_bench import shipped
from steer_bench.experiment.judging import raise_stopped
from steer_bench.experiment.run import MissingStageError, Run, digest, protocol, versions
from steer_bench.judge.replies import FOLDER
from steer_bench.results import write_atomic

logger = logging.getLogger(__name__)


def evaluate(run: Run, *, predict_only: bool = False) -> list[Path]:
    """One lm-eval run a target, the model loaded once: all arms, concepts, factors and tasks. RUN/evaluation/TARGET/…

    Replies are judged before lm-eval scores them; with `predict_only` (as lm-eval's) no judge is asked and nothing is scored. A judge
    that stops raises JudgeError once every target is measured: stage judge rates the replies later, without generating.
    """
    missing = [target for target in run.targets if not run.arms_file(target).is_file()]
    if missing:
        raise MissingStageError(f"no arms of {missing[0]} in {run.folder}; run steer-bench fit {run.folder} first")
    protocol(run).save(run.folder / "protocol.json")
    measured = {target: is_measured(run, target) for target in run.targets}
    folders = [_evaluate_target(run, target, predict_only=predict_only) for target in run.targets]
    raise_stopped(run, [target for target in run.targets if not measured[target]])
    return folders


def inputs_of(run: Run, target: str) -> str:
    """Changes whenever what is measured on a target does."""
    from steer_bench.vectors import load_card

    task_options = {task: limits.model_dump(exclude_none=True) for task, limits in run.experiment.tasks.items()}
    protocol_text = (run.folder / "protocol.json").read_text()
    return digest(load_card(run.arms_file(target))["inputs"], protocol_text, task_options, versions())


def is_measured(run: Run, target: str) -> bool:
    """Whether a target's evaluation is finished, for the same inputs."""
    marker = run.evaluation(target) / "complete.json"
    if not (marker.is_file() and run.arms_file(target).is_file() and (run.folder / "protocol.json").is_file()):
        return False
    return json.loads(marker.read_text()).get("inputs") == inputs_of(run, target)


def _evaluate_target(run: Run, target: str, *, predict_only: bool) -> Path:
    experiment, folder = run.experiment, run.evaluation(target)
    arms, records = run.arms_file(target), run.folder / "records.sqlite"
    if is_measured(run, target):
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
        "seed": experiment.seed,
    }
    lm = SteeredLM(**arguments, device=device, batch_size=experiment.batch_size)
    task_options = {task: limits.model_dump(exclude_none=True) for task, limits in experiment.tasks.items()}
    metadata = {**arguments, "limits": task_options}
    if lm.world_size == 1:  # several ranks each have a part of the replies: stage judge rates them together
        metadata["judgements"] = str(run.folder / FOLDER)
    manager = TaskManager(include_path=str(shipped("tasks")), include_defaults=False, metadata=metadata)
    tracker = EvaluationTracker(output_path=str(folder))
    chat = experiment.chat and lm.tokenizer.chat_template is not None
    with torch.inference_mode():
        results = simple_evaluate(
            model=lm, tasks=list(experiment.tasks), task_manager=manager, evaluation_tracker=tracker, apply_chat_template=chat,
            bootstrap_iters=0, metadata=metadata, random_seed=experiment.seed, batch_size=experiment.batch_size,
            predict_only=predict_only,
        )  # fmt: skip
    if results is None:  # another rank writes
        return folder
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for task, of_task in samples.items():
        tracker.save_results_samples(task_name=task, samples=of_task)
    marker, done = folder / "complete.json", inputs_of(run, target)
    write_atomic(marker, json.dumps({"inputs": done, "samples": {task: len(rows) for task, rows in samples.items()}}))
    return folder
