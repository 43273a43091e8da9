"""Rows of a task: what it measures on one target, and the options that say how much of it.

    arms file + protocol.json -> [TaskRows] -> docs (arm x concept x factor x prompt or text)

Knows nothing of lm_eval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import NotRequired, TypedDict

from steer_bench.concepts.concept import KINDS, Concept, Prompt, cut
from steer_bench.harness.options import TaskOptions
from steer_bench.harness.protocol import Protocol
from steer_bench.names import known
from steer_bench.results.measures import LIKELIHOOD, MEASURES, PERPLEXITY, REPLIES, SPECIFICITY, headline_level
from steer_bench.results.stats.grid import SAMPLE_MARK
from steer_bench.vectors.arms import UNSTEERED, ArmEntry, Dose, TargetCard


class Doc(TypedDict):
    """One row of a task, as lm-eval holds it and writes it into the samples file."""

    arm: str
    source: str
    concept: str
    """"" where the row is the same for all concepts."""
    factor: float
    level: float
    """Damage that the factor does, a perplexity ratio; 0 where the factor was given."""
    item: str
    """Id of the prompt or text."""
    role: str
    """"score" of a prompt, or "select" on a grid; "concept" or "neutral" of a text."""
    text: str
    """The instruction as it stands, or the text that is scored."""
    asked: NotRequired[str]
    """Generation tasks: what the model is asked, with the words of an arm or rule that asks for something."""
    sample: NotRequired[int]
    """Generation tasks: which of several replies."""
    padding: NotRequired[bool]
    """Whether it is a copy of a row of another rank, and so in no result."""


@dataclass(frozen=True)
class ArmAtFactor:
    """One arm at one factor for one concept; UNSTEERED at factor 0."""

    arm: str
    source: str
    concept: str
    factor: float = 0.0
    level: float = 0.0

    @property
    def label(self) -> str:
        """Name of the arm in lm-eval's table: `linear<gemma-3-270m` is an arm with its source."""
        return f"{self.arm}<{self.source}" if self.source else self.arm

    def doc(self, item: str, role: str, text: str) -> Doc:
        """Return the row of one prompt or text."""
        return Doc(
            arm=self.arm, source=self.source, concept=self.concept, factor=self.factor, level=self.level, item=item, role=role,
            text=text,
        )  # fmt: skip


class TaskRows:
    """What a task measures on one target: a protocol and the arms there are, under the task's options."""

    def __init__(
        self,
        task: str,
        options: TaskOptions,
        *,
        target: str,
        entries: Iterable[ArmEntry],
        asked: Mapping[str, Mapping[str, str]],
        protocol: Protocol,
        doses: Iterable[Dose] = (),
        yardstick: Sequence[tuple[str, str, float | None]] = (),
    ) -> None:
        """`entries`: the arms; `asked`: arm that asks instead of steering -> its templates by kind; `doses`, `yardstick`: see ArmsCard.

        Raises ValueError where there is no factor, no dose for a level, or `only_arms` names an unknown arm.
        """
        self.task, self.options, self.target, self.protocol = task, options, target, protocol
        self.yardstick = yardstick
        self.factors = options.factors or (() if options.damage else protocol.factors.get(task, ()))
        self.levels = () if self.factors else options.damage or protocol.levels.get(task, ())
        on_grid = len(self.factors) > 1 and options.chosen is not None
        self._chosen = {tuple(key): factor for *key, factor in options.chosen or ()} if on_grid else None
        self._doses = {(dose.arm, dose.source, dose.concept, dose.level): dose.factor for dose in doses}
        if not (self.factors or self.levels):
            raise ValueError(
                f"task {task}: no level of damage and no factors; give --metadata 'damage=[1.3]' or 'factors=[0.2]'"
            )
        unknown = sorted(set(self.levels) - {level for *_, level in self._doses})
        if unknown and entries:
            raise ValueError(
                f"task {task}: the arms of {target} have no doses for damage {unknown[0]:g}; steer-bench dose RUN finds them, or "
                "give --metadata 'factors=[0.2]'"
            )
        entries = list(entries)
        names = sorted({entry.arm.name for entry in entries} | asked.keys())
        chosen = (
            names if options.only_arms is None else [known(a, names, "arm in only_arms") for a in options.only_arms]
        )
        self._entries = [entry for entry in entries if entry.arm.name in chosen]
        self._asked = {arm: templates for arm, templates in asked.items() if arm in chosen}

    @classmethod
    def load(cls, task: str, options: TaskOptions) -> TaskRows:
        """Read the arms and the protocol that the options name. Raises ValueError where a file is missing or foreign."""
        arms = options.arms
        if arms is None:
            raise ValueError(
                f"task {task}: give the target's arms file, --model_args pretrained=…,arms=RUN/arms/MODEL.safetensors"
            )
        card = TargetCard.read(arms)
        protocol = Protocol.load(Path(options.protocol or Path(arms).resolve().parent.parent / "protocol.json"))
        return cls(
            task,
            options,
            target=card.target,
            entries=card.arms,
            asked=card.asked,
            protocol=protocol,
            doses=card.doses,
            yardstick=card.yardstick,
        )

    def concepts(self, kind: str) -> list[Concept]:
        """Return the test concepts of a kind, as many as the option `max_concepts` (or, for rules, `max_rules`) allows."""
        limit = self.options.max_concepts if kind == "topic" else self.options.max_rules
        return [concept for concept in self.protocol.concepts.values() if concept.kind == kind][:limit]

    def steered(self, concepts: Sequence[Concept]) -> Iterator[ArmAtFactor]:
        """Yield every steering arm at every level that it reaches, or at every factor of a grid, in a fixed order."""
        for entry, concept in product(self._entries, concepts):
            if concept.id in entry.concepts:
                key = entry.arm.name, entry.source, concept.id
                yield from (ArmAtFactor(*key, factor) for factor in self.factors)
                found = ((self._doses.get((*key, level)), level) for level in self.levels)
                yield from (ArmAtFactor(*key, factor, level) for factor, level in found if factor is not None)

    def measured(self, arm: ArmAtFactor, role: str) -> bool:
        """Return whether the prompts of a role are measured under an arm: on a grid whose option `chosen` is given, in two steps.

        First the selection prompts at every factor; then the others too at the chosen one, and both without steering.
        """
        if self._chosen is None or (role == "select" and arm.factor):
            return True
        factor = self._chosen.get((arm.arm, arm.source, arm.concept))
        return bool(self._chosen) and (not arm.factor or factor in (None, arm.factor))

    def asking(self, concepts: Sequence[Concept]) -> Iterator[ArmAtFactor]:
        """Yield the arms that ask for the concept instead of steering; they have no factor."""
        yield from (ArmAtFactor(arm, "", concept.id) for arm in self._asked for concept in concepts)

    def asked(self, arm: ArmAtFactor, instruction: str) -> str:
        """Return the instruction, or the words of an arm that asks for the concept."""
        if arm.arm not in self._asked:
            return instruction
        concept = self.protocol.concepts[arm.concept]
        template = self._asked[arm.arm][concept.kind]
        return template.replace("{concept}", concept.description).replace("{instruction}", instruction)

    def prompts(self, concept: str) -> list[tuple[Prompt, str]]:
        """Return the concept's own prompts with their role, `max_prompts` of them; on a grid so many to select on, and others to score."""
        limit = self.options.max_prompts
        if not self.factors or len(self.factors) == 1:
            return [(prompt, "score") for prompt in self.protocol.prompts_of(concept, limit)]
        mine = self.protocol.prompts_of(concept, None if limit is None else 2 * limit)
        return [(prompt, ("select", "score")[i % 2]) for i, prompt in enumerate(mine)]

    def neutral(self, concept: str) -> list[tuple[str, str]]:
        """Return (id, text) of the concept's own neutral texts, as many as the option `max_neutral` allows."""
        texts = self.protocol.neutral_of(concept, self.options.max_neutral)
        return [(item, cut(text, self.options.max_words)) for item, text in texts.items()]

    def positives(self, concept: Concept) -> list[tuple[str, str]]:
        """Return (id, text) of the held-out texts that show the concept, as many as the option `max_texts` allows."""
        texts = concept.positives[: self.options.max_texts]
        return [(f"{concept.id}-{i}", cut(text, self.options.max_words)) for i, text in enumerate(texts)]


def likelihood_rows(rows: TaskRows) -> Iterator[Doc]:
    """Yield each concept's held-out texts and its neutral texts under every arm at every level; each text unsteered once."""
    concepts = rows.concepts("topic")
    texts = {concept.id: rows.positives(concept) for concept in concepts}
    neutral = {concept.id: rows.neutral(concept.id) for concept in concepts}
    for concept in concepts:
        nothing = ArmAtFactor(UNSTEERED, "", concept.id)
        yield from (nothing.doc(item, "concept", text) for item, text in texts[concept.id])
    yield from unsteered_neutral(neutral.values())
    for arm in rows.steered(concepts):
        yield from (arm.doc(item, "concept", text) for item, text in texts[arm.concept])
        yield from (arm.doc(item, "neutral", text) for item, text in neutral[arm.concept])


def perplexity_rows(rows: TaskRows) -> Iterator[Doc]:
    """Yield each concept's neutral texts under every arm at every level, of topics and of rules, and unsteered."""
    concepts = [concept for kind in KINDS for concept in rows.concepts(kind)]
    neutral = {concept.id: rows.neutral(concept.id) for concept in concepts}
    yield from unsteered_neutral(neutral.values())
    for arm in rows.steered(concepts):
        yield from (arm.doc(item, "neutral", text) for item, text in neutral[arm.concept])


def unsteered_neutral(texts: Iterable[Iterable[tuple[str, str]]]) -> Iterator[Doc]:
    """Yield the neutral texts of all concepts unsteered, each once: they are the same for every concept."""
    every = dict(pair for of_concept in texts for pair in of_concept)
    yield from (ArmAtFactor(UNSTEERED, "", "").doc(item, "neutral", text) for item, text in sorted(every.items()))


def specificity_rows(rows: TaskRows) -> Iterator[Doc]:
    """Yield the held-out texts of every concept under every vector, at one level (or factor) of the task: the specificity matrix."""
    concepts = rows.concepts("topic")
    texts = [(item, text) for concept in concepts for item, text in rows.positives(concept)]
    for item, text in texts:
        yield ArmAtFactor(UNSTEERED, "", "").doc(item, "concept", text)
    shown = rows.factors[-1] if rows.factors else headline_level(rows.levels)
    for arm in rows.steered(concepts):
        if shown == (arm.factor if rows.factors else arm.level):
            yield from (arm.doc(item, "concept", text) for item, text in texts)


def instruction_rows(rows: TaskRows, kind: str) -> Iterator[Doc]:
    """Yield each concept's own prompts under every arm at every level, and unsteered.

    Where two concepts drew one prompt, its unsteered reply is the same; its rating is not.
    Where a prompt has several samples each is an item: prompt-01#0, prompt-01#1, ...
    A concept to suppress is asked for in the instruction; its vector is subtracted (see `SteerTask.steering_of`).
    """
    concepts = rows.concepts(kind)
    prompts = {concept.id: rows.prompts(concept.id) for concept in concepts}
    unsteered = [ArmAtFactor(UNSTEERED, "", concept.id) for concept in concepts]
    asking = rows.asking(concepts) if kind != "suppress" else ()
    n_samples = rows.options.n_samples or 1
    for arm in (*unsteered, *asking, *rows.steered(concepts)):
        for (prompt, role), sample in product(prompts[arm.concept], range(n_samples)):
            if not rows.measured(arm, role):
                continue
            item = prompt.id if n_samples == 1 else f"{prompt.id}{SAMPLE_MARK}{sample}"
            asked = rows.asked(arm, prompt.instruction)
            if kind == "suppress":
                asked = rows.protocol.rule(arm.concept).ask(asked)
            doc = arm.doc(item, role, prompt.instruction)
            doc["asked"], doc["sample"] = asked, sample
            yield doc


BUILDERS: dict[str, Callable[[TaskRows], Iterator[Doc]]] = {
    LIKELIHOOD: likelihood_rows,
    PERPLEXITY: perplexity_rows,
    SPECIFICITY: specificity_rows,
    **{task: partial(instruction_rows, kind=MEASURES[task].subject) for task in REPLIES},
}
