"""Scheduling alone: 100, 500, 2,000 and thrice 6,000 shards of a stub that measures nothing, on 2 workers of this machine.

To take under 60 s for 2,000 shards on 2 cores, in memory that does not grow with finished shards.
Run: python benchmarks/ray_scheduling.py
"""

import os
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from tabulate import tabulate

from steer_bench.experiment.config import ClusterConfig
from steer_bench.experiment.data import Data
from steer_bench.experiment.folder import Folder
from steer_bench.experiment.ray_engine import on_workers, ray_stages
from steer_bench.experiment.run import Run

SIZES = (100, 500, 2_000, 6_000, 6_000, 6_000)


class Stub:
    """In place of the worker: writes a file a shard, as the real one does."""

    def __init__(self, run: Any, folder: str) -> None:
        self.run = run

    def measure(self, target: str, index: int, count: int) -> int:
        (self.run.folder.path / f"{target}-{index}-of-{count}").write_text("done")
        return 1


def resident() -> float:
    """MB of this process, the driver."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def main() -> None:
    os.environ["TQDM_DISABLE"] = "1"
    lines = []
    with tempfile.TemporaryDirectory() as folder, ray_stages(None):
        experiment: Any = SimpleNamespace(cluster=ClusterConfig())
        run = Run(experiment, Data(experiment, Path(folder)), Folder(Path(folder)))
        on_workers(run, [("warm", i, 10) for i in range(10)], 2, Stub)
        for n in SIZES:
            before, start = resident(), time.perf_counter()
            on_workers(run, [("stub", i, n) for i in range(n)], 2, Stub)
            seconds = time.perf_counter() - start
            assert len(list(Path(folder).glob(f"stub-*-of-{n}"))) == n
            lines.append([n, f"{seconds:.1f}", f"{1000 * seconds / n:.1f}", f"{before:.0f}", f"{resident():.0f}"])
        store = ray.cluster_resources().get("object_store_memory", 0) - ray.available_resources().get(
            "object_store_memory", 0
        )
    heads = ["shards", "seconds", "ms a shard", "driver MB before", "driver MB after"]
    print(tabulate(lines, heads, tablefmt="github", disable_numparse=True))
    print(f"object store in use at the end: {store / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
