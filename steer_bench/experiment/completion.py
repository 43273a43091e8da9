"""Completion: whether a target of a run can be evaluated, and whether that is done."""

from __future__ import annotations

import json
from pathlib import Path

from steer_bench.experiment.run import MissingStageError, Run, versions
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


def evaluation_fingerprint(run: Run, target: str) -> str:
    """Return a hash that changes whenever what is measured on a target does."""
    capability = [run.experiment.capability.model_dump()] if run.experiment.capability else []
    card = ArmsCard.read(run.folder.arms(target))
    measured = card.inputs, card.doses_inputs, run.folder.protocol.read_text()
    return digest(*measured, run.experiment.limits, versions(), *capability)


def is_measured(run: Run, target: str) -> bool:
    """Return whether a target's evaluation is finished, for the same inputs."""
    if not (run.folder.arms(target).is_file() and run.folder.protocol.is_file()):
        return False
    return is_complete(run.folder.evaluation(target), evaluation_fingerprint(run, target))


def is_complete(folder: Path, inputs: str | None = None) -> bool:
    """Return whether a target is evaluated (for these inputs), and its samples are still the files that were written."""
    try:
        known = json.loads((folder / "complete.json").read_text())
        return (inputs is None or known["inputs"] == inputs) and all(
            file_digest(folder / name) == digest for name, digest in known["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
