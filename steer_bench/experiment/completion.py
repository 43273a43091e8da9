"""Completion: whether a target of a run can be evaluated, and whether that is done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steer_bench.experiment.run import MissingStageError, Run, versions
from steer_bench.experiment.selection import Choice, choose
from steer_bench.files import digest, file_digest
from steer_bench.vectors.arms import ArmsCard


def check_arms(run: Run) -> None:
    """Write what is measured, RUN/protocol.json. Raises MissingStageError where a target has no arms."""
    missing = [target for target in run.targets if not run.folder.arms(target).is_file()]
    if missing:
        raise MissingStageError(f"no arms of {missing[0]} in {run.folder}; run steer-bench fit {run.folder} first")
    run.data.protocol.save(run.folder.protocol)


def check_doses(run: Run) -> None:
    """Do as `check_arms`. Raises MissingStageError where a target has no doses too."""
    check_arms(run)
    for target in run.targets:
        if not ArmsCard.read(run.folder.arms(target)).doses_inputs:
            raise MissingStageError(f"no doses of {target} in {run.folder}; run steer-bench dose {run.folder} first")


Limits = Mapping[str, Mapping[str, object]]
"""Task -> its options that are not the defaults."""


def next_limits(run: Run, target: str) -> Limits:
    """Return the limits under which a target's tasks are measured, or are to be; on a grid of factors with what is `chosen`.

    Nothing is chosen, so that selection prompts alone are measured, until these are and their replies are rated. What was chosen
    for the other prompts stays: a judge that is asked again changes no rows.
    """
    limits, grids = run.experiment.limits, run.experiment.grids

    def choosing(chosen: Mapping[str, list[Choice]]) -> Limits:
        return {**limits, **{task: {**limits[task], "chosen": chosen.get(task, [])} for task in grids}}

    done = _done(run.folder.evaluation(target)) if grids else {}
    kept = done.get("chosen", {})
    if not grids or done.get("inputs") != evaluation_fingerprint(run, target, choosing(kept)):
        return choosing({})
    return choosing(kept or choose(run, target))


def evaluation_fingerprint(run: Run, target: str, limits: Limits) -> str:
    """Return a hash that changes whenever what is measured on a target does."""
    capability = [run.experiment.capability.model_dump()] if run.experiment.capability else []
    card = ArmsCard.read(run.folder.arms(target))
    measured = card.inputs, card.doses_inputs, run.folder.protocol.read_text()
    return digest(*measured, limits, versions(), *capability)


def is_measured(run: Run, target: str) -> bool:
    """Return whether there is nothing to evaluate on a target now: that is done for the same inputs, or waits for the judge."""
    if not (run.folder.arms(target).is_file() and run.folder.protocol.is_file()):
        return False
    inputs = evaluation_fingerprint(run, target, next_limits(run, target))
    return _done(run.folder.evaluation(target)).get("inputs") == inputs


def is_complete(folder: Path) -> bool:
    """Return whether a target is evaluated, and its samples are still the files that were written."""
    return bool(_done(folder))


def waiting(run: Run, target: str) -> str | None:
    """Say how to go on where a target is evaluated on the selection prompts of a grid alone; None where it is not."""
    if _done(run.folder.evaluation(target)).get("chosen") != {}:
        return None
    rate = f"steer-bench judge {run.folder}, then " if is_measured(run, target) else ""
    return (
        f"{target} is evaluated on its selection prompts alone; the others are measured at the factors chosen on these: run "
        f"{rate}steer-bench evaluate {run.folder}"
    )


def _done(folder: Path) -> dict[str, Any]:
    """Return what complete.json says of an evaluation; {} where it does not, or the samples are no longer the files it names."""
    try:
        known: dict[str, Any] = json.loads((folder / "complete.json").read_text())
        whole = all(file_digest(folder / name) == digest for name, digest in known["files"].items())
        return known if whole and known["inputs"] else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
