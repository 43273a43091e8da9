"""A run: an experiment, its data, and the folder of its results. Everything here is checked before a model is loaded."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

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
from steer_bench.experiment.config import Experiment, find_experiment, load_experiment, read_yaml
from steer_bench.models import check_model, read_config
from steer_bench.protocol import Protocol
from steer_bench.results import write_atomic
from steer_bench.rules import rule_concept
from steer_bench.transfer.adapters import Adapter, load_adapters


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


def open_run(name: str, folder: Path | None = None, *, judge: Mapping[str, Any] | None = None) -> Run:
    """An experiment (name or YAML) into its folder, or a run folder as it is; everything checked, nothing loaded.

    `judge`: in place of the experiment's.

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
    if judge is not None:
        experiment = experiment.model_copy(update={"judge": dict(judge)})
    run = Run(experiment, base, folder or Path("runs") / safe_name(experiment.name))
    known = run.folder / "experiment.yaml"
    if known.is_file() and (known != path or judge is not None):
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


def start(run: Run) -> None:
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


def digest(*parts: Any) -> str:
    """16 hex digits that change with any of the parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def sides(run: Run, concepts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Texts by side: "+concept" and "-concept"."""
    sides: dict[str, tuple[str, ...]] = {}
    for key in concepts:
        sides[f"+{key}"], sides[f"-{key}"] = run.divided[key][0].positives, run.divided[key][0].negatives
    return sides


def protocol(run: Run) -> Protocol:
    """What the run measures, on held-out texts only."""
    neutral = load_texts(run.data(run.experiment.neutral.perplexity))
    return Protocol(
        concepts={key: run.divided[key][1] for key in run.measured},
        neutral={f"neutral-{i:02d}": text for i, text in enumerate(neutral, 1)},
        prompts=tuple(load_prompts(run.data(run.experiment.prompts))),
        factors={task: run.experiment.grid(task) for task in run.experiment.tasks},
        judge=run.experiment.judge,
        chat=run.experiment.chat,
    )
