"""Stage evaluate: one lm-eval run a target, RUN/evaluation/TARGET/…

Started on several ranks (torchrun, `--processes`), each measures a shard of every target; then rank 0 evaluates from the records.
"""

from __future__ import annotations

import errno
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steer_bench import shipped
from steer_bench.experiment.capability import measure_capability
from steer_bench.experiment.run import MissingStageError, Run, versions
from steer_bench.experiment.stages.judge import raise_stopped
from steer_bench.files import digest, file_digest, write_whole
from steer_bench.judge.ratings import FOLDER
from steer_bench.records import Records
from steer_bench.results.file import newest_samples

logger = logging.getLogger(__name__)


def evaluate(run: Run, *, predict_only: bool = False) -> list[Path]:
    """One lm-eval run a target, the model loaded once: all arms, concepts, factors and tasks. RUN/evaluation/TARGET/…

    Replies are judged before lm-eval scores them; with `predict_only` (as lm-eval's) no judge is asked and nothing is scored. A judge
    that stops raises JudgeError once every target is measured: stage judge rates the replies later, without generating.
    """
    from steer_bench.experiment.shards import measure_shard, prepare
    from steer_bench.harness import ranks

    check_arms(run)
    rank, size = ranks.join()
    measured = []
    for target in run.targets:
        if is_measured(run, target):
            logger.info("%s is up to date", run.folder.evaluation(target))
            continue
        measured.append(target)
        if size > 1:
            if rank == 0:
                prepare(run, target, size)
            ranks.wait(size)
            measure_shard(run, target, rank, size)
            ranks.wait(size)
        if rank == 0:
            evaluate_target(run, target, predict_only)
        ranks.wait(size)
    raise_stopped(run, measured)
    return [run.folder.evaluation(target) for target in run.targets]


def check_arms(run: Run) -> None:
    """Write what is measured, RUN/protocol.json. Raises MissingStageError where a target has no arms."""
    missing = [target for target in run.targets if not run.folder.arms(target).is_file()]
    if missing:
        raise MissingStageError(f"no arms of {missing[0]} in {run.folder}; run steer-bench fit {run.folder} first")
    run.data.protocol.save(run.folder.protocol)


def inputs_of(run: Run, target: str) -> str:
    """Changes whenever what is measured on a target does."""
    from steer_bench.vectors.store import load_card

    protocol_text = run.folder.protocol.read_text()
    capability = [run.experiment.capability.model_dump()] if run.experiment.capability else []
    return digest(load_card(run.folder.arms(target))["inputs"], protocol_text, _limits(run), versions(), *capability)


def is_measured(run: Run, target: str) -> bool:
    """Whether a target's evaluation is finished, for the same inputs."""
    if not (run.folder.arms(target).is_file() and run.folder.protocol.is_file()):
        return False
    return is_complete(run.folder.evaluation(target), inputs_of(run, target))


def evaluate_target(run: Run, target: str, predict_only: bool = False) -> Path:
    """One target, in one process. After its shards everything is in the records, and no weights are loaded."""
    from steer_bench.experiment.shards import merge
    from steer_bench.harness.steered_lm import WeightsNeededError

    if is_measured(run, target):
        return run.folder.evaluation(target)
    if run.folder.records.is_file():
        Records(run.folder.records).close()  # a damaged file is found before a model is loaded
    dtype = merge(run, target)
    if dtype is not None:
        try:
            return _evaluate_target(run, target, predict_only, weights=False, dtype=dtype)
        except WeightsNeededError:
            logger.warning("%s: the shards left answers out; they are computed now", target)
    return _evaluate_target(run, target, predict_only)


def open_lm(run: Run, target: str, **options: Any) -> Any:
    """The lm-eval model of a target, with its arms."""
    from steer_bench.harness.sweep import PooledLM
    from steer_bench.models.device import default_device

    device = run.experiment.device or default_device()
    arguments = _arguments(run, target) | options
    return PooledLM(**arguments, device=device, batch_size=run.experiment.batch_size)


def load_tasks(run: Run, target: str) -> dict[str, Any]:
    """The experiment's tasks on a target, by name."""
    return _manager(run, target).load(list(run.experiment.tasks))["tasks"]


def _arguments(run: Run, target: str) -> dict[str, Any]:
    """What lm-eval writes down as the model's arguments, and tasks read as metadata."""
    from steer_bench.models.device import default_device, resolve_dtype

    dtype = resolve_dtype(run.experiment.dtype, run.experiment.device or default_device())
    return {
        "pretrained": target,
        "arms": str(run.folder.arms(target)),
        "records": str(run.folder.records),
        "positions": run.experiment.positions,
        "dtype": str(dtype).removeprefix("torch."),
        "seed": run.experiment.seed,
    }


def _limits(run: Run) -> dict[str, Any]:
    return {task: limits.model_dump(exclude_none=True) for task, limits in run.experiment.tasks.items()}


def _metadata(run: Run, target: str) -> dict[str, Any]:
    return {**_arguments(run, target), "limits": _limits(run), "judgements": str(run.folder.path / FOLDER)}


def _manager(run: Run, target: str) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(shipped("tasks")), include_defaults=False, metadata=_metadata(run, target))


def _evaluate_target(run: Run, target: str, predict_only: bool, **options: Any) -> Path:
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker

    experiment, folder = run.experiment, run.folder.evaluation(target)
    lm = open_lm(run, target, alone=True, **options)
    tracker = EvaluationTracker(output_path=str(folder))
    chat = experiment.chat and lm.tokenizer.chat_template is not None
    with torch.inference_mode():
        results = simple_evaluate(
            model=lm, tasks=list(experiment.tasks), task_manager=_manager(run, target), evaluation_tracker=tracker,
            apply_chat_template=chat, bootstrap_iters=0, metadata=_metadata(run, target), random_seed=experiment.seed,
            batch_size=experiment.batch_size, predict_only=predict_only,
        )  # fmt: skip
    if experiment.capability is not None:
        concepts = [key for key in run.data.measured if run.data.concepts[key].kind != "suppress"]
        measure_capability(lm, experiment.capability, concepts, folder, experiment.seed)
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for task, of_task in samples.items():
        tracker.save_results_samples(task_name=task, samples=of_task)
    counts = {task: len(rows) for task, rows in samples.items()}
    done = {"inputs": inputs_of(run, target), "samples": counts, "files": _saved(folder, counts)}
    write_whole(folder / "complete.json", json.dumps(done))
    return folder


def _saved(folder: Path, counts: Mapping[str, int]) -> dict[str, str]:
    """SHA-256 of the samples file of each task. Raises OSError where lm-eval, which only logs such a fault, did not write one whole."""
    files = newest_samples(folder)
    for task, count in counts.items():
        path = files.get(task)
        lines = path.read_bytes().count(b"\n") if path is not None else 0
        if lines != count:
            place = path or folder
            full = shutil.disk_usage(folder).free < 1 << 20
            raise OSError(
                errno.ENOSPC if full else errno.EIO, f"lm-eval saved {lines} of {count} samples of {task}", str(place)
            )
    return {str(files[task].relative_to(folder)): file_digest(files[task]) for task in counts}


def is_complete(folder: Path, inputs: str | None = None) -> bool:
    """Whether a target is evaluated (for these inputs), and its samples are still the files that were written."""
    try:
        known = json.loads((folder / "complete.json").read_text())
        return (inputs is None or known["inputs"] == inputs) and all(
            file_digest(folder / name) == digest for name, digest in known["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
