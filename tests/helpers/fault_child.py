"""What runs in a child process: a command of steer-bench, with a fault at a chosen moment."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from children import fork, redirect, surroundings

CLONE_NEWNET = 0x40000000
CANARY = "sk-canary-7c41e09b5d"
"""A judge's key, which must stand in no file."""


@dataclass
class Plan:
    """A command, and what goes wrong in it."""

    command: Sequence[str]
    log: str
    """File that gets a line for each record computed and each judgement asked for, as they happen."""
    kill: tuple[str, int] | None = None
    """(moment, k): SIGKILL at the k-th time this moment comes; see MOMENTS."""
    signals: tuple[tuple[str, int, int], ...] = ()
    """(moment, k, number): a signal to itself at that moment."""
    limit: int | None = None
    """Most bytes of a file (RLIMIT_FSIZE): a full disk without the rights to make one."""
    pause: tuple[str, int, float] | None = None
    """(moment, k, seconds): sleep."""
    offline: bool = False
    """Without any network, loopback included; exit code 99 where that is not allowed."""
    environment: Mapping[str, str] = field(default_factory=dict)


MOMENTS = ("before", "inside", "after", "rating", "rated", "replace", "samples")
"""before, inside and after the transaction that keeps a batch; before and after a judgement is kept; before a file is renamed into
place; after lm-eval wrote a samples file."""


class Moments:
    def __init__(self, plan: Plan) -> None:
        self.plan, self.counts = plan, dict.fromkeys(MOMENTS, 0)
        self.lock = threading.Lock()

    def come(self, moment: str) -> None:
        with self.lock:
            self.counts[moment] += 1
            at = (moment, self.counts[moment])
        if self.plan.kill == at:
            os.kill(os.getpid(), signal.SIGKILL)
        for name, k, number in self.plan.signals:
            if (name, k) == at:
                os.kill(os.getpid(), number)
        if self.plan.pause and self.plan.pause[:2] == at:
            with open(self.plan.log, "a") as log:
                log.write("paused here\n")
            time.sleep(self.plan.pause[2])


def run(plan: Plan, out: str, environment: dict[str, str]) -> None:
    """In the child: patch, run, leave with the command's exit code."""
    redirect(out, out)
    os.environ.update(environment)
    log = os.open(plan.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    _patch(Moments(plan), lambda line: os.write(log, f"{line}\n".encode()))
    if plan.limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (plan.limit, plan.limit))
    if plan.offline and ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        sys.exit(99)
    sys.argv = ["steer-bench", *plan.command]
    from steer_bench.cli import main

    main()


def _patch(moments: Moments, note: Callable[[str], Any]) -> None:
    from lm_eval.loggers import EvaluationTracker

    from steer_bench import records

    class Connection:
        """Stands in for a sqlite connection, and knows when a transaction is about to be committed."""

        def __init__(self, real: Any) -> None:
            self._real = real

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def execute(self, statement: str, *rest: Any) -> Any:
            if statement == "COMMIT":
                moments.come("inside")
            return self._real.execute(statement, *rest)

    add, replace = records.Records.add, os.replace
    write = EvaluationTracker.save_results_samples

    def noted_add(self: Any, values: Any) -> None:
        rating = any("ratings" in value for value in values.values())
        for key in values:
            note(f"{'rated' if rating else 'computed'} {key}")
        moments.come("rating" if rating else "before")
        if rating:
            add(self, values)
            return moments.come("rated")
        real = self._db
        self._db = Connection(real)
        try:
            add(self, values)
        finally:
            self._db = real
        return moments.come("after")

    def noted_replace(*paths: Any, **options: Any) -> None:
        moments.come("replace")
        replace(*paths, **options)

    def noted_write(self: Any, *rest: Any, **options: Any) -> None:
        write(self, *rest, **options)
        moments.come("samples")

    records.Records.add = noted_add  # type: ignore[method-assign]
    os.replace = noted_replace  # type: ignore[assignment]
    EvaluationTracker.save_results_samples = noted_write


@dataclass
class Child:
    """A started child."""

    process: Any
    out: Path

    def wait(self, seconds: float = 120) -> int:
        """Its exit code; negative for the signal that ended it."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            os.kill(self.process.pid, signal.SIGKILL)
            raise AssertionError(f"the child did not end in {seconds} s: {self.said}")
        return int(self.process.exitcode)

    @property
    def said(self) -> str:
        """What it printed."""
        return self.out.read_text(errors="replace") if self.out.is_file() else ""


def start(plan: Plan, out: Path) -> Child:
    """Fork a child that runs the plan."""
    return Child(fork(run, plan, str(out), surroundings(plan.environment), daemon=True), out)
