"""Folder: every path of a run, and the lock that lets one process at a time write there.

The lock is the system's own (flock), so a process that died, however it did, holds nothing: no stale lock has to be removed.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from steer_bench.files import model_file_name, naming, safe_name

VectorKind = Literal["", "source", "few-shot"]
"""Own vectors of a model, those it gives as a source, own ones from few texts."""


class RunLockedError(ValueError):
    """Another process is at work in the run folder."""


class Folder:
    """A run's folder, RUN, and where everything in it stands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.experiment = path / "experiment.yaml"
        """The experiment, resolved, with what was used."""
        self.protocol = path / "protocol.json"
        """What is measured."""
        self.records = path / "records.sqlite"
        """Finished answers."""
        self.results = path / "results.json"
        """Every measured row."""
        self.samples = path / "samples.json"
        """The replies that the page shows."""

    def __str__(self) -> str:
        return str(self.path)

    def vectors(self, model: str, kind: VectorKind = "") -> Path:
        """RUN/vectors/MODEL.safetensors: the model's own vectors; another `kind` stands in a folder within."""
        return self.path / "vectors" / kind / f"{model_file_name(model)}.safetensors"

    def pair(self, first: str, second: str, fold: int = 0) -> Path:
        """RUN/maps/FIRST--SECOND.safetensors: what the adapters made of a pair; with folds RUN/maps/fold-1/…"""
        return self.path / "maps" / _fold(fold) / f"{model_file_name(first)}--{model_file_name(second)}.safetensors"

    def map(self, source: str, target: str, adapter: str, fold: int = 0) -> Path:
        """RUN/maps/SOURCE--TARGET/ADAPTER.safetensors: one fitted map; with folds RUN/maps/fold-1/…"""
        return self.pair(source, target, fold).with_suffix("") / f"{safe_name(adapter)}.safetensors"

    def relay(self, source: str, fold: int = 0) -> Path:
        """RUN/relay/SOURCE.jsonl: the texts that a source wrote; with folds RUN/relay/fold-1/…"""
        return self.path / "relay" / _fold(fold) / f"{model_file_name(source)}.jsonl"

    def arms(self, target: str) -> Path:
        """RUN/arms/TARGET.safetensors: every arm's vectors for a target."""
        return self.path / "arms" / f"{model_file_name(target)}.safetensors"

    def evaluation(self, target: str) -> Path:
        """RUN/evaluation/TARGET: lm-eval's own files."""
        return self.path / "evaluation" / model_file_name(target)

    def capability(self, target: str) -> Path:
        """RUN/evaluation/TARGET/capability.jsonl: rows of lm-eval's tasks under chosen arms."""
        return self.evaluation(target) / "capability.jsonl"

    def shards(self, target: str) -> Path:
        """RUN/shards/TARGET: records of the shards that are not merged yet."""
        return self.path / "shards" / model_file_name(target)

    def lock(self) -> AbstractContextManager[None]:
        """Hold RUN within a `with` block. Raises RunLockedError where another process holds it."""
        return _locked(self.path, ".lock")

    def shard_lock(self, index: int, count: int) -> AbstractContextManager[None]:
        """Hold one shard of all targets, as `lock` does: shards run at the same time."""
        return _locked(self.path / "shards", f".{index}-of-{count}.lock")


def _fold(number: int) -> str:
    return f"fold-{number}" if number else ""


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    """Hold a lock file; ranks above 0 of a multi-process run belong to the process of rank 0 and take none."""
    if int(os.environ.get("RANK", "0") or 0) > 0:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / f"{name}.json"
    lock = FileLock(folder / name)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunLockedError(
            f"{folder}: {_holder_named(holder)} is at work in this run folder; wait until it has ended, or stop it, then run "
            "the same command again"
        ) from None
    try:
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        with naming(holder):
            holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _holder_named(holder: Path) -> str:
    try:
        known = json.loads(holder.read_text())
        return f"process {known['pid']} on {known['host']} (since {known['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
