"""Reading: an experiment's YAML, strictly and as a whole, with all its faults at once.

experiment.yaml -> [Experiment, CollectErrors], each fault with FILE:LINE and key
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from steer_bench import shipped
from steer_bench.experiment.config import Experiment
from steer_bench.files import Checked, KeyLines, read_yaml_lines, safe_name
from steer_bench.names import hint
from steer_bench.results.measures import MEASURES, RULES, SUPPRESSION, TASKS

_BY_FLAG = "load such a model with lm_eval's own flag --trust_remote_code (steer-bench lm-eval ...)"
FLAGS = {"trust_remote_code": _BY_FLAG, "confirm_run_unsafe_code": "lm_eval has a flag --confirm_run_unsafe_code"}
"""Keys that no YAML may hold -> the flag that there is."""
Fault = tuple[tuple[str, ...], str]
"""(key, what is wrong with it)"""


class CollectErrors:
    """The faults of a YAML file, each said once, with the place of its key in front."""

    def __init__(self, lines: KeyLines) -> None:
        self.lines = lines
        self._found: dict[str, None] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, key: Sequence[object], said: str) -> None:
        """Keep what is wrong with a key."""
        self._found[f"{self.lines.of(key)}: {said}"] = None

    @contextmanager
    def at(self, *key: object) -> Iterator[None]:
        """Keep a ValueError raised in the block, line by line, instead of letting it through."""
        try:
            yield
        except ValueError as error:
            for line in str(error).splitlines():
                self.add(key, line)

    def check(self) -> None:
        """Raise one ValueError with everything found, one line per fault; do nothing where there is none."""
        if self._found:
            raise ValueError("\n".join(self._found))


def load_experiment(path: Path) -> Experiment:
    """Read and check an experiment. Raises one ValueError with all faults, one line each: FILE:LINE, key, what is wrong."""
    experiment, errors = read_experiment(path)
    errors.check()
    return experiment


def read_experiment(path: Path) -> tuple[Experiment, CollectErrors]:
    """Read an experiment and collect its faults; it then lacks what is faulty.

    Raises ValueError where nothing usable is left.
    """
    content, lines = read_yaml_lines(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: an experiment is a mapping of keys; see steer_bench/experiments/quickstart.yaml")
    content = {key: value for key, value in content.items() if key != "resolved"}
    errors = CollectErrors(lines)
    try:
        experiment = Experiment.model_validate(content)
    except ValidationError as error:
        faults = error.errors()
        other = (
            "list_type",
            "dict_type",
            "literal_error",
            "string_type",
        )  # a key of several forms has the faults of each
        meant = {fault["loc"][0] for fault in faults if fault["type"] not in other}
        for fault in (one for one in faults if one["type"] not in other or one["loc"][0] not in meant):
            for line in _said(fault).splitlines():
                errors.add(fault["loc"], line)
        try:  # without its faulty keys, to find what else is wrong
            experiment = Experiment.model_validate(_without(content, [fault["loc"] for fault in faults]))
        except ValidationError:
            errors.check()
            raise
    for found in (_model_faults, _split_faults, _task_faults, _arm_faults):
        for key, said in found(experiment):
            errors.add(key, said)
    return experiment, errors


def _without(content: dict[object, object], locs: Sequence[tuple[int | str, ...]]) -> dict[object, object]:
    """Return the content without these keys; of one within a list the whole list goes."""
    kept = copy.deepcopy(content)
    for *path, last in locs:
        inner: object = kept
        for part in path:
            inner = inner.get(part) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner.pop(last, None)
        else:
            kept.pop(path[0], None)
    return kept


def _said(fault: ErrorDetails) -> str:
    """Say what pydantic found, in one line; of a judge, all its faults in one line each."""
    if fault["type"] == "judge":  # names the keys, and shows no secret
        return fault["msg"]
    key, last = ".".join(part for part in map(str, fault["loc"]) if "[" not in part), str(fault["loc"][-1])
    if fault["type"] == "missing":
        return f"{key}: this key is missing"
    if fault["type"] != "extra_forbidden":
        found = repr(fault["input"])
        return f"{key}: {fault['msg']} (found {found if len(found) <= 80 else found[:77] + '...'})"
    if last in FLAGS:
        return f"{key}: no file can switch this on, for it runs code that comes with a model; {FLAGS[last]}"
    models: set[type[Checked]] = {Experiment} if len(fault["loc"]) == 1 else {*Checked.__subclasses__()} - {Experiment}
    near = hint(last, {name for model in models for name in model.model_fields} - {last}, otherwise="")
    return f"{key}: unknown key" + (f"; {near}" if near else "")


def _model_faults(experiment: Experiment) -> Iterator[Fault]:
    """Yield what is wrong with the name, the models and their pairs."""
    try:
        safe_name(experiment.name)
    except ValueError as error:
        yield ("name",), f"name: {error}"
    names = [model.name for model in experiment.models]
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        yield ("models",), f"models: {name!r} is given twice"
    if not experiment.directed:
        yield ("pairs",), "pairs: no pair of models, so no target to measure; give two models, or [[source, target]]"
    for name in (name for pair in experiment.directed for name in pair if name not in names):
        yield ("pairs",), f"pairs: {name!r} is not one of the models; {hint(name, names)}"


def _split_faults(experiment: Experiment) -> Iterator[Fault]:
    """Yield what is missing in the splits, or goes with no folds."""
    for name in ("fit", "test"):
        given, folds = getattr(experiment.splits, name) is not None, experiment.splits.folds is not None
        if not given and not folds:
            yield ("splits", name), f"splits.{name}: this key is missing"
        if given and folds:
            yield ("splits", name), f"splits.{name}: folds test every concept and fit on the others; leave it out"


def _task_faults(experiment: Experiment) -> Iterator[Fault]:
    """Yield what is wrong with the tasks, their levels, factors and limits, and the rules that they need."""
    given = {"tasks": experiment.tasks, "factors": experiment.factors, "damage": experiment.damage}
    for key, task in ((key, task) for key, tasks in given.items() if isinstance(tasks, dict) for task in tasks):
        if task not in TASKS:
            yield (key, task), f"{key}: unknown task {task!r}; {hint(task, TASKS)}"
        elif key == "factors" and not MEASURES[task].replies:
            said = f"factors: {task} compares arms at equal damage only (damage: [1.1, 1.3]); a grid is for tasks of replies"
            yield (key, task), said
    for task, limits in experiment.tasks.items():
        grid, levels = (experiment.grid(task), experiment.levels(task)) if task in TASKS else ((), (1.3,))
        if any(not 0 < factor < float("inf") for factor in grid):
            said = f"factors of {task}: {list(grid)}; give factors above 0 (unsteered, factor 0, is always measured)"
            yield ("factors", task), said
        if not grid and not levels:
            yield ("damage", task), f"damage of {task}: no level; give perplexity ratios above 1, such as [1.1, 1.3]"
        if (limits.n_samples or 1) > 1 and not limits.temperature:
            said = f"tasks.{task}: n_samples {limits.n_samples} at temperature 0 gives equal replies; set a temperature"
            yield ("tasks", task, "n_samples"), said
    if RULES in experiment.tasks and not experiment.rules:
        said = f"tasks: {RULES} needs rules; give rules: [all-lower-case, ...] or leave the task out"
        yield ("tasks", RULES), said
    if SUPPRESSION in experiment.tasks and not experiment.suppress:
        said = (
            f"tasks: {SUPPRESSION} needs rules to suppress; give suppress: [numbered-list, ...] or leave the task out"
        )
        yield ("tasks", SUPPRESSION), said
    if experiment.suppress and SUPPRESSION not in experiment.tasks:
        yield ("suppress",), f"suppress: nothing measures it; add {SUPPRESSION} to the tasks"


def _arm_faults(experiment: Experiment) -> Iterator[Fault]:
    """Yield what is wrong with the adapters and the imported vectors, taken together."""
    if "native" not in experiment.adapters:
        yield ("adapters",), "adapters: 'native' is missing; it is the baseline that every transfer is measured against"
    names = [model.name for model in experiment.models]
    arms = [Path(given if isinstance(given, str) else next(iter(given), "")).stem for given in experiment.adapters]
    for claim in experiment.claims or ():
        if claim not in (made := [*arms, *(entry.name for entry in experiment.vectors)]):
            yield ("claims",), f"claims: {claim!r} is not one of the arms; {hint(claim, made)}"
    for entry in experiment.vectors:
        if entry.model not in names:
            yield ("vectors",), f"vectors: {entry.file} is of {entry.model!r}, which is not one of the models"
        if entry.name in arms or [other.name for other in experiment.vectors].count(entry.name) > 1:
            yield ("vectors",), f"vectors: {entry.name!r} is the name of another arm; give it another name"


def find_experiment(name: str) -> Path:
    """Return the path of a YAML or of a shipped experiment. Raises ValueError with a suggestion."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path
    known = {file.stem: file for file in shipped("experiments").glob("*.yaml")}
    if name in known:
        return known[name]
    near = hint(name, known, otherwise=f"shipped experiments: {', '.join(sorted(known))}")
    raise ValueError(f"no experiment or run {name!r}; give a YAML file, a run folder or a shipped name; {near}")
