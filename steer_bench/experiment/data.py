"""Data: the concepts, splits and texts of an experiment, each file read once, when it is first asked for.

    files of the YAML -> concepts -> splits -> texts for vectors, held-out texts, map texts

No text serves two purposes: what a vector or a map has seen is in no measurement.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from steer_bench import shipped
from steer_bench.concepts.concept import Concept, Prompt, cut, text_key
from steer_bench.concepts.draws import parted
from steer_bench.concepts.load import load_concepts, load_prompts, load_texts
from steer_bench.concepts.rules.declared import rules_of
from steer_bench.concepts.rules.table import rule_concept
from steer_bench.concepts.splits import Splits, check_splits, fold_concepts, halves, held_out, split_concepts
from steer_bench.experiment.config import Experiment
from steer_bench.files import digest
from steer_bench.harness.ifeval import ifeval_rule
from steer_bench.harness.protocol import Protocol
from steer_bench.judge.embedding import EmbeddingJudge
from steer_bench.transfer.adapters import Adapter, load_adapters

YARDSTICK = 24
"""Instructions whose unsteered replies set the judge, at most half of them."""
TEXTS_FOR_HALVES = 16
"""Texts per side from which on half of them makes a vector."""

Half = Literal["", "a", "b"]
"""Which half of a concept's texts: a for vectors that are transferred, b for a target's own; "" is all of them."""


class TextSide(NamedTuple):
    """One side of a concept's texts."""

    concept: str
    sign: Literal["+", "-"]


@dataclass(frozen=True)
class Data:
    """What an experiment's files hold; relative paths start from `base`."""

    experiment: Experiment
    base: Path

    def path(self, name: str) -> str:
        """Find a file named in the YAML: as given, beside the YAML, or shipped; a hub data set keeps its name.

        Raises ValueError for a file that is in none of these places.
        """
        if name.startswith("hf:"):
            return name
        for place in (Path(name), self.base / name, shipped("tasks") / "data" / name):
            if place.exists():
                return str(place)
        raise ValueError(f"{name}: no such file, beside {self.base} or in the shipped tasks/data")

    @cached_property
    def topics(self) -> list[Concept]:
        """The concepts of the source file."""
        config = self.experiment.concepts
        return load_concepts(self.path(config.source), limit=config.limit)

    @cached_property
    def concepts(self) -> dict[str, Concept]:
        """Topics and rules by id, with all their texts."""
        texts = self._rule_texts()
        known = rules_of(self.declared_rules, ifeval_rule)
        rules = [rule_concept(known[rule], texts) for rule in self.experiment.rule_names]
        suppressed = [rule_concept(known[rule], texts, kind="suppress") for rule in self.experiment.suppress]
        return {concept.id: concept for concept in (*self.topics, *rules, *suppressed)}

    @property
    def declared_rules(self) -> list[dict[str, object]]:
        """The rules that the YAML declares itself."""
        return [rule for rule in self.experiment.rules if not isinstance(rule, str)]

    def _rule_texts(self) -> list[str]:
        """Return the texts that are rewritten to obey the rules: negatives for vectors, then map texts; none that is scored."""
        if self.experiment.rule_source is not None:
            return load_texts(self.path(self.experiment.rule_source))[: self.experiment.rule_texts]
        first = next(iter(self.folds.values()))
        topic = next(topic for topic in self.topics if topic.id in (first.fit or first.test))
        kept = held_out(topic, self.experiment.concepts.held_out, self.experiment.seed)[0].negatives
        texts = {text_key(text): text for text in (*kept, *load_texts(self.path(self.experiment.neutral.map)))}
        return list(texts.values())[: self.experiment.rule_texts]

    @cached_property
    def splits(self) -> Splits:
        """Topics by split. With folds none is only fitted on, and `test` holds all that some fold tests."""
        config, topics = self.experiment.splits, self.topics
        if config.folds:
            folds = list(self.folds.values())
            return Splits((), folds[0].select, tuple(sorted(key for fold in folds for key in fold.test)))
        given = {name: getattr(config, name) for name in ("fit", "select", "test")}
        pinned = {name: value for name, value in given.items() if isinstance(value, list)}
        sizes = {name: value for name, value in given.items() if not isinstance(value, list)}
        kin = () if config.similarity is None else alike_descriptions(topics, config.similarity)
        splits = split_concepts(topics, **sizes, seed=config.seed, pinned=pinned, kin=kin)
        check_splits(splits, topics)
        return splits

    @cached_property
    def folds(self) -> dict[int, Splits]:
        """What maps are fitted on and what they test: the splits alone, as fold 0, or the folds from 1 on."""
        config, topics = self.experiment.splits, self.topics
        if not config.folds:
            return {0: self.splits}
        kin = list(self.experiment.concepts.alike)
        kin += [] if config.similarity is None else alike_descriptions(topics, config.similarity)
        found = fold_concepts(topics, config.folds, select=config.select, seed=config.seed, kin=kin)
        return dict(enumerate(found, 1))

    @property
    def measured(self) -> list[str]:
        """Concepts that arms are made for: test topics and rules, followed or suppressed."""
        return [*self.splits.test, *(key for key, concept in self.concepts.items() if concept.has_rule)]

    def measured_in(self, fold: int) -> list[str]:
        """Return the measured concepts that go through a fold's maps: the topics it tests, and the rules in the first one."""
        rules = [key for key in self.measured if key not in self.splits.test] if fold <= 1 else []
        return [*self.folds[fold].test, *rules]

    @property
    def split_ids(self) -> dict[str, list[str] | list[list[str]]]:
        """Ids of the concepts of each split, sorted; with folds also those that each fold tests."""
        ids: dict[str, list[str] | list[list[str]]] = {}
        ids |= {name: sorted(getattr(self.splits, name)) for name in ("fit", "select", "test")}
        if self.experiment.splits.folds:
            ids["folds"] = [sorted(fold.test) for fold in self.folds.values()]
        return ids

    @cached_property
    def vector_and_held_out_texts(self) -> dict[str, tuple[Concept, Concept]]:
        """Each used concept with its texts for the vector, and with its held-out texts."""
        used = {*self.splits.fit, *self.splits.select, *self.splits.test}
        n, seed = self.experiment.concepts.held_out, self.experiment.seed
        return {
            key: held_out(concept, n, seed) for key, concept in self.concepts.items() if key in used or concept.has_rule
        }

    @cached_property
    def halves(self) -> bool:
        """Whether a source's vectors and the target's own come from disjoint halves of a concept's texts."""
        wanted = self.experiment.concepts.halves
        if wanted != "auto":
            return bool(wanted)
        topics = [vector for vector, _ in self.vector_and_held_out_texts.values() if vector.kind == "topic"]
        return all(min(len(topic.positives), len(topic.negatives)) >= 2 * TEXTS_FOR_HALVES for topic in topics)

    @property
    def source_half(self) -> Half:
        """The half that transferred vectors are made from."""
        return "a" if self.halves else ""

    @property
    def native_half(self) -> Half:
        """The half that a target's own vectors are made from."""
        return "b" if self.halves else ""

    @cached_property
    def text_halves(self) -> dict[str, tuple[Concept, Concept]]:
        """Each concept with either half of its texts for vectors, where there are two texts per side or more."""
        return {
            key: halves(concept, self.experiment.seed)
            for key, (concept, _) in self.vector_and_held_out_texts.items()
            if min(len(concept.positives), len(concept.negatives)) > 1
        }

    def texts_by_side(self, concepts: Iterable[str], half: Half = "") -> dict[TextSide, tuple[str, ...]]:
        """Return the texts for vectors; a concept without halves has none where a half is asked for."""
        found: dict[TextSide, tuple[str, ...]] = {}
        for key in concepts:
            if half and key not in self.text_halves:
                continue
            texts = self.text_halves[key][half == "b"] if half else self.vector_and_held_out_texts[key][0]
            found[TextSide(key, "+")], found[TextSide(key, "-")] = texts.positives, texts.negatives
        return found

    @cached_property
    def adapters(self) -> list[Adapter]:
        """The recipes of the arms."""
        return load_adapters(self.experiment.adapters, base=self.base)

    @property
    def prompt_templates(self) -> dict[str, dict[str, str]]:
        """Arms that ask for the concept instead of steering, with their templates."""
        return {
            adapter.name: {kind: str(template) for kind, template in adapter.options.items()}
            for adapter in self.adapters
            if adapter.method == "prompt"
        }

    @property
    def few_shot_sizes(self) -> tuple[int, ...]:
        """Few-shot sizes that every measured concept has enough texts for."""
        asked = {n for adapter in self.adapters for n in adapter.sizes}
        texts = self.texts_by_side(self.measured, self.native_half).values()
        most = min((len(side) for side in texts), default=0)
        return tuple(sorted(n for n in asked if n <= most))

    @cached_property
    def neutral_texts(self) -> dict[str, str]:
        """Neutral texts by id: some find the doses, the perplexity of the others is measured.

        Raises ValueError where one of them is also a text of a concept.
        """
        texts = load_texts(self.path(self.experiment.neutral.perplexity))
        seen = {text_key(text) for topic in self.topics for text in (*topic.positives, *topic.negatives)}
        shared = next((text for text in texts if text_key(text) in seen), None)
        if shared is not None:
            raise ValueError(f"neutral.perplexity: a text is also a text of a concept: {shared[:60]!r}; remove it")
        if len(texts) < 2:
            raise ValueError(
                f"neutral.perplexity: {len(texts)} text; doses are found on one half of the texts, give more"
            )
        return {f"neutral-{i:03d}": text for i, text in enumerate(texts, 1)}

    @cached_property
    def prompts(self) -> list[Prompt]:
        """Instructions: the unsteered replies to some set the judge, the others are scored.

        Raises ValueError for fewer than four.
        """
        prompts = load_prompts(self.path(self.experiment.prompts))
        if len(prompts) < 4:
            raise ValueError(
                f"prompts: {len(prompts)} instructions; some set the judge and the others are scored, give 4 or more"
            )
        return prompts

    @property
    def map_texts(self) -> list[str]:
        """Texts that maps are fitted on: neutral ones, then (`neutral.fit_texts`) the positives of those to fit on."""
        return self.fold_texts(self.splits)

    def fold_texts(self, fold: Splits) -> list[str]:
        """Return the texts that a fold's maps are fitted on, as `map_texts`."""
        more = fold.fit if self.experiment.neutral.fit_texts else ()
        return [*self._neutral_map_texts, *(text for concept in more for text in self.concepts[concept].positives)]

    @cached_property
    def _neutral_map_texts(self) -> list[str]:
        """Neutral texts that maps are fitted on.

        Raises ValueError where one of the neutral ones is also a text of a concept or of the perplexity set.
        """
        config = self.experiment.neutral
        texts = load_texts(self.path(config.map))[: config.map_limit]
        seen = {text_key(t) for topic in self.topics for t in (*topic.positives, *topic.negatives)}
        seen |= {text_key(text) for text in self.neutral_texts.values()}
        shared = next((text for text in texts if text_key(text) in seen), None)
        if shared is not None:
            raise ValueError(
                f"neutral.map: a text of the map corpus is also a concept or perplexity text: {shared[:60]!r}; remove it"
            )
        return texts

    def texts_hash(self, concept: str) -> str:
        """Hash of every text used for a concept's vectors."""
        texts = self.vector_and_held_out_texts[concept][0]
        return digest(texts.positives, texts.negatives)

    @property
    def prompts_hash(self) -> str:
        """Hash of the instructions."""
        return digest([(prompt.id, prompt.instruction) for prompt in self.prompts])

    @property
    def hashes(self) -> dict[str, str]:
        """Hashes of everything that is kept apart: a run with another one of them is another run."""
        texts = self.vector_and_held_out_texts
        held = {key: (held.positives, held.negatives) for key, (_, held) in texts.items()}
        splits = [fold.hash for fold in self.folds.values()]
        halves_of = {key: [half.positives for half in pair] for key, pair in self.text_halves.items()}
        return {
            "splits": digest(splits) if self.experiment.splits.folds else splits[0],
            "vector texts": digest({key: self.texts_hash(key) for key in texts}),
            "halves": digest(halves_of if self.halves else {}),
            "held-out texts": digest(held),
            "map texts": digest(*(self.fold_texts(fold) for fold in self.folds.values())),
            "perplexity texts": digest(self.neutral_texts),
            "prompts": self.prompts_hash,
        }

    @cached_property
    def protocol(self) -> Protocol:
        """What the run measures, on held-out texts only. Which prompts set the judge does not hang on the seed: nor does a rating."""
        experiment = self.experiment
        calibration, neutral = parted(self.neutral_texts, experiment.dose.texts, experiment.seed, "calibration")
        yardstick, _ = parted({prompt.id: prompt for prompt in self.prompts}, YARDSTICK, "yardstick")
        levels = {task: experiment.levels(task) for task in experiment.tasks}
        return Protocol(
            concepts={key: self.vector_and_held_out_texts[key][1] for key in self.measured},
            neutral=neutral,
            prompts=tuple(prompt for prompt in self.prompts if prompt.id not in yardstick),
            levels={task: found for task, found in levels.items() if found},
            factors={task: experiment.grid(task) for task in experiment.tasks if experiment.grid(task)},
            judge=experiment.judge,
            calibration={item: cut(text, experiment.dose.max_words) for item, text in calibration.items()},
            yardstick=tuple(yardstick.values()),
            seed=experiment.seed,
            chat=experiment.chat,
            declared=tuple(self.declared_rules),
        )


def alike_descriptions(concepts: Sequence[Concept], least: float) -> list[tuple[str, str]]:
    """Return the pairs of concepts whose descriptions' embeddings have a cosine of at least `least`."""
    rows = EmbeddingJudge().embedder.embed([concept.description for concept in concepts])
    pairs = np.argwhere(np.triu(rows @ rows.T >= least, k=1))
    return [(concepts[i].id, concepts[j].id) for i, j in pairs]
