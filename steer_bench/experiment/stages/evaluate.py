"""Stage evaluate: one lm-eval run per target, RUN/evaluation/TARGET/…

Started on several ranks (torchrun, `--processes`), each measures a shard of every target; then rank 0 evaluates from the records.
"""

from __future__ import annotations

import errno
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from steer_bench.experiment.capability import measure_capability
from steer_bench.experiment.completion import check_doses, evaluation_fingerprint, is_measured, next_limits
from steer_bench.experiment.run import Run
from steer_bench.experiment.shards import measure_shard, merge, prepare
from steer_bench.experiment.target import open_lm, task_metadata
from steer_bench.files import file_digest, write_whole
from steer_bench.harness import ranks
from steer_bench.harness.evaluation import Evaluation
from steer_bench.harness.model import SteeredLM
from steer_bench.models.records_only import WeightsNeededError
from steer_bench.records import Records
from steer_bench.results.lmeval_samples import newest_samples

logger = logging.getLogger(__name__)


def evaluate(run: Run) -> list[Path]:
    """Run lm-eval once per target, the model loaded once: all arms, concepts, levels and tasks. RUN/evaluation/TARGET/…

    Replies that need a judge are left unrated: stage judge rates them. On a grid of factors the selection prompts alone are measured
    until the factors are chosen on them; then, at the next call, the others too.
    """
    check_doses(run)
    rank, size = ranks.join()
    for target in run.targets:
        if is_measured(run, target):
            logger.info("%s is up to date", run.folder.evaluation(target))
            continue
        if size > 1:
            if rank == 0:
                prepare(run, target, size)
            ranks.wait(size)
            measure_shard(run, target, rank, size)
            ranks.wait(size)
        if rank == 0:
            evaluate_target(run, target)
        ranks.wait(size)
    return [run.folder.evaluation(target) for target in run.targets]


def evaluate_target(run: Run, target: str) -> Path:
    """Evaluate one target in one process. After its shards everything is in the records, and no weights are loaded."""
    if is_measured(run, target):
        return run.folder.evaluation(target)
    if run.folder.records.is_file():
        Records(run.folder.records).close()  # a damaged file is found before a model is loaded
    dtype = merge(run, target)
    if dtype is not None:
        try:
            lm = open_lm(run, target, weights=False, dtype=dtype)
            return _evaluate_on(lm, run, target)
        except WeightsNeededError:
            logger.warning("%s: the shards left answers out; they are computed now", target)
    return _evaluate_on(open_lm(run, target), run, target)


def _evaluate_on(lm: SteeredLM, run: Run, target: str) -> Path:
    experiment, data, folder = run.experiment, run.data, run.folder.evaluation(target)
    limits = next_limits(run, target)
    inputs, metadata = evaluation_fingerprint(run, target, limits), task_metadata(run, target, limits)
    evaluation = Evaluation(
        lm, list(experiment.tasks), metadata, folder, chat=experiment.chat, seed=experiment.seed,
        batch_size=experiment.batch_size,
    )  # fmt: skip
    if experiment.capability is not None:
        concepts = [key for key in data.measured if data.concepts[key].kind != "suppress"]
        measure_capability(lm, experiment.capability, concepts, run.folder.capability(target), experiment.seed)
    counts = evaluation.save()
    done: dict[str, object] = {"inputs": inputs, "samples": counts, "files": _saved(folder, counts)}
    if experiment.grids:
        done["chosen"] = {task: limits[task]["chosen"] for task in experiment.grids if limits[task]["chosen"]}
    write_whole(folder / "complete.json", json.dumps(done))
    return folder


def _saved(folder: Path, counts: Mapping[str, int]) -> dict[str, str]:
    """Return the SHA-256 of each task's samples file. Raises OSError where lm-eval did not write one whole."""
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
