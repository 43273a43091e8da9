"""A run: an experiment, its data, and the folder of its results. Everything here is checked before a model is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from steer_bench import __version__, shipped
from steer_bench.concepts.concept import Concept, text_key
from steer_bench.concepts.load import load_concepts, load_prompts, load_texts
from steer_bench.concepts.rules.declared import declared_rule, rules_of
from steer_bench.concepts.rules.table import RULES, named_rule, rule_concept
from steer_bench.concepts.splits import Splits, check_splits, halves, held_out, split_concepts
from steer_bench.experiment.config import Experiment, find_experiment, load_experiment, read_experiment
from steer_bench.files import KeyLines, digest, model_file_name, safe_name, write_whole
from steer_bench.harness.ifeval import ifeval_rule
from steer_bench.harness.protocol import Protocol
from steer_bench.models.load import read_config
from steer_bench.transfer.adapters import Adapter, load_adapters

HALF = 16
"""Texts a side from which on a half of them makes a vector."""
FEW = (1, 2, 4, 8, 16)
"""Texts a side that the few-shot vectors are made from, if the adapter does not say."""


class MissingStageError(ValueError):
    """A stage was asked for before the one that makes its input."""


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
    def topics(self) -> list[Concept]:
        """The concepts of the source."""
        config = self.experiment.concepts
        return load_concepts(self.data(config.source), limit=config.limit)

    @cached_property
    def concepts(self) -> dict[str, Concept]:
        """Topics and rules by id, with all their texts."""
        topics = self.topics
        texts = self.rule_texts(topics)
        known = rules_of(self.declared_rules, ifeval_rule)
        rules = [rule_concept(known[rule], texts) for rule in self.experiment.rule_names]
        suppressed = [rule_concept(known[rule], texts, kind="suppress") for rule in self.experiment.suppress]
        return {concept.id: concept for concept in (*topics, *rules, *suppressed)}

    @property
    def declared_rules(self) -> list[dict[str, Any]]:
        """Rules that the YAML declares itself."""
        return [rule for rule in self.experiment.rules if not isinstance(rule, str)]

    def rule_texts(self, topics: Sequence[Concept]) -> list[str]:
        """Texts that are rewritten to obey the rules."""
        if self.experiment.rule_source is not None:
            return load_texts(self.data(self.experiment.rule_source))[: self.experiment.rule_texts]
        texts = load_texts(self.data(self.experiment.neutral.perplexity))
        return [*texts, *(text for text in topics[0].negatives if text not in texts)][: self.experiment.rule_texts]

    @cached_property
    def splits(self) -> Splits:
        """Topics by split."""
        config, topics = self.experiment.splits, [c for c in self.concepts.values() if c.kind == "topic"]
        given = {name: getattr(config, name) for name in ("fit", "select", "test")}
        pinned = {name: value for name, value in given.items() if isinstance(value, list)}
        sizes = {name: value for name, value in given.items() if not isinstance(value, list)}
        kin = () if config.similarity is None else alike_descriptions(topics, config.similarity)
        splits = split_concepts(topics, **sizes, seed=config.seed, pinned=pinned, kin=kin)
        check_splits(splits, topics)
        return splits

    @cached_property
    def divided(self) -> dict[str, tuple[Concept, Concept]]:
        """(texts for the vector, held-out texts) of every concept that is used."""
        used = {*self.splits.fit, *self.splits.select, *self.splits.test}
        n, seed = self.experiment.concepts.held_out, self.experiment.seed
        return {
            key: held_out(concept, n, seed) for key, concept in self.concepts.items() if key in used or concept.has_rule
        }

    @property
    def measured(self) -> list[str]:
        """Concepts that arms are made for: test topics and rules, followed or suppressed."""
        return [*self.splits.test, *(key for key, concept in self.concepts.items() if concept.has_rule)]

    @cached_property
    def adapters(self) -> list[Adapter]:
        """The arms' recipes."""
        return load_adapters(self.experiment.adapters, base=self.base)

    @property
    def asked(self) -> dict[str, dict[str, Any]]:
        """Arms that ask for the concept instead of steering, with their templates."""
        return {adapter.name: dict(adapter.options) for adapter in self.adapters if adapter.method == "prompt"}

    @cached_property
    def map_texts(self) -> list[str]:
        """Texts that maps are fitted on: neutral ones, then (`neutral.fit_texts`) the positives of the fit concepts.

        None of them is a text of a concept that is tested, nor of the perplexity set: ValueError.
        """
        config = self.experiment.neutral
        texts = load_texts(self.data(config.map))[: config.map_limit]
        seen = {text_key(t) for concept in self.concepts.values() for t in (*concept.positives, *concept.negatives)}
        seen |= {text_key(text) for text in load_texts(self.data(config.perplexity))}
        shared = next((text for text in texts if text_key(text) in seen), None)
        if shared is not None:
            raise ValueError(
                f"neutral.map: a text of the map corpus is also a concept or perplexity text: {shared[:60]!r}; remove it"
            )
        if config.fit_texts:
            texts += [text for concept in self.splits.fit for text in self.concepts[concept].positives]
        return texts

    @cached_property
    def halves(self) -> bool:
        """Whether a source's vectors and the target's own come from disjoint halves of a concept's texts."""
        wanted = self.experiment.concepts.halves
        if wanted != "auto":
            return bool(wanted)
        topics = [vector for vector, _ in self.divided.values() if vector.kind == "topic"]
        return all(min(len(topic.positives), len(topic.negatives)) >= 2 * HALF for topic in topics)

    @cached_property
    def halved(self) -> dict[str, tuple[Concept, Concept]]:
        """The two halves of each concept's texts for vectors, where there are two texts a side and more."""
        return {
            key: halves(concept, self.experiment.seed)
            for key, (concept, _) in self.divided.items()
            if min(len(concept.positives), len(concept.negatives)) > 1
        }

    def texts_hash(self, concept: str) -> str:
        """Of all texts behind a concept's vectors, both halves."""
        texts = self.divided[concept][0]
        return digest(texts.positives, texts.negatives)

    @property
    def hashes(self) -> dict[str, str]:
        """Of everything that is kept apart: who touches one of them has another run."""
        held = {key: (held.positives, held.negatives) for key, (_, held) in self.divided.items()}
        halves_of = {key: [half.positives for half in pair] for key, pair in self.halved.items()} if self.halves else {}
        return {
            "splits": self.splits.hash,
            "vector texts": digest({key: self.texts_hash(key) for key in self.divided}),
            "halves": digest(halves_of),
            "held-out texts": digest(held),
            "map texts": digest(self.map_texts),
            "perplexity texts": digest(load_texts(self.data(self.experiment.neutral.perplexity))),
            "prompts": digest(
                [(p.id, p.role, p.instruction) for p in load_prompts(self.data(self.experiment.prompts))]
            ),
        }

    def vectors_file(self, model: str, part: str = "") -> Path:
        """RUN/vectors/MODEL.safetensors: the model's own vectors; `part`: "source" or "few-shot", a folder within."""
        return self.folder / "vectors" / part / f"{model_file_name(model)}.safetensors"

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
        from steer_bench.models.blocks import resolve_layer

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
    else:
        path = find_experiment(name)
    experiment, places, wrong = read_experiment(path)
    resolved = places.content.get("resolved") if path.parent == given else None
    base = Path(str(resolved.get("base", given))) if isinstance(resolved, dict) else path.resolve().parent
    if judge is not None:
        experiment = experiment.model_copy(update={"judge": dict(judge)})
    if not wrong:
        folder = folder or Path("runs") / safe_name(experiment.name)
    run = Run(experiment, base, folder or Path("runs"))
    known = run.folder / "experiment.yaml"
    if wrong:
        _check(run, places, wrong)
    if known.is_file() and (known != path or judge is not None):
        old, new = load_experiment(known).model_dump(), experiment.model_dump()
        differing = [key for key in new if old.get(key) != new[key] and key != "cluster"]
        if differing:
            raise ValueError(
                f"{run.folder} holds the run of another experiment (differing: {', '.join(differing)}); "
                "choose another folder with --out, or remove it"
            )
    _check(run, places, [])
    return run


def _check(run: Run, places: KeyLines, wrong: Sequence[str]) -> None:
    """Everything that can be wrong before a model is loaded; all faults in one ValueError, each with its place in the YAML."""
    from steer_bench.judge.config import load_judge

    found = dict.fromkeys(wrong)

    def check(*key: object) -> Faults:
        return Faults(places.of(key), found)

    experiment = run.experiment
    rules = dict(RULES)
    for index, given in enumerate(experiment.rules):
        with check("rules", index):
            rule = named_rule(given) if isinstance(given, str) else declared_rule(given, ifeval_rule)
            rules[rule.name] = rule
    for index, name in enumerate(experiment.suppress):
        with check("suppress", index):
            named_rule(name, rules)
    for index, entry in enumerate(experiment.vectors):
        with check("vectors", index):
            run.data(entry.file)
    for index, adapter in enumerate(experiment.adapters):
        with check("adapters", index):
            load_adapters([adapter], base=run.base)
    with check("judge"):
        load_judge(experiment.judge, references={})
    with check("prompts"):
        load_prompts(run.data(experiment.prompts))
    with check("neutral", "perplexity"):
        load_texts(run.data(experiment.neutral.perplexity))
    for index, config in enumerate(experiment.models):
        with check("models", index):
            model_file_name(config.name)
            depth = read_config(config.name).get("num_hidden_layers")
            if depth is not None:
                run.layer(config.name, depth)
    with check("concepts"):
        _ = run.topics
    if not found:  # these need the ones above
        with check("adapters"):
            _ = run.adapters
        with check("concepts"):
            _ = run.concepts
        with check("splits"):
            if not run.splits.test:
                raise ValueError("splits.test: no test concept; a run measures at least one")
            _ = run.divided
        with check("concepts"):
            if run.halves and (short := next((key for key in run.divided if key not in run.halved), None)):
                raise ValueError(
                    f"concepts.halves: concept {short!r} has one text a side and so no halves; give more, or halves: false"
                )
        with check("neutral", "map"):
            _ = run.map_texts
    if found:
        raise ValueError("\n".join(found))


class Faults:
    """Keeps a ValueError raised inside, with the place in front of it, instead of letting it through."""

    def __init__(self, place: str, found: dict[str, Any]) -> None:
        self._place, self._found = place, found

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if not isinstance(error, ValueError):
            return False
        for line in str(error).splitlines():
            self._found[f"{self._place}: {line}"] = None
        return True


def start(run: Run) -> None:
    """Write RUN/experiment.yaml once: the experiment, resolved, with what was used."""
    path = run.folder / "experiment.yaml"
    if path.is_file():
        return
    resolved = {
        "base": os.path.relpath(run.base, Path.cwd()) if run.base.is_relative_to(Path.cwd()) else str(run.base),
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "splits": {name: list(getattr(run.splits, name)) for name in ("fit", "select", "test")},
        "halves": run.halves,
        "hashes": run.hashes,
        "versions": versions(),
    }
    content = run.experiment.model_dump(mode="json") | {"resolved": resolved}
    write_whole(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def versions() -> dict[str, str]:
    """Versions that travel with every number."""
    return {
        "steer_bench": __version__,
        **{name: version(name) for name in ("torch", "transformers", "lm_eval")},
    }


def sides(run: Run, concepts: Sequence[str], part: str = "all") -> dict[str, tuple[str, ...]]:
    """Texts by side: "+concept" and "-concept"; `part`: all, or one or the other half (of the concepts that have halves)."""
    sides: dict[str, tuple[str, ...]] = {}
    for key in concepts:
        if part == "all":
            texts = run.divided[key][0]
        elif key in run.halved:
            texts = run.halved[key][part == "other"]
        else:
            continue
        sides[f"+{key}"], sides[f"-{key}"] = texts.positives, texts.negatives
    return sides


def alike_descriptions(concepts: Sequence[Concept], least: float) -> list[tuple[str, str]]:
    """Pairs of concepts whose descriptions' embeddings have a cosine of at least `least`."""
    import numpy as np

    from steer_bench.judge.embedding import EmbeddingJudge

    rows = EmbeddingJudge().embedder.embed([concept.description for concept in concepts])
    pairs = np.argwhere(np.triu(rows @ rows.T >= least, k=1))
    return [(concepts[i].id, concepts[j].id) for i, j in pairs]


def few_shot_sizes(run: Run) -> tuple[int, ...]:
    """The n of the adapters few-shot, as far as every measured concept has that many texts of its own a side."""
    asked = {n for a in run.adapters if a.method == "few-shot" for n in a.options.get("n", FEW)}
    texts = sides(run, run.measured, "other" if run.halves else "all").values()
    most = min((len(side) for side in texts), default=0)
    return tuple(sorted(n for n in asked if n <= most))


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
        declared=tuple(run.declared_rules),
    )
