"""Experiment: one YAML, and the stages that make a leaderboard of it.

    extract -> fit -> evaluate -> report

Each stage is a function of a `Run` (an experiment and its folder), reads files and writes files, and does nothing when what
it would write is there already for the same inputs. Config is read here, once, and goes no deeper.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from steer_bench import __version__, shipped
from steer_bench.concepts import (
    Concept,
    Splits,
    check_splits,
    held_out,
    load_concepts,
    load_prompts,
    load_texts,
    safe_name,
    split_concepts,
)
from steer_bench.models import check_model, read_config
from steer_bench.protocol import Protocol
from steer_bench.results import write_atomic
from steer_bench.rules import rule_concept
from steer_bench.transfer.adapters import Adapter, load_adapters

if TYPE_CHECKING:
    from torch import Tensor

    from steer_bench.models import Loaded
    from steer_bench.vectors import VectorStore

logger = logging.getLogger(__name__)

TASKS = ("concept_likelihood", "steered_perplexity", "concept_steering", "rule_following")
GRID = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8)


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


class SplitConfig(_Strict):
    """Sizes (a count or a share) or lists of ids."""

    fit: int | float | list[str]
    select: int | float | list[str] = 0
    test: int | float | list[str]
    seed: int = 0


class NeutralConfig(_Strict):
    """Neutral texts."""

    map: str
    perplexity: str
    map_limit: int | None = Field(default=None, ge=10)


class TaskConfig(_Strict):
    """Limits of one task."""

    max_concepts: int | None = Field(default=None, ge=1)
    max_rules: int | None = Field(default=None, ge=1)
    max_prompts: int | None = Field(default=None, ge=1)
    max_texts: int | None = Field(default=None, ge=1)
    max_neutral: int | None = Field(default=None, ge=1)
    max_words: int | None = Field(default=None, ge=4)
    max_new_tokens: int | None = Field(default=None, ge=1)


class Experiment(_Strict):
    """One YAML. Unknown keys are errors."""

    name: str
    models: list[ModelConfig] = Field(min_length=1)
    pairs: Literal["all"] | list[tuple[str, str]] = "all"
    concepts: ConceptConfig
    splits: SplitConfig
    rules: list[str] = []
    rule_texts: int = Field(default=40, ge=2)
    """Texts that a rule's vector is made from, each as it stands and rewritten to obey."""
    neutral: NeutralConfig
    prompts: str = "instructions.jsonl"
    adapters: list[str] = ["native", "identity", "linear", "mlp", "random", "mean"]
    factors: list[float] | dict[str, list[float]] = list(GRID)
    tasks: dict[str, TaskConfig] = {task: TaskConfig() for task in TASKS}
    judge: dict[str, Any] = {"kind": "embedding"}
    chat: bool = True
    positions: Literal["text", "generated", "all"] = "text"
    dtype: str = "auto"
    device: str | None = None
    batch_size: int | Literal["auto"] = 32
    map_pairs: int = Field(default=50_000, ge=100)
    """Pairs kept for maps without a closed form."""
    seed: int = 0

    def grid(self, task: str) -> tuple[float, ...]:
        """The factors of a task."""
        given = self.factors.get(task, list(GRID)) if isinstance(self.factors, dict) else self.factors
        return tuple(sorted(set(given)))

    @property
    def directed(self) -> list[tuple[str, str]]:
        """(source, target) pairs."""
        names = [model.name for model in self.models]
        if self.pairs == "all":
            return [(source, target) for target in names for source in names if source != target]
        return [tuple(pair) for pair in self.pairs]  # type: ignore[misc]


class _NoDuplicateKeys(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys silently; here it is an error."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise ValueError(f"line {key_node.start_mark.line + 1}: key {key!r} is given twice")
        seen.add(key)
    return loader.construct_mapping(node, deep)


_NoDuplicateKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> Any:
    """YAML by the safe loader, duplicate keys refused. Raises ValueError naming the file."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_NoDuplicateKeys)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error


def load_experiment(path: Path) -> Experiment:
    """Read and check an experiment. Raises one ValueError with all faults, each naming its key."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: an experiment is a mapping of keys; see steer_bench/experiments/quickstart.yaml")
    content.pop("resolved", None)
    try:
        experiment = Experiment.model_validate(content)
    except ValidationError as error:
        raise ValueError("\n".join(f"{path}: {_explained(fault)}" for fault in error.errors())) from error
    faults = list(_faults(experiment))
    if faults:
        raise ValueError("\n".join(f"{path}: {fault}" for fault in faults))
    return experiment


def _explained(fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] != "extra_forbidden":
        return f"{key}: {fault['msg']} (found {fault['input']!r})"
    known: set[str] = set()
    for model in (Experiment, ModelConfig, ConceptConfig, SplitConfig, NeutralConfig, TaskConfig):
        known |= set(model.model_fields)
    near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
    return f"{key}: unknown key" + (f"; did you mean {near[0]!r}?" if near else "")


def _faults(experiment: Experiment) -> Iterator[str]:
    """What types do not say."""
    names = [model.name for model in experiment.models]
    for name in {name for name in names if names.count(name) > 1}:
        yield f"models: {name!r} is given twice"
    for pair in experiment.directed:
        for name in pair:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                yield f"pairs: {name!r} is not one of the models" + (f"; did you mean {near[0]!r}?" if near else "")
    for task in {*experiment.tasks, *(experiment.factors if isinstance(experiment.factors, dict) else ())}:
        if task not in TASKS:
            near = difflib.get_close_matches(task, TASKS, n=1)
            yield f"tasks: unknown task {task!r}; " + (
                f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(TASKS)}"
            )
    for task in experiment.tasks:
        grid = experiment.grid(task) if task in TASKS else (1.0,)
        if not grid or any(not 0 < factor < float("inf") for factor in grid):
            yield f"factors of {task}: {list(grid)}; give factors above 0 (unsteered, factor 0, is always measured)"
    if "native" not in experiment.adapters:
        yield "adapters: 'native' is missing; it is the baseline that every transfer is measured against"
    if "rule_following" in experiment.tasks and not experiment.rules:
        yield "tasks: rule_following needs rules; give rules: [all-lower-case, ...] or leave the task out"
    if experiment.dtype != "auto" and experiment.dtype not in ("float32", "bfloat16", "float16"):
        yield f"dtype: {experiment.dtype!r}; there are auto, float32, bfloat16, float16"


def find_experiment(name: str) -> Path:
    """A shipped experiment by name, or the path of a YAML. Raises ValueError with a suggestion."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path
    known = {file.stem: file for file in shipped("experiments").glob("*.yaml")}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"shipped experiments: {', '.join(sorted(known))}"
    raise ValueError(f"no experiment or run {name!r}; give a YAML file, a run folder or a shipped name; {hint}")


class MissingStageError(ValueError):
    """A stage was asked for before the one that makes its input."""


def model_file_name(model: str) -> str:
    """A model's name as a file name; of a path its last part, with a hash of the whole, for two folders may end alike.

    >>> model_file_name("google/gemma-2-2b-it"), model_file_name("/models/tiny llama")
    ('google__gemma-2-2b-it', 'tiny-llama-32f4aaad')
    """
    if not model.startswith(("/", ".", "~")):
        return safe_name(model)
    last = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model).name).strip("._-")[:80] or "model"
    return f"{last}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Run:
    """An experiment, where its YAML stands, and the folder of its results."""

    experiment: Experiment
    base: Path
    """Folder that relative paths in the YAML start from."""
    folder: Path

    def data(self, name: str) -> str:
        """A file named in the YAML: as given, relative to the YAML, or shipped; a hub data set stays what it is."""
        if name.startswith("hf:"):
            return name
        for place in (Path(name), self.base / name, shipped("tasks") / "data" / name):
            if place.exists():
                return str(place)
        raise ValueError(f"{name}: no such file, beside {self.base} or in the shipped tasks/data")

    @cached_property
    def concepts(self) -> dict[str, Concept]:
        """Topics and rules by id, with all their texts."""
        config = self.experiment.concepts
        topics = load_concepts(self.data(config.source), limit=config.limit)
        texts = load_texts(self.data(self.experiment.neutral.perplexity))
        texts = [*texts, *(text for text in topics[0].negatives if text not in texts)][: self.experiment.rule_texts]
        rules = [rule_concept(rule, texts) for rule in self.experiment.rules]
        return {concept.id: concept for concept in (*topics, *rules)}

    @cached_property
    def splits(self) -> Splits:
        """Topics by split."""
        config, topics = self.experiment.splits, [c for c in self.concepts.values() if c.kind == "topic"]
        given = {name: getattr(config, name) for name in ("fit", "select", "test")}
        pinned = {name: value for name, value in given.items() if isinstance(value, list)}
        sizes = {name: value for name, value in given.items() if not isinstance(value, list)}
        splits = split_concepts(topics, **sizes, seed=config.seed, pinned=pinned)
        check_splits(splits, topics)
        return splits

    @cached_property
    def divided(self) -> dict[str, tuple[Concept, Concept]]:
        """(texts for the vector, held-out texts) of every concept that is used."""
        used = {*self.splits.fit, *self.splits.select, *self.splits.test}
        n, seed = self.experiment.concepts.held_out, self.experiment.seed
        return {
            key: held_out(concept, n, seed)
            for key, concept in self.concepts.items()
            if key in used or concept.kind == "rule"
        }

    @property
    def measured(self) -> list[str]:
        """Concepts that arms are made for: test topics and rules."""
        return [*self.splits.test, *(key for key, concept in self.concepts.items() if concept.kind == "rule")]

    @cached_property
    def adapters(self) -> list[Adapter]:
        """The arms' recipes."""
        return load_adapters(self.experiment.adapters, base=self.base)

    @cached_property
    def map_texts(self) -> list[str]:
        """Neutral texts that maps are fitted on; none of them is a text of a concept or of the perplexity set."""
        texts = load_texts(self.data(self.experiment.neutral.map))[: self.experiment.neutral.map_limit]
        seen = {text for concept in self.concepts.values() for text in (*concept.positives, *concept.negatives)}
        seen |= set(load_texts(self.data(self.experiment.neutral.perplexity)))
        shared = next((text for text in texts if text in seen), None)
        if shared is not None:
            raise ValueError(
                f"neutral.map: a text of the map corpus is also a concept or perplexity text: {shared[:60]!r}; remove it"
            )
        return texts

    def vectors_file(self, model: str) -> Path:
        """RUN/vectors/MODEL.safetensors"""
        return self.folder / "vectors" / f"{model_file_name(model)}.safetensors"

    def arms_file(self, target: str) -> Path:
        """RUN/arms/MODEL.safetensors"""
        return self.folder / "arms" / f"{model_file_name(target)}.safetensors"

    def evaluation(self, target: str) -> Path:
        """RUN/evaluation/MODEL"""
        return self.folder / "evaluation" / model_file_name(target)

    @property
    def targets(self) -> list[str]:
        """Targets in the order of the models."""
        return [
            model.name
            for model in self.experiment.models
            if model.name in {target for _, target in self.experiment.directed}
        ]

    def layer(self, model: str, n_layers: int) -> int:
        """The model's layer as an index."""
        from steer_bench.models import resolve_layer

        return resolve_layer(next(config.layer for config in self.experiment.models if config.name == model), n_layers)


def open_run(name: str, folder: Path | None = None) -> Run:
    """An experiment (name or YAML) into its folder, or a run folder as it is; everything checked, nothing loaded.

    Raises ValueError for anything wrong in the YAML, its files, concepts, splits, adapters and models, and for a folder that
    holds the run of another experiment, naming the keys that differ.
    """
    given = Path(name)
    if (given / "experiment.yaml").is_file():
        path, folder = given / "experiment.yaml", given
        base = Path(read_yaml(path).get("resolved", {}).get("base", given))
    else:
        path = find_experiment(name)
        base = path.resolve().parent
    experiment = load_experiment(path)
    run = Run(experiment, base, folder or Path("runs") / safe_name(experiment.name))
    known = run.folder / "experiment.yaml"
    if known.is_file() and known != path:
        old, new = load_experiment(known).model_dump(), experiment.model_dump()
        differing = [key for key in new if old.get(key) != new[key]]
        if differing:
            raise ValueError(
                f"{run.folder} holds the run of another experiment (differing: {', '.join(differing)}); "
                "choose another folder with --out, or remove it"
            )
    _check(run)
    return run


def _check(run: Run) -> None:
    """Everything that can be wrong before a model is loaded."""
    _ = run.splits, run.divided, run.adapters, run.map_texts
    load_prompts(run.data(run.experiment.prompts))
    if not run.splits.test:
        raise ValueError("splits.test: no test concept; a run measures at least one")
    from steer_bench.judge import load_judge

    load_judge(run.experiment.judge, references={})
    for config in run.experiment.models:
        model_file_name(config.name)
        check_model(config.name)
        depth = read_config(config.name).get("num_hidden_layers")
        if depth is not None:
            run.layer(config.name, depth)


def _start(run: Run) -> None:
    """Write RUN/experiment.yaml once: the experiment, resolved, with what was used."""
    path = run.folder / "experiment.yaml"
    if path.is_file():
        return
    resolved = {
        "base": os.path.relpath(run.base, Path.cwd()) if run.base.is_relative_to(Path.cwd()) else str(run.base),
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "splits": {name: list(getattr(run.splits, name)) for name in ("fit", "select", "test")},
        "splits_hash": run.splits.hash,
        "versions": versions(),
    }
    content = run.experiment.model_dump(mode="json") | {"resolved": resolved}
    write_atomic(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def versions() -> dict[str, str]:
    """Versions that travel with every number."""
    return {
        "steer_bench": __version__,
        **{name: version(name) for name in ("torch", "transformers", "lm_eval")},
    }


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


# -------------------------------------------------------------------------------------------------- extract


def extract(run: Run) -> list[Path]:
    """DiffMean vectors of every concept on every model: RUN/vectors/MODEL.safetensors."""
    from steer_bench.models import prepare_models

    _start(run)
    prepare_models([config.name for config in run.experiment.models])
    return [_extract_model(run, config.name) for config in run.experiment.models]


def _groups(run: Run, concepts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Texts by side: "+concept" and "-concept"."""
    sides: dict[str, tuple[str, ...]] = {}
    for key in concepts:
        sides[f"+{key}"], sides[f"-{key}"] = run.divided[key][0].positives, run.divided[key][0].negatives
    return sides


def _extract_model(run: Run, name: str) -> Path:
    from steer_bench.models import revision
    from steer_bench.vectors import VectorStore, load_card

    path, groups = run.vectors_file(name), _groups(run, list(run.divided))
    neutral = run.map_texts[:60]
    inputs = _hash(
        revision(name),
        run.experiment.dtype,
        groups,
        neutral,
        [c.layer for c in run.experiment.models if c.name == name],
    )
    if path.is_file() and load_card(path).get("inputs") == inputs:
        logger.info("%s is up to date", path)
        return path
    from steer_bench.activations import centred_norm, mean_activations
    from steer_bench.models import d_model, decoder_layers, load_model

    loaded = load_model(name, dtype=run.experiment.dtype, device=run.experiment.device)
    layer = run.layer(name, len(decoder_layers(loaded.model)))
    means = mean_activations(loaded, layer, groups, desc=f"extract {name}")[""]
    vectors = {key: (means[f"+{key}"].value - means[f"-{key}"].value).float().numpy() for key in run.divided}
    card = {
        "method": "diff_mean", "revision": revision(name), "dtype": str(loaded.model.dtype), "positions": "text", "inputs": inputs,
        "tokens": {group: mean.n_tokens for group, mean in means.items()}, "versions": versions(), "d_model": d_model(loaded.model),
        "texts": {key: _hash(groups[f"+{key}"], groups[f"-{key}"]) for key in run.divided},
    }  # fmt: skip
    VectorStore(name, layer, vectors, centred_norm(loaded, layer, neutral), card).save(path)
    return path


# -------------------------------------------------------------------------------------------------- fit


def fit(run: Run) -> list[Path]:
    """Transfer maps of every pair and the arms of every target: RUN/maps/…, RUN/arms/TARGET.safetensors, RUN/protocol.json."""
    from steer_bench.vectors import VectorStore, load_card

    _start(run)
    missing = [config.name for config in run.experiment.models if not run.vectors_file(config.name).is_file()]
    if missing:
        raise MissingStageError(
            f"no vectors of {missing[0]} in {run.folder}; run steer-bench extract {run.folder} first"
        )
    _protocol(run).save(run.folder / "protocol.json")
    stores = {config.name: VectorStore.load(run.vectors_file(config.name)) for config in run.experiment.models}
    digests = {name: store.card["sha256"] for name, store in stores.items()}
    adapters = [(a.name, a.kind, a.method, dict(a.options)) for a in run.adapters]
    inputs = _hash(
        digests, adapters, run.map_texts, run.experiment.seed, run.experiment.map_pairs, run.measured, run.splits.fit
    )
    files = [run.arms_file(target) for target in run.targets]
    if all(file.is_file() and load_card(file).get("inputs") == inputs for file in files):
        logger.info("arms in %s are up to date", run.folder / "arms")
        return files
    transferred, covariances = _fit_pairs(run, stores)
    sides = {name: _side(run, store, covariances.get(name)) for name, store in stores.items()}
    return [_save_arms(run, sides[target], stores[target], transferred, inputs) for target in run.targets]


def _protocol(run: Run) -> Protocol:
    neutral = load_texts(run.data(run.experiment.neutral.perplexity))
    return Protocol(
        concepts={key: run.divided[key][1] for key in run.measured},
        neutral={f"neutral-{i:02d}": text for i, text in enumerate(neutral, 1)},
        prompts=tuple(load_prompts(run.data(run.experiment.prompts))),
        factors={task: run.experiment.grid(task) for task in run.experiment.tasks},
        judge=run.experiment.judge,
        chat=run.experiment.chat,
    )


@dataclass(frozen=True)
class _Transferred:
    """What one adapter made of one (source, target) pair."""

    vectors: Mapping[str, Tensor]
    """Concept -> (d_target,); empty when the adapter was refused for this pair."""
    report: Mapping[str, Any]


Transferred = dict[tuple[str, str, str], _Transferred]
"""(adapter, source, target) -> what it made."""


def _side(run: Run, store: VectorStore, covariance: Tensor | None = None) -> Any:
    import torch

    from steer_bench.transfer.fits import Side

    vectors = {key: torch.from_numpy(vector).double() for key, vector in store.vectors.items()}
    return Side(store.model, vectors, run.splits.fit, store.d_model, covariance)


def _fit_pairs(run: Run, stores: Mapping[str, VectorStore]) -> tuple[Transferred, dict[str, Tensor]]:
    """Fit every transfer adapter on every pair; one pass over the texts serves both directions of two models.

    Also the covariance of each model's activations on the map corpus, for the control that is drawn from it.
    """
    from steer_bench.models import load_model

    recipes = [adapter for adapter in run.adapters if _needs_source(adapter)]
    made: Transferred = {}
    covariances: dict[str, Tensor] = {}
    if not recipes and all(adapter.method != "random-covariance" for adapter in run.adapters):
        return made, covariances
    unordered = list(dict.fromkeys(tuple(sorted(pair)) for pair in run.experiment.directed))
    loaded: dict[str, Loaded] = {}
    for first, second in unordered:
        for name in list(loaded):
            if name not in (first, second):
                del loaded[name]
        for name in (first, second):
            if name not in loaded:
                loaded[name] = load_model(name, dtype=run.experiment.dtype, device=run.experiment.device)
        forward = _pair(run, loaded[first], loaded[second], stores)
        covariances[first] = forward.train.source_source / forward.train.n
        covariances[second] = forward.train.target_target / forward.train.n
        for pair in (forward, _reversed(forward)):
            source, target = pair.source.model, pair.target.model
            if (source, target) in run.experiment.directed:
                for adapter in recipes:
                    made[adapter.name, source, target] = _fit_one(
                        run, adapter, pair, loaded[source], stores[source].layer
                    )
    return made, covariances


def _needs_source(adapter: Adapter) -> bool:
    from steer_bench.transfer.rows import ROWS

    return adapter.method not in ROWS


def _pair(run: Run, source: Loaded, target: Loaded, stores: Mapping[str, VectorStore]) -> Any:
    """Paired activations of the map corpus, every tenth document held out."""
    import torch

    from steer_bench.activations import MomentAccumulator, paired
    from steer_bench.transfer.fits import Pair

    layers = stores[source.name].layer, stores[target.name].layer
    moments, samples = (MomentAccumulator(), MomentAccumulator()), ([], [])  # type: ignore[var-annotated]
    desc = f"pair {source.name} and {target.name}"
    for index, x, y in paired(source, layers[0], target, layers[1], run.map_texts, desc=desc):
        held = int(index % 10 == 9)
        moments[held].add(x, y)
        if sum(len(part) for part, _ in samples[held]) < run.experiment.map_pairs:
            samples[held].append((x.cpu(), y.cpu()))
    kept = [(torch.cat([x for x, _ in part]), torch.cat([y for _, y in part])) for part in samples]
    sides = _side(run, stores[source.name]), _side(run, stores[target.name])
    return Pair(*sides, moments[0].moments(), moments[1].moments(), kept[0], kept[1], run.experiment.seed)


def _reversed(pair: Any) -> Any:
    from steer_bench.transfer.fits import Pair

    samples = pair.train_samples[::-1], pair.held_out_samples[::-1]
    return Pair(pair.target, pair.source, pair.train.reversed(), pair.held_out.reversed(), *samples, pair.seed)


def _fit_one(run: Run, adapter: Adapter, pair: Any, source: Loaded, layer: int) -> _Transferred:
    """One adapter on one pair: the map's file, and the vectors of the measured concepts through it."""
    from steer_bench.activations import mean_activations
    from steer_bench.transfer.fits import FITS, transfer
    from steer_bench.vectors import save_tensors

    try:
        fitted = FITS[adapter.method](pair, **adapter.options)
    except ValueError as error:  # too few concepts, say: a row with the reason, not the end of the run
        logger.warning("adapter %s refused for %s -> %s: %s", adapter.name, pair.source.model, pair.target.model, error)
        return _Transferred({}, {"refused": str(error)})
    card = {
        "kind": "map",
        "adapter": adapter.name,
        "source": pair.source.model,
        "target": pair.target.model,
        "report": dict(fitted.report),
    }
    folder = run.folder / "maps" / f"{model_file_name(pair.source.model)}--{model_file_name(pair.target.model)}"
    save_tensors(folder / f"{safe_name(adapter.name)}.safetensors", fitted.map.tensors(), card)
    pushed = None
    if not fitted.map.is_linear:
        groups = _groups(run, run.measured)
        means = mean_activations(
            source, layer, groups, maps={"f": fitted.map}, desc=f"push {source.name} through {adapter.name}"
        )["f"]
        pushed = {key: means[f"+{key}"].value - means[f"-{key}"].value for key in run.measured}
    vectors = {key: pair.source.vectors[key] for key in run.measured}
    return _Transferred(transfer(fitted.map, vectors, pushed), fitted.report)


def _save_arms(run: Run, side: Any, store: VectorStore, made: Transferred, inputs: str) -> Path:
    """RUN/arms/TARGET.safetensors: every arm x concept of a target, and S. `side`: the target, as the controls need it."""
    import torch

    from steer_bench.transfer.geometry import geometry
    from steer_bench.vectors import Arm, Arms

    target = store.model
    by_arm: dict[tuple[str, str], Mapping[str, Tensor]] = {}
    refused: list[dict[str, str]] = []
    reports: list[dict[str, Any]] = []
    for adapter in run.adapters:
        if not _needs_source(adapter):
            own, reasons = _row_vectors(run, adapter, side)
            refused.extend({"arm": adapter.name, "source": "", "reason": reason} for reason in reasons)
            if own:
                by_arm[adapter.name, ""] = own
            continue
        for source in (source for source, other in run.experiment.directed if other == target):
            transferred = made[adapter.name, source, target]
            if transferred.vectors:
                by_arm[adapter.name, source] = transferred.vectors
                reports.append({"arm": adapter.name, "source": source, **transferred.report})
            else:
                refused.append({"arm": adapter.name, "source": source, "reason": transferred.report["refused"]})
    native = {key: side.vectors[key] for key in run.splits.test}
    native_mean = torch.stack(
        [torch.nn.functional.normalize(side.vectors[key], dim=0) for key in run.splits.fit or run.splits.test]
    ).mean(0)
    measured = [
        {"source": source, "target": target, "arm": arm, "r2": _report(reports, arm, source).get("r2"),
         **geometry({key: vectors[key] for key in run.splits.test}, native, native_mean)._asdict()}
        for (arm, source), vectors in by_arm.items()
    ]  # fmt: skip
    card = {
        "inputs": inputs, "revision": store.card["revision"], "dtype": store.card["dtype"], "geometry": measured, "fits": reports,
        "refused": refused, "versions": versions(), "positions": run.experiment.positions,
        "entries": [[arm, source, sorted(vectors)] for (arm, source), vectors in by_arm.items()],
    }  # fmt: skip
    vectors = {
        Arm(arm, source, concept): vector.float().numpy()
        for (arm, source), of_arm in by_arm.items()
        for concept, vector in of_arm.items()
    }
    Arms(target, store.layer, store.scale, vectors, card).save(run.arms_file(target))
    return run.arms_file(target)


def _row_vectors(run: Run, adapter: Adapter, side: Any) -> tuple[dict[str, Tensor], list[str]]:
    """Vectors of an arm without a source, topics and rules each among themselves, and why it was refused for either."""
    from steer_bench.transfer.rows import ROWS

    vectors: dict[str, Tensor] = {}
    reasons: list[str] = []
    for concepts in (run.splits.test, [key for key in run.measured if key not in run.splits.test]):
        try:
            vectors |= ROWS[adapter.method](side, concepts, run.experiment.seed) if concepts else {}
        except ValueError as error:  # a single rule has no other rule's vector, say
            logger.warning("arm %s refused for %s: %s", adapter.name, side.model, error)
            reasons.append(str(error))
    return vectors, reasons


def _report(reports: Sequence[Mapping[str, Any]], arm: str, source: str) -> Mapping[str, Any]:
    return next((report for report in reports if (report["arm"], report["source"]) == (arm, source)), {})


# -------------------------------------------------------------------------------------------------- evaluate


def evaluate(run: Run) -> list[Path]:
    """One lm-eval run a target, the model loaded once: all arms, concepts, factors and tasks. RUN/evaluation/TARGET/…"""
    missing = [target for target in run.targets if not run.arms_file(target).is_file()]
    if missing:
        raise MissingStageError(f"no arms of {missing[0]} in {run.folder}; run steer-bench fit {run.folder} first")
    _protocol(run).save(run.folder / "protocol.json")
    return [_evaluate_target(run, target) for target in run.targets]


def _evaluate_target(run: Run, target: str) -> Path:
    from steer_bench.vectors import load_card

    experiment, folder = run.experiment, run.evaluation(target)
    arms, records = run.arms_file(target), run.folder / "records.sqlite"
    task_options = {task: limits.model_dump(exclude_none=True) for task, limits in experiment.tasks.items()}
    done = _hash(load_card(arms)["inputs"], (run.folder / "protocol.json").read_text(), task_options, versions())
    marker = folder / "complete.json"
    if marker.is_file() and json.loads(marker.read_text()).get("inputs") == done:
        logger.info("%s is up to date", folder)
        return folder
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    from steer_bench.lm import SteeredLM
    from steer_bench.models import default_device, resolve_dtype

    device = experiment.device or default_device()
    dtype = str(resolve_dtype(experiment.dtype, device)).removeprefix("torch.")
    arguments: dict[str, Any] = {
        "pretrained": target,
        "arms": str(arms),
        "records": str(records),
        "positions": experiment.positions,
        "dtype": dtype,
    }
    lm = SteeredLM(**arguments, device=device, batch_size=experiment.batch_size)
    metadata = {**arguments, "limits": task_options}
    manager = TaskManager(include_path=str(shipped("tasks")), include_defaults=False, metadata=metadata)
    tracker = EvaluationTracker(output_path=str(folder))
    chat = experiment.chat and lm.tokenizer.chat_template is not None
    with torch.inference_mode():
        results = simple_evaluate(
            model=lm, tasks=list(experiment.tasks), task_manager=manager, evaluation_tracker=tracker, apply_chat_template=chat,
            bootstrap_iters=0, metadata=metadata, random_seed=experiment.seed, batch_size=experiment.batch_size,
        )  # fmt: skip
    if results is None:  # another rank writes
        return folder
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for task, of_task in samples.items():
        tracker.save_results_samples(task_name=task, samples=of_task)
    write_atomic(marker, json.dumps({"inputs": done, "samples": {task: len(rows) for task, rows in samples.items()}}))
    return folder


# -------------------------------------------------------------------------------------------------- report


def report(run: Run, *, figures: bool = True) -> list[Path]:
    """RUN/results.json from lm-eval's samples, and of it leaderboard.md, .html and the figures."""
    from steer_bench.leaderboard import write_leaderboard
    from steer_bench.results import Results, load_rows, save_results

    rows, complete, created = [], True, ""
    for target in run.targets:
        folder = run.evaluation(target)
        if not (folder / "complete.json").is_file():
            raise MissingStageError(
                f"{target} is not evaluated in {run.folder}; run steer-bench evaluate {run.folder} first"
            )
        found = load_rows(folder)
        expected = sum(json.loads((folder / "complete.json").read_text())["samples"].values())
        complete &= len(found) == expected
        rows.extend(found)
    created = read_yaml(run.folder / "experiment.yaml")["resolved"]["created"]
    results = Results(_provenance(run, created, complete, len(rows)), tuple(rows))
    save_results(run.folder / "results.json", results)
    return [run.folder / "results.json", *write_leaderboard([run.folder / "results.json"], run.folder, figures=figures)]


def _provenance(run: Run, created: str, complete: bool, n_rows: int) -> dict[str, Any]:
    """What a results file says of where its rows come from."""
    from steer_bench.judge import load_judge
    from steer_bench.vectors import load_card

    cards = {target: load_card(run.arms_file(target)) for target in run.targets}
    models = {
        config.name: {key: card[key] for key in ("revision", "layer", "d_model", "dtype", "scale")}
        for config in run.experiment.models
        for card in [load_card(run.vectors_file(config.name))]
    }
    judge = load_judge(run.experiment.judge, references={})
    return {
        "name": run.experiment.name,
        "created": created,
        "versions": versions(),
        "models": models,
        "judge": {"name": judge.name, **run.experiment.judge},
        "splits": {name: sorted(getattr(run.splits, name)) for name in ("fit", "select", "test")},
        "factors": {task: list(run.experiment.grid(task)) for task in run.experiment.tasks},
        "limits": {task: limits.model_dump(exclude_none=True) for task, limits in run.experiment.tasks.items()},
        "seeds": {"experiment": run.experiment.seed, "splits": run.experiment.splits.seed, "bootstrap": 0},
        "positions": run.experiment.positions,
        "adapters": {a.name: {"kind": a.kind, "method": a.method} for a in run.adapters},
        "refused": [entry for card in cards.values() for entry in card["refused"]],
        "geometry": [line for card in cards.values() for line in card["geometry"]],
        "complete": complete,
        "expected_rows": n_rows,
    }


STAGES = {"extract": extract, "fit": fit, "evaluate": evaluate, "report": report}
