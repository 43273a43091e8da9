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

from steer_bench.concepts.concept import KINDS, Concept, Prompt
from steer_bench.harness.options import TaskOptions
from steer_bench.harness.protocol import Protocol
from steer_bench.names import known
from steer_bench.results.measures import LIKELIHOOD, MEASURES, PERPLEXITY, REPLIES, SPECIFICITY
from steer_bench.results.stats.grid import SAMPLE_MARK
from steer_bench.vectors.arms import UNSTEERED, ArmEntry, TargetCard


class Doc(TypedDict):
    """One row of a task, as lm-eval holds it and writes it into the samples file."""

    arm: str
    source: str
    concept: str
    """"" where the row is the same for all concepts."""
    factor: float
    item: str
    """Id of the prompt or text."""
    role: str
    """"select" or "score" of a prompt; "concept" or "neutral" of a text."""
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
    factor: float

    @property
    def label(self) -> str:
        """Name of the arm in lm-eval's table: `linear<gemma-3-270m` is an arm with its source."""
        return f"{self.arm}<{self.source}" if self.source else self.arm

    def doc(self, item: str, role: str, text: str) -> Doc:
        """Return the row of one prompt or text."""
        return Doc(
            arm=self.arm, source=self.source, concept=self.concept, factor=self.factor, item=item, role=role, text=text
        )


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
    ) -> None:
        """`entries`: the arms; `asked`: arm that asks instead of steering -> its templates by kind.

        Raises ValueError where there is no factor, or `only_arms` names an unknown arm.
        """
        self.task, self.options, self.target, self.protocol = task, options, target, protocol
        self.factors = options.factors or protocol.factors.get(task) or ()
        if not self.factors:
            raise ValueError(f"task {task}: no factors; give --metadata 'factors=[0.1,0.2]'")
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
        return cls(task, options, target=card.target, entries=card.arms, asked=card.asked, protocol=protocol)

    def concepts(self, kind: str) -> list[Concept]:
        """Return the test concepts of a kind, as many as the option `max_concepts` (or, for rules, `max_rules`) allows."""
        limit = self.options.max_concepts if kind == "topic" else self.options.max_rules
        return [concept for concept in self.protocol.concepts.values() if concept.kind == kind][:limit]

    def steered(self, concepts: Sequence[Concept]) -> Iterator[ArmAtFactor]:
        """Yield every steering arm at every factor, in a fixed order."""
        for entry, concept, factor in product(self._entries, concepts, self.factors):
            if concept.id in entry.concepts:
                yield ArmAtFactor(entry.arm.name, entry.source, concept.id, factor)

    def asking(self, concepts: Sequence[Concept]) -> Iterator[ArmAtFactor]:
        """Yield the arms that ask for the concept instead of steering; they have no factor."""
        yield from (ArmAtFactor(arm, "", concept.id, 0.0) for arm in self._asked for concept in concepts)

    def asked(self, arm: ArmAtFactor, instruction: str) -> str:
        """Return the instruction, or the words of an arm that asks for the concept."""
        if arm.arm not in self._asked:
            return instruction
        concept = self.protocol.concepts[arm.concept]
        template = self._asked[arm.arm][concept.kind]
        return template.replace("{concept}", concept.description).replace("{instruction}", instruction)

    def prompts(self) -> list[Prompt]:
        """Return the prompts in both roles, as many of each as the option `max_prompts` allows."""
        limit = self.options.max_prompts
        return [p for role in ("select", "score") for p in [q for q in self.protocol.prompts if q.role == role][:limit]]

    def neutral(self) -> list[tuple[str, str]]:
        """Return (id, text) of neutral texts, as many as the option `max_neutral` allows."""
        return [(item, self._cut(text)) for item, text in self.protocol.neutral.items()][: self.options.max_neutral]

    def positives(self, concept: Concept) -> list[tuple[str, str]]:
        """Return (id, text) of the held-out texts that show the concept, as many as the option `max_texts` allows."""
        texts = concept.positives[: self.options.max_texts]
        return [(f"{concept.id}-{i}", self._cut(text)) for i, text in enumerate(texts)]

    def _cut(self, text: str) -> str:
        """Return the first `max_words` words of a text that is scored."""
        limit = self.options.max_words
        return text if limit is None else " ".join(text.split()[:limit])


def likelihood_rows(rows: TaskRows) -> Iterator[Doc]:
    """Yield the held-out texts of each concept and the neutral texts under every arm at every factor; each text unsteered once."""
    concepts, neutral = rows.concepts("topic"), rows.neutral()
    texts = {concept.id: rows.positives(concept) for concept in concepts}
    for concept in concepts:
        nothing = ArmAtFactor(UNSTEERED, "", concept.id, 0.0)
        yield from (nothing.doc(item, "concept", text) for item, text in texts[concept.id])
    yield from (ArmAtFactor(UNSTEERED, "", "", 0.0).doc(item, "neutral", text) for item, text in neutral)
    for arm in rows.steered(concepts):
        yield from (arm.doc(item, "concept", text) for item, text in texts[arm.concept])
        yield from (arm.doc(item, "neutral", text) for item, text in neutral)


def perplexity_rows(rows: TaskRows) -> Iterator[Doc]:
    """Yield the neutral texts under every arm at every factor, of topics and of rules, and unsteered."""
    for item, text in rows.neutral():
        yield ArmAtFactor(UNSTEERED, "", "", 0.0).doc(item, "neutral", text)
    for arm in rows.steered([concept for kind in KINDS for concept in rows.concepts(kind)]):
        yield from (arm.doc(item, "neutral", text) for item, text in rows.neutral())


def specificity_rows(rows: TaskRows) -> Iterator[Doc]:
    """Yield the held-out texts of every concept under every vector, at the largest factor of the task: the specificity matrix."""
    concepts = rows.concepts("topic")
    texts = [(item, text) for concept in concepts for item, text in rows.positives(concept)]
    for item, text in texts:
        yield ArmAtFactor(UNSTEERED, "", "", 0.0).doc(item, "concept", text)
    for arm in rows.steered(concepts):
        if arm.factor == rows.factors[-1]:
            yield from (arm.doc(item, "concept", text) for item, text in texts)


def instruction_rows(rows: TaskRows, kind: str) -> Iterator[Doc]:
    """Yield every prompt under every arm at every factor, and unsteered for every concept.

    Unsteered, the reply is the same for all concepts; its rating is not.
    Where a prompt has several samples each is an item: prompt-01#0, prompt-01#1, ...
    A concept to suppress is asked for in the instruction; its vector is subtracted (see `SteerTask.steering_of`).
    """
    concepts, prompts = rows.concepts(kind), rows.prompts()
    unsteered = [ArmAtFactor(UNSTEERED, "", concept.id, 0.0) for concept in concepts]
    asking = rows.asking(concepts) if kind != "suppress" else ()
    n_samples = rows.options.n_samples or 1
    for arm in (*unsteered, *asking, *rows.steered(concepts)):
        for prompt, sample in product(prompts, range(n_samples)):
            item = prompt.id if n_samples == 1 else f"{prompt.id}{SAMPLE_MARK}{sample}"
            asked = rows.asked(arm, prompt.instruction)
            if kind == "suppress":
                asked = rows.protocol.rule(arm.concept).ask(asked)
            doc = arm.doc(item, prompt.role, prompt.instruction)
            doc["asked"], doc["sample"] = asked, sample
            yield doc


BUILDERS: dict[str, Callable[[TaskRows], Iterator[Doc]]] = {
    LIKELIHOOD: likelihood_rows,
    PERPLEXITY: perplexity_rows,
    SPECIFICITY: specificity_rows,
    **{task: partial(instruction_rows, kind=MEASURES[task].subject) for task in REPLIES},
}
