"""Shards of one target's evaluation: each measures a share of the batches into records of its own, RUN/shards/TARGET/.

    shard 0 .. n-1 -> records of their own -> [merge] -> RUN/records.sqlite -> evaluate, which finds every answer there

A shard only fills records. The batches are those that a single process would form, so the records, and all that is made of
them, are the same to the bit (on a GPU with a batch_size given: with `auto` they are dealt in smaller ones); and since the
evaluation then reads everything from records, it needs no weights.
"""

from __future__ import annotations

import json
import logging
from functools import cached_property
from pathlib import Path

from steer_bench.experiment.completion import Limits, evaluation_fingerprint, is_measured, next_limits
from steer_bench.experiment.run import Run
from steer_bench.experiment.target import open_lm, task_metadata
from steer_bench.files import write_whole
from steer_bench.harness.evaluation import Requests, requests_of
from steer_bench.harness.model import SteeredLM
from steer_bench.records import Records, ShardRecords, read_only

logger = logging.getLogger(__name__)


class Measuring:
    """One target's model and requests, loaded once and only when there is something to compute, for any of its shards."""

    def __init__(self, run: Run, target: str) -> None:
        self.run, self.target = run, target

    def shard(self, index: int, count: int) -> int:
        """Measure shard `index` of `count` unless that is done; return the number of answers its file holds."""
        file = self.run.folder.shards(self.target) / f"{index}-of-{count}.sqlite"
        done, inputs = file.with_suffix(".json"), evaluation_fingerprint(self.run, self.target, self._limits)
        if done.is_file() and json.loads(done.read_text())["inputs"] == inputs:
            return int(json.loads(done.read_text())["answers"])
        finished = read_only(self.run.folder.records)
        records = ShardRecords(file, finished, index, count)
        try:
            self._lm.records = records
            for kind, requests in self._requests.items():
                getattr(self._lm, kind)(requests)  # the answers are in the records; what is given back is for nobody
            answers = len(records)
        finally:
            self._lm.records = Records()
            records.close()
            finished.close()
        dtype = str(self._lm.model.dtype).removeprefix("torch.")
        write_whole(done, json.dumps({"inputs": inputs, "answers": answers, "dtype": dtype}))
        return answers

    @cached_property
    def _limits(self) -> Limits:
        return next_limits(self.run, self.target)

    @cached_property
    def _lm(self) -> SteeredLM:
        return open_lm(self.run, self.target, recorded=False)

    @cached_property
    def _requests(self) -> Requests:
        experiment, metadata = self.run.experiment, task_metadata(self.run, self.target, self._limits)
        return requests_of(self._lm, list(experiment.tasks), metadata, chat=experiment.chat)


def measure_shard(run: Run, target: str, index: int, count: int) -> int:
    """Measure one shard of one target; see `Measuring`."""
    return Measuring(run, target).shard(index, count)


def measure_shards(run: Run, index: int, count: int) -> list[Path]:
    """Measure shard `index` of `count` of every target that is not evaluated yet."""
    for target in run.targets:
        if not is_measured(run, target):
            measure_shard(run, target, index, count)
    return [run.folder.shards(target) for target in run.targets]


def prepare(run: Run, target: str, count: int) -> None:
    """Merge what an earlier run in another number of shards left, and put the records at rest, before the shards begin.

    Raises ValueError for a count below 1.
    """
    if count < 1:
        raise ValueError(f"{count} shards; give at least 1")
    left = list(run.folder.shards(target).glob("*.sqlite"))
    if any(not file.stem.endswith(f"-of-{count}") for file in left):
        merge(run, target)
    Records(run.folder.records).close()  # one that a killed process left open is put in order


def merge(run: Run, target: str) -> str | None:
    """Add all shards' records to the run's, and remove the files of finished shards.

    Returns the dtype that the shards computed in, which `auto` makes another one on a machine without their GPU; None for no
    shard.
    """
    files = sorted(run.folder.shards(target).glob("*.sqlite"))
    if not files:
        return None
    records = Records(run.folder.records)
    for file in files:
        records.merge(file)
    records.close()
    dtype = None
    for file in files:
        marker = file.with_suffix(".json")
        if marker.is_file():
            dtype = json.loads(marker.read_text())["dtype"]
            for part in (
                "",
                "-wal",
                "-shm",
            ):  # a killed process leaves these, and the next step has files of the same names
                file.with_name(file.name + part).unlink(missing_ok=True)
            marker.unlink()
        else:
            logger.warning("%s is not finished; what it holds is merged, the rest is measured here", file)
    return dtype
