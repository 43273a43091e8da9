"""The stages on a Ray cluster: one task per model, pair, shard of a target's cells, and target to finish.

    extract a model -> fit a pair -> arms -> measure shards (actors, the model loaded once a worker) -> merge, write -> judge

Ray places, retries and restarts; what makes that safe is that every task finds what is finished on disk and does nothing
again. The run folder has to be a path that all nodes see. Nothing but names and counts goes through Ray's object store.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import ray
from tqdm.auto import tqdm

from steer_bench.experiment.completion import check_arms, check_doses, is_measured
from steer_bench.experiment.config import ResourceConfig
from steer_bench.experiment.data import Data
from steer_bench.experiment.folder import Folder
from steer_bench.experiment.ratings import ratings_file
from steer_bench.experiment.run import Run, Stages
from steer_bench.experiment.shards import Measuring, prepare
from steer_bench.experiment.stages.dose import dose_target
from steer_bench.experiment.stages.evaluate import evaluate_target
from steer_bench.experiment.stages.extract import begin, extract_model
from steer_bench.experiment.stages.fit import arms_up_to_date, check_vectors, fit_pair, make_arms, pairs
from steer_bench.experiment.stages.judge import judge
from steer_bench.models.device import keep_freed_memory
from steer_bench.results.measures import JUDGED

RETRIES = 5
"""How often Ray runs a task again, or starts an actor again, whose worker died. Errors of ours are not retried."""
SHARDS_A_WORKER = 4
"""Shards of a target for each worker, where the experiment does not say."""
STORE_BYTES = 128 << 20
PASSED_ON = ("HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM", "OMP_NUM_THREADS", "PYTHONPATH")
"""Variables that workers get from this process. Never keys: those belong into the environment of the nodes."""


@contextmanager
def ray_stages(address: str | None) -> Iterator[Stages]:
    """Give the stages on the cluster at `address`, or on one that is started on this machine and ends with this process.

    Raises ValueError for a cluster that does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    own: dict[str, Any] = {} if address else {"object_store_memory": STORE_BYTES}
    mine = not ray.is_initialized()
    if mine:
        try:
            env = {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {"TQDM_DISABLE": "1"}
            ray.init(address=address or "local", logging_level=logging.WARNING, runtime_env={"env_vars": env}, **own)
        except (ConnectionError, RuntimeError) as error:
            raise ValueError(
                f"--address {address}: no Ray cluster answers there ({error}); ray start --head starts one"
            ) from error
    try:
        yield {"extract": _extract, "fit": _fit, "dose": _dose, "evaluate": _evaluate, "judge": _judge}
    finally:
        if mine:
            ray.shutdown()


def _extract(run: Run) -> list[Path]:
    """Run one task per model."""
    begin(run)
    names = [config.name for config in run.experiment.models]
    _tasks(run, "extract", {f"extract {name}": (extract_model, name) for name in names})
    return [run.folder.vectors(name) for name in names]


def _fit(run: Run) -> list[Path]:
    """Run one task per pair, and one for the arms."""
    check_vectors(run)
    if not arms_up_to_date(run):
        _tasks(run, "fit", {f"fit {first} and {second}": (fit_pair, first, second) for first, second in pairs(run)})
        _tasks(run, "judge", {"arms": (make_arms,)})
    return [run.folder.arms(target) for target in run.targets]


def _dose(run: Run) -> list[Path]:
    """Run one task per target."""
    check_arms(run)
    _tasks(run, "evaluate", {f"doses of {target}": (dose_target, target) for target in run.targets})
    return [run.folder.arms(target) for target in run.targets]


def _evaluate(run: Run) -> list[Path]:
    """Shards of all targets on workers that keep their model; then a task a target that reads them and writes."""
    check_doses(run)
    targets = [target for target in run.targets if not is_measured(run, target)]
    if targets:
        workers = _workers(run)
        count = run.experiment.cluster.shards or SHARDS_A_WORKER * workers
        for target in targets:
            prepare(run, target, count)
        jobs = [(target, index, count) for target in targets for index in range(count)]
        on_workers(run, jobs, min(workers, len(jobs)))
        _tasks(run, "judge", {f"finish {target}": (evaluate_target, target) for target in targets})
    return [run.folder.evaluation(target) for target in run.targets]


def _judge(run: Run) -> list[Path]:
    """Rate in one task: a judge keeps its own calls in flight."""
    _tasks(run, "judge", {"judge": (partial(judge, again=False),)})
    return [ratings_file(run, run.experiment.judge, target) for target in run.targets if JUDGED in run.experiment.tasks]


def on_workers(run: Run, jobs: list[tuple[str, int, int]], workers: int, kind: type | None = None) -> None:
    """Run every job on a pool of actors. An actor that dies is started again elsewhere, with the job it had."""
    asked = _resources(run.experiment.cluster.evaluate)
    actor: Any = ray.remote(kind or _Worker).options(max_restarts=RETRIES, max_task_retries=RETRIES, **asked)
    left, busy = iter(jobs), {}

    def give(worker: Any) -> None:
        """Start the next job, if there is one. One name per target: Ray keeps counts of every name for ever."""
        for target, index, count in islice(left, 1):
            named = worker.measure.options(name=f"measure {target}")
            busy[named.remote(target, index, count)] = worker

    for _ in range(workers):
        give(actor.remote(_light(run), os.getcwd()))
    with tqdm(total=len(jobs), desc="shards", unit="shard") as bar:
        while busy:
            for done in ray.wait(list(busy))[0]:
                worker = busy.pop(done)
                _get(done)
                bar.update()
                give(worker)


class _Worker:
    """Measure shards; keep the model and the requests of the target at hand."""

    def __init__(self, run: Run, folder: str) -> None:
        self.run = run
        self.measuring: Measuring | None = None
        _stand_in(folder)

    def measure(self, target: str, index: int, count: int) -> int:
        """Measure one shard; return the number of answers its file holds."""
        if self.measuring is None or self.measuring.target != target:
            self.measuring = None  # before the next model is loaded
            self.measuring = Measuring(self.run, target)
        return self.measuring.shard(index, count)


def _tasks(run: Run, kind: str, calls: Mapping[str, tuple[Callable[..., object], *tuple[object, ...]]]) -> None:
    """Run named calls as Ray tasks, all at once, with the resources of their kind."""
    asked = _resources(getattr(run.experiment.cluster, kind))
    remote = ray.remote(_call)
    waiting = [
        remote.options(name=name, max_retries=RETRIES, **asked).remote(function, _light(run), os.getcwd(), *arguments)
        for name, (function, *arguments) in calls.items()
    ]
    with tqdm(total=len(waiting), desc=kind, unit="task") as bar:
        while waiting:
            done, waiting = ray.wait(waiting)
            for result in done:
                _get(result)
                bar.update()


def _call(function: Callable[..., object], run: Run, folder: str, *arguments: object) -> None:
    _stand_in(folder)
    function(run, *arguments)


def _get(result: Any) -> object:
    """Return the result; raise an error of ours as it was raised, not in Ray's wrapping."""
    try:
        return ray.get(result)
    except ray.exceptions.RayTaskError as error:
        raise getattr(error, "cause", None) or error from error


def _light(run: Run) -> Run:
    """Return the run without what it has read, and by whole paths: small enough to send with every task."""
    data = Data(run.experiment, run.data.base.resolve())
    return Run(run.experiment, data, Folder(run.folder.path.resolve()))


def _stand_in(folder: str) -> None:
    """Set up a worker: its memory as the command line keeps it, and where the driver stands, for relative names in the YAML."""
    keep_freed_memory()
    if Path(folder).is_dir():
        os.chdir(folder)


def _resources(config: ResourceConfig) -> dict[str, float]:
    """Return what a task asks for; a GPU where the cluster has any and the experiment does not say."""
    gpus = config.num_gpus
    if gpus is None:
        gpus = 1.0 if ray.cluster_resources().get("GPU", 0) else 0.0
    return {"num_cpus": config.num_cpus, "num_gpus": gpus}


def _workers(run: Run) -> int:
    """Return the number of workers that the experiment says, or that the cluster has room for now."""
    if run.experiment.cluster.workers:
        return run.experiment.cluster.workers
    asked, there = _resources(run.experiment.cluster.evaluate), ray.cluster_resources()
    rooms = [there.get("CPU", 1) / asked["num_cpus"]] if asked["num_cpus"] else []
    rooms += [there.get("GPU", 0) / asked["num_gpus"]] if asked["num_gpus"] else []
    return max(1, int(min(rooms, default=1)))
