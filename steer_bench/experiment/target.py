"""A target, opened: its model with its arms, and the options that its tasks read."""

from __future__ import annotations

from typing import Any

from steer_bench.experiment.completion import Limits
from steer_bench.experiment.run import Run
from steer_bench.harness.model import SteeredLM
from steer_bench.models.device import default_device, resolve_dtype


def open_lm(
    run: Run, target: str, *, weights: bool = True, dtype: str | None = None, recorded: bool = True
) -> SteeredLM:
    """Open the lm-eval model of a target with its arms, alone in this process.

    Without `weights` it answers from the records only, those of a model of this `dtype`; without `recorded` it has none.
    """
    arguments = _arguments(run, target)
    if dtype is not None:
        arguments["dtype"] = dtype
    if not recorded:
        arguments["records"] = None
    device = run.experiment.device or default_device()
    return SteeredLM(**arguments, weights=weights, alone=True, device=device, batch_size=run.experiment.batch_size)


def task_metadata(run: Run, target: str, limits: Limits) -> dict[str, object]:
    """Return what the tasks read as metadata: the model's arguments, these limits, and to leave replies unrated."""
    return {**_arguments(run, target), "limits": limits, "rate": False}


def _arguments(run: Run, target: str) -> dict[str, Any]:
    """Return what lm-eval writes down as the model's arguments."""
    dtype = resolve_dtype(run.experiment.dtype, run.experiment.device or default_device())
    return {
        "pretrained": target,
        "arms": str(run.folder.arms(target)),
        "records": str(run.folder.records),
        "positions": run.experiment.positions,
        "dtype": str(dtype).removeprefix("torch."),
        "seed": run.experiment.seed,
    }
