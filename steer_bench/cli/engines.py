"""How the stages of a run are run: in this process, in several of this machine, on a Ray cluster, or one shard of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer_bench.cli.app import StageErrors, plain, run_stages, show
from steer_bench.cli.faults import Fault

if TYPE_CHECKING:
    from steer_bench.experiment.run import Run, Stages

ENGINES = ("in-process", "ray")

EngineName = Annotated[str, typer.Option("--engine", help="`in-process`, or `ray` (needs the extra [ray]).")]
_CLUSTER = "Ray cluster (`auto`, or host:port); none: one is started on this machine."
Address = Annotated[str | None, typer.Option("--address", help=_CLUSTER)]
Processes = Annotated[int, typer.Option("--processes", help="Processes on this machine: on CUDA one GPU each.")]
_SHARD = "Measure only shard I (0 to N-1) of N, into records of its own; for job arrays."
Shard = Annotated[str | None, typer.Option("--shard", metavar="I/N", help=_SHARD)]


def check_engine(name: str, address: str | None = None) -> None:
    """Raise ValueError for an engine that does not exist or is not installed, and for an address without Ray."""
    if name not in ENGINES:
        raise ValueError(f"--engine {name}: there are {', '.join(ENGINES)}")
    if name != "ray" and address is not None:
        raise ValueError(f"--address {address}: only --engine ray has one")
    if name == "ray" and find_spec("ray") is None:
        raise ValueError("--engine ray: Ray is not installed; pip install 'steer-bench[ray]'")


@contextmanager
def open_engine(name: str, address: str | None = None) -> Iterator[Stages]:
    """Give the stages of an engine. Raises ValueError as `check_engine` does, and for a cluster that does not answer."""
    check_engine(name, address)
    if name == "ray":
        from steer_bench.experiment.ray_engine import ray_stages

        with ray_stages(address) as stages:
            yield stages
    else:
        from steer_bench.experiment.engines import STAGES

        yield STAGES


def finish(opened: Run, stages: Stages, *, figures: bool) -> int:
    """Rate what is not rated yet, report and show the run, on the first of several ranks; return the number of ranks.

    On a grid of factors what is rated first is the selection replies: the others are measured then, on all ranks, and rated.
    """
    from steer_bench.experiment.stages.report import report
    from steer_bench.harness import ranks

    rank, size = ranks.join()
    for stage in ("judge", "evaluate", "judge") if opened.experiment.grids else ("judge",):
        if rank == 0 or stage == "evaluate":
            run_stages(opened, {stage: stages[stage]})
        ranks.wait(size)
    if rank == 0:
        show(opened, run_stages(opened, {"report": partial(report, figures=figures)}))
    ranks.wait(size)
    ranks.leave()
    return size


def measure_one_shard(opened: Run, shard: str) -> list[Path]:
    """Measure shard I/N of every target, under a lock of its own. Raises ValueError unless it is I/N with 0 <= I < N."""
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not match or int(match[1]) >= int(match[2]):
        raise ValueError(f"--shard {shard}: give I/N, shards are numbered 0 to N-1, such as 0/4 to 3/4")
    from steer_bench.experiment.completion import check_doses
    from steer_bench.experiment.shards import measure_shards
    from steer_bench.models.stopping import stoppable

    check_doses(opened)
    index, count, folder = int(match[1]), int(match[2]), opened.folder
    resume = f"steer-bench evaluate {plain(folder.path)} --shard {index}/{count}"
    with StageErrors(f"shard {shard}", folder.path, resume), folder.shard_lock(index, count), stoppable():
        return measure_shards(opened, index, count)


def in_processes(command: str, opened: Run, processes: int, *options: str) -> None:
    """Run the command in N processes that torchrun starts on this machine: ranks of one run.

    Raises Fault when one of them stops.
    """
    if processes < 1:
        raise ValueError(f"--processes {processes}: give at least 1")
    if "RANK" in os.environ:
        raise ValueError("--processes starts ranks of its own; under torchrun or accelerate leave it out")
    from steer_bench.experiment.run import start

    start(opened)
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(  # noqa: S603 (this program, by its own name)
        [*torchrun, "-m", "steer_bench", command, str(opened.folder), *options],
        env={"OMP_NUM_THREADS": threads, **os.environ},
    )
    if done.returncode:
        raise Fault(
            f"one of {processes} processes stopped (see above); what is finished is saved, continue with: "
            f"steer-bench {command} {plain(opened.folder.path)} --processes {processes}"
        )
