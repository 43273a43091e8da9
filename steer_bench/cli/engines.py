"""How the stages of a run are run: in this process, in several of this machine, on a Ray cluster, or one shard of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer_bench.cli.app import Fault, Faults, plain, run_stages, show

if TYPE_CHECKING:
    from steer_bench.experiment.run import Run

EngineName = Annotated[str, typer.Option("--engine", help="`in-process`, or `ray` (needs the extra [ray]).")]
Address = Annotated[
    str | None,
    typer.Option("--address", help="Ray cluster (`auto`, or host:port); none: one is started on this machine."),
]
Processes = Annotated[int, typer.Option("--processes", help="Processes on this machine: on CUDA one GPU each.")]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard", metavar="I/N", help="Measure only shard I (0 to N-1) of N, into records of its own; for job arrays."
    ),
]


def on_engine(opened: Run, names: tuple[str, ...], engine: str, address: str | None, **options: Any) -> list[Path]:
    """Run stages, in order, on an engine. Raises ValueError for an engine that is not there, before anything is run."""
    from steer_bench.experiment.engines import check_engine, open_engine

    check_engine(engine, address)
    with open_engine(engine, address) as stages:
        return run_stages(opened, names, stages=stages, **options)


def finish(opened: Run, *, figures: bool) -> int:
    """Rate what is not rated yet, report and show the run; on several ranks the first does. Gives the number of ranks."""
    from steer_bench.harness import ranks

    rank, size = ranks.join()
    if rank == 0:
        run_stages(opened, ("judge",), again=False)
        show(opened, run_stages(opened, ("report",), figures=figures))
    ranks.wait(size)
    ranks.leave()
    return size


def measure_one_shard(opened: Run, shard: str) -> list[Path]:
    """Shard I/N of every target, under a lock of its own. Raises ValueError for what is not I/N with 0 <= I < N."""
    from steer_bench.experiment.lock import run_lock
    from steer_bench.experiment.shards import measure_shards
    from steer_bench.experiment.stages.evaluate import check_arms
    from steer_bench.harness.stopping import stoppable

    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not match or int(match[1]) >= int(match[2]):
        raise ValueError(f"--shard {shard}: give I/N, shards are numbered 0 to N-1, such as 0/4 to 3/4")
    check_arms(opened)
    index, count = int(match[1]), int(match[2])
    resume = f"steer-bench evaluate {plain(opened.folder)} --shard {index}/{count}"
    lock = run_lock(opened.folder / "shards", f".{index}-of-{count}.lock")
    with Faults(f"shard {shard}", opened.folder, resume), lock, stoppable():
        return measure_shards(opened, index, count)


def in_processes(
    command: str, opened: Run, processes: int, *, figures: bool = True, predict_only: bool = False
) -> None:
    """The command in N processes that torchrun starts on this machine: ranks of one run. Raises Fault when one of them stops."""
    if processes < 1:
        raise ValueError(f"--processes {processes}: give at least 1")
    if "RANK" in os.environ:
        raise ValueError("--processes starts ranks of its own; under torchrun or accelerate leave it out")
    from steer_bench.experiment.run import start

    start(opened)
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    words = ["-m", "steer_bench", command, str(opened.folder), *([] if figures else ["--no-figures"])]
    words += ["--predict-only"] if predict_only else []
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(  # noqa: S603 (this program, by its own name)
        [*torchrun, *words], env={"OMP_NUM_THREADS": threads, **os.environ}
    )
    if done.returncode:
        raise Fault(
            f"one of {processes} processes stopped (see above); what is finished is saved, continue with: "
            f"steer-bench {command} {plain(opened.folder)} --processes {processes}"
        )
