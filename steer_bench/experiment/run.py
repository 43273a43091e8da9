"""A run: an experiment, its data, and the folder of its results. Everything is checked before a model is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import yaml

from steer_bench import __version__
from steer_bench.experiment.checks import check
from steer_bench.experiment.config import Experiment
from steer_bench.experiment.data import Data
from steer_bench.experiment.folder import Folder
from steer_bench.experiment.reading import find_experiment, load_experiment, read_experiment
from steer_bench.files import read_yaml, safe_name, write_whole
from steer_bench.judge.config import JudgeConfig


class MissingStageError(ValueError):
    """A stage was asked for before the one that makes its input."""


@dataclass(frozen=True)
class Run:
    """One execution of an experiment."""

    experiment: Experiment
    data: Data
    folder: Folder

    @property
    def models(self) -> list[str]:
        """Names of the models."""
        return [config.name for config in self.experiment.models]

    @property
    def targets(self) -> list[str]:
        """Targets in the order of the models."""
        return [name for name in self.models if any(name == target for _, target in self.experiment.directed)]


Stage = Callable[[Run], list[Path]]
"""Takes a run and gives the files it wrote."""
Stages = Mapping[str, Stage]
"""What an engine runs: stages by name."""


def open_run(name: str, folder: Path | None = None, *, judge: JudgeConfig | None = None) -> Run:
    """Open an experiment (shipped name or YAML) in its folder, or a run folder as it is; load no model.

    `judge` takes the place of the experiment's.

    Raises ValueError for anything wrong in the YAML, its files, concepts, splits, adapters and models, and for a folder that
    holds the run of another experiment, naming the keys that differ.
    """
    given = Path(name)
    if (given / "experiment.yaml").is_file():
        path, folder = given / "experiment.yaml", given
    else:
        path = find_experiment(name)
    experiment, errors = read_experiment(path)
    made = errors.lines.content.get("resolved") if path.parent == given else None
    base = Path(str(made.get("base", given))) if isinstance(made, dict) else path.resolve().parent
    if judge is not None:
        experiment = experiment.model_copy(update={"judge": judge})
    data = Data(experiment, base)
    if errors:
        check(data, errors)
    run = Run(experiment, data, Folder(folder or Path("runs") / safe_name(experiment.name)))
    known = run.folder.experiment
    if known.is_file() and (known != path or judge is not None):
        old, new = load_experiment(known).model_dump(), experiment.model_dump()
        differing = [key for key in new if old.get(key) != new[key] and key != "cluster"]
        if differing:
            raise ValueError(
                f"{run.folder} holds the run of another experiment (differing: {', '.join(differing)}); "
                "choose another folder with --out, or remove it"
            )
    check(data, errors)
    return run


def start(run: Run) -> None:
    """Write RUN/experiment.yaml once: the experiment, resolved, with what was used."""
    path, data = run.folder.experiment, run.data
    if path.is_file():
        return
    used = {
        "base": os.path.relpath(data.base, Path.cwd()) if data.base.is_relative_to(Path.cwd()) else str(data.base),
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "splits": data.split_ids,
        "halves": data.halves,
        "hashes": data.hashes,
        "versions": versions(),
    }
    content = run.experiment.model_dump(mode="json") | {"resolved": used}
    write_whole(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def resolved(folder: Folder) -> dict[str, object]:
    """Return what RUN/experiment.yaml says beside the experiment: splits, hashes, chosen layers; {} before the run begins."""
    content = read_yaml(folder.experiment) if folder.experiment.is_file() else {}
    found = content.get("resolved") if isinstance(content, dict) else None
    return dict(found) if isinstance(found, dict) else {}


def write_resolved(folder: Folder, more: Mapping[str, object]) -> None:
    """Write more of what was decided into RUN/experiment.yaml."""
    content = read_yaml(folder.experiment)
    assert isinstance(content, dict), "the run has begun"
    content["resolved"] = {**resolved(folder), **more}
    write_whole(folder.experiment, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def versions() -> dict[str, str]:
    """Return the versions that travel with every number."""
    return {"steer_bench": __version__, **{name: version(name) for name in ("torch", "transformers", "lm_eval")}}
