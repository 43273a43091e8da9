"""The experiment's YAML: read strictly, checked as a whole, every fault named with its key."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from steer_bench import shipped
from steer_bench.concepts.rules.declared import declared_rule
from steer_bench.files import KeyLines, read_yaml_lines, safe_name
from steer_bench.harness.ifeval import ifeval_rule
from steer_bench.names import hint
from steer_bench.results.measures import DEFAULT_TASKS, GRID, MEASURES, RULES, SPECIFICITY, SUPPRESSION, TASKS

_BY_FLAG = "load such a model with lm_eval's own flag --trust_remote_code (steer-bench lm-eval ...)"
FLAGS = {"trust_remote_code": _BY_FLAG, "confirm_run_unsafe_code": "lm_eval has a flag --confirm_run_unsafe_code"}
"""Keys that no YAML may hold -> the flag that there is."""


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


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Strict):
    """A model of the experiment."""

    name: str
    """Offline model, folder or Hugging Face name."""
    layer: int | float = 0.5
    """Decoder block, or relative depth in (0, 1)."""


class ConceptConfig(_Strict):
    """Where concepts come from."""

    source: str
    limit: int | None = Field(default=None, ge=1)
    held_out: int = Field(default=8, ge=1)
    halves: bool | Literal["auto"] = "auto"
    """Whether a source's vectors and the target's own come from disjoint halves of a concept's texts; auto: where that leaves
    16 texts a side for each."""
    alike: list[tuple[str, str]] = []
    """Pairs of concepts that may have the same vector."""


class SplitConfig(_Strict):
    """Sizes (a count or a share) or lists of ids."""

    fit: int | float | list[str]
    select: int | float | list[str] = 0
    test: int | float | list[str]
    seed: int = 0
    similarity: float | None = Field(default=None, gt=0, le=1)
    """Cosine of two descriptions' sentence embeddings (MiniLM) from which on two concepts stay in one split, beside what the
    overlap of their words keeps together."""


class NeutralConfig(_Strict):
    """Neutral texts."""

    map: str
    perplexity: str
    map_limit: int | None = Field(default=None, ge=10)
    """Neutral texts of the map corpus that are used."""
    fit_texts: bool = True
    """Whether the positives of the fit concepts are map texts too: texts of the tested kind, about other things."""


class TaskConfig(_Strict):
    """Limits of one task."""

    max_concepts: int | None = Field(default=None, ge=1)
    max_rules: int | None = Field(default=None, ge=1)
    max_prompts: int | None = Field(default=None, ge=1)
    max_texts: int | None = Field(default=None, ge=1)
    max_neutral: int | None = Field(default=None, ge=1)
    max_words: int | None = Field(default=None, ge=4)
    max_new_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0)
    """0 (the default) is greedy."""
    n_samples: int | None = Field(default=None, ge=1)
    """Replies a prompt; needs a temperature."""


class ResourceConfig(_Strict):
    """What one task of a kind asks of a cluster."""

    num_cpus: float = Field(default=1, ge=0)
    num_gpus: float | None = Field(default=None, ge=0)
    """None: one for a task with a model where the cluster has GPUs, none for others."""


class ClusterConfig(_Strict):
    """How a run spreads over a cluster (`--engine ray`). Changes no number, so it may change between two starts of a run."""

    workers: int | None = Field(default=None, ge=1)
    """Processes that measure, each with a model; as many as there is room for when left out."""
    shards: int | None = Field(default=None, ge=1)
    """Parts of each target's evaluation; four a worker when left out."""
    extract: ResourceConfig = ResourceConfig()
    fit: ResourceConfig = ResourceConfig()
    evaluate: ResourceConfig = ResourceConfig()
    judge: ResourceConfig = ResourceConfig(num_gpus=0)
    """Also merging and writing; give it a GPU for a local judge."""


class CapabilityConfig(_Strict):
    """Any lm-eval tasks, run under chosen arms: what steering costs beside perplexity. `capability: [hellaswag]` is short for it."""

    tasks: list[str] = Field(min_length=1)
    """Names of lm-eval's tasks or of ours (capability_choices needs no network), or the path of a YAML."""
    arms: list[str] | None = None
    """Adapters; all when left out. Unsteered is always run."""
    factor: float = Field(default=0.2, gt=0)
    """One factor for all arms: this is a cost, not a score to tune."""
    max_concepts: int = Field(default=1, ge=1)
    """Test concepts whose vectors are used, the first ones."""
    limit: int | None = Field(default=None, ge=1)
    """Questions a task."""


class ImportConfig(_Strict):
    """Vectors made elsewhere, as an arm of the model they are of and, through every linear map, of the models it is a source for."""

    file: str
    """A file of any format that `steer-bench convert` reads."""
    model: str
    name: str
    """Name of the arm."""
    concepts: dict[str, str] | None = None
    """Id in the file -> concept of this experiment; when left out the ids are the concepts."""
    ids: str | None = None
    layer: int | None = None
    concept: str | None = None
    """What the one vector of a file without ids is of."""


class Experiment(_Strict):
    """One YAML. Unknown keys are errors."""

    name: str
    models: list[ModelConfig] = Field(min_length=1)
    pairs: Literal["all"] | list[tuple[str, str]] = "all"
    concepts: ConceptConfig
    splits: SplitConfig
    rules: list[str | dict[str, Any]] = []
    """Names of rules, or rules of one's own, declared (see `steer_bench.concepts.rules.declared.DeclaredRule`)."""
    suppress: list[str] = []
    """Rules that an instruction asks for and a vector, subtracted, is to forbid."""
    rule_texts: int = Field(default=40, ge=2)
    """Texts that a rule's vector is made from, each as it stands and rewritten to obey."""
    rule_source: str | None = None
    """File of those texts, {"id", "text"} a line; when left out the neutral texts and the first concept's negatives."""
    vectors: list[ImportConfig] = []
    capability: CapabilityConfig | None = None
    neutral: NeutralConfig
    prompts: str = "instructions.jsonl"
    adapters: list[str | dict[str, dict[str, Any]]] = [
        "native",
        "identity",
        "linear",
        "mlp",
        "random",
        "mean",
        "prompt",
    ]
    factors: list[float] | dict[str, list[float]] = list(GRID)
    tasks: dict[str, TaskConfig] = {task: TaskConfig() for task in DEFAULT_TASKS}
    judge: dict[str, Any] = {"kind": "embedding"}
    chat: bool = True
    positions: Literal["text", "generated", "all"] = "text"
    dtype: str = "auto"
    device: str | None = None
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = 32
    damage_limit: float = Field(default=1.3, gt=1)
    """Largest perplexity ratio on neutral text at which likelihoods are compared."""
    equivalence_margin: float = Field(default=0.1, gt=0, lt=1)
    """How far from native, as a share of its effect, an arm may be and count as equivalent."""
    map_pairs: int = Field(default=50_000, ge=100)
    """Pairs kept for maps without a closed form."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    cluster: ClusterConfig = ClusterConfig()

    @field_validator("capability", mode="before")
    @classmethod
    def _short_capability(cls, given: Any) -> Any:
        return {"tasks": given} if isinstance(given, list) else given

    @property
    def rule_names(self) -> list[str]:
        """Names of the rules, declared ones too."""
        return [rule if isinstance(rule, str) else declared_rule(rule, ifeval_rule).name for rule in self.rules]

    def grid(self, task: str) -> tuple[float, ...]:
        """The factors of a task."""
        named = self.factors if isinstance(self.factors, dict) else {}
        if task == SPECIFICITY:  # a matrix: one factor, unless the task is named
            return tuple(named.get(task, MEASURES[task].factors))
        given = named.get(task, GRID) if isinstance(self.factors, dict) else self.factors
        return tuple(sorted(set(given)))

    @property
    def directed(self) -> list[tuple[str, str]]:
        """(source, target) pairs."""
        names = [model.name for model in self.models]
        if self.pairs == "all":
            return [(source, target) for target in names for source in names if source != target]
        return [tuple(pair) for pair in self.pairs]  # type: ignore[misc]

    @property
    def targets(self) -> list[str]:
        """Targets in the order of the models."""
        targets = {target for _, target in self.directed}
        return [model.name for model in self.models if model.name in targets]

    @property
    def limits(self) -> dict[str, dict[str, int | float]]:
        """Limits of each task, those that are given."""
        return {task: limits.model_dump(exclude_none=True) for task, limits in self.tasks.items()}

    def layer(self, model: str) -> int | float:
        """The layer of a model as it is given: an index or a relative depth."""
        return next(config.layer for config in self.models if config.name == model)


def load_experiment(path: Path) -> Experiment:
    """Read and check an experiment. Raises one ValueError with all faults, a line each: FILE:LINE, key, what is wrong."""
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
        wrong = error.errors()
        for fault in wrong:
            errors.add(fault["loc"], _explained(fault))
        sound = _without(content, [fault["loc"] for fault in wrong])
        if sound is None:
            errors.check()
        assert sound is not None
        experiment = sound
    for key, said in _faults(experiment):
        errors.add(key, said)
    return experiment, errors


def _without(content: dict[Any, Any], locs: Sequence[tuple[Any, ...]]) -> Experiment | None:
    """The experiment with its faulty keys left out, to find what else is wrong; None where they can not be left out."""
    kept = copy.deepcopy(content)
    for loc in locs:
        *path, last = loc
        inner: Any = kept
        for part in path:
            inner = inner[part] if isinstance(inner, dict) and part in inner else None
        if isinstance(inner, dict):
            inner.pop(last, None)
        elif loc:
            kept.pop(loc[0], None)
    try:
        return Experiment.model_validate(kept)
    except ValidationError:
        return None


def _explained(fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "missing":
        return f"{key}: this key is missing"
    if fault["type"] != "extra_forbidden":
        found = repr(fault["input"])
        return f"{key}: {fault['msg']} (found {found if len(found) <= 80 else found[:77] + '...'})"
    last = str(fault["loc"][-1])
    if last in FLAGS:
        return f"{key}: no file can switch this on, for it runs code that comes with a model; {FLAGS[last]}"
    known = set(Experiment.model_fields) if len(fault["loc"]) == 1 else set()
    inner: tuple[type[_Strict], ...] = (
        ModelConfig,
        ConceptConfig,
        SplitConfig,
        NeutralConfig,
        TaskConfig,
        ClusterConfig,
        ResourceConfig,
        CapabilityConfig,
        ImportConfig,
    )
    for model in inner if len(fault["loc"]) > 1 else ():
        known |= set(model.model_fields)
    near = hint(last, known - {last}, otherwise="")
    return f"{key}: unknown key" + (f"; {near}" if near else "")


def _faults(experiment: Experiment) -> Iterator[tuple[tuple[str, ...], str]]:
    """What types do not say: (key, what is wrong)."""
    try:
        safe_name(experiment.name)
    except ValueError as error:
        yield ("name",), f"name: {error}"
    names = [model.name for model in experiment.models]
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        yield ("models",), f"models: {name!r} is given twice"
    if not experiment.directed:
        yield ("pairs",), "pairs: no pair of models, so no target to measure; give two models, or [[source, target]]"
    for pair in experiment.directed:
        for name in pair:
            if name not in names:
                yield ("pairs",), f"pairs: {name!r} is not one of the models; {hint(name, names)}"
    grids = experiment.factors if isinstance(experiment.factors, dict) else {}
    for key, task in [*(("tasks", task) for task in experiment.tasks), *(("factors", task) for task in grids)]:
        if task not in TASKS:
            yield (key, task), f"{key}: unknown task {task!r}; {hint(task, TASKS)}"
    for task in experiment.tasks:
        grid = experiment.grid(task) if task in TASKS else (1.0,)
        if not grid or any(not 0 < factor < float("inf") for factor in grid):
            yield (
                ("factors", task),
                f"factors of {task}: {list(grid)}; give factors above 0 (unsteered, factor 0, is always measured)",
            )
    for task, limits in experiment.tasks.items():
        if (limits.n_samples or 1) > 1 and not limits.temperature:
            yield (
                ("tasks", task, "n_samples"),
                f"tasks.{task}: n_samples {limits.n_samples} at temperature 0 gives equal replies; set a temperature",
            )
    if "native" not in experiment.adapters:
        yield ("adapters",), "adapters: 'native' is missing; it is the baseline that every transfer is measured against"
    if RULES in experiment.tasks and not experiment.rules:
        yield (
            ("tasks", RULES),
            f"tasks: {RULES} needs rules; give rules: [all-lower-case, ...] or leave the task out",
        )
    if SUPPRESSION in experiment.tasks and not experiment.suppress:
        yield (
            ("tasks", SUPPRESSION),
            f"tasks: {SUPPRESSION} needs rules to suppress; give suppress: [numbered-list, ...] or leave the task out",
        )
    if experiment.suppress and SUPPRESSION not in experiment.tasks:
        yield ("suppress",), f"suppress: nothing measures it; add {SUPPRESSION} to the tasks"
    yield from _import_faults(experiment)
    if experiment.dtype != "auto" and experiment.dtype not in ("float32", "bfloat16", "float16"):
        yield ("dtype",), f"dtype: {experiment.dtype!r}; there are auto, float32, bfloat16, float16"


def _import_faults(experiment: Experiment) -> Iterator[tuple[tuple[str, ...], str]]:
    """Imported vectors and capability arms that belong to nothing in the experiment."""
    names = [model.name for model in experiment.models]
    arms = [Path(given if isinstance(given, str) else next(iter(given), "")).stem for given in experiment.adapters]
    for entry in experiment.vectors:
        if entry.model not in names:
            yield ("vectors",), f"vectors: {entry.file} is of {entry.model!r}, which is not one of the models"
        if entry.name in arms or [other.name for other in experiment.vectors].count(entry.name) > 1:
            yield ("vectors",), f"vectors: {entry.name!r} is the name of another arm; give it one of its own"
    known = (*arms, *(entry.name for entry in experiment.vectors))
    for arm in (experiment.capability.arms or []) if experiment.capability else []:
        if not any(arm == name or arm.startswith(f"{name}-") for name in known):  # few-shot-8, linear-published
            yield ("capability", "arms"), f"capability.arms: {arm!r} is not one of the adapters; {hint(arm, known)}"


def find_experiment(name: str) -> Path:
    """A shipped experiment by name, or the path of a YAML. Raises ValueError with a suggestion."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path
    known = {file.stem: file for file in shipped("experiments").glob("*.yaml")}
    if name in known:
        return known[name]
    near = hint(name, known, otherwise=f"shipped experiments: {', '.join(sorted(known))}")
    raise ValueError(f"no experiment or run {name!r}; give a YAML file, a run folder or a shipped name; {near}")
