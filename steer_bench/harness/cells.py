"""Cells: what a task measures on one target, row by row, and the options that say how much of it.

    arms file + protocol.json -> Plan -> rows (arm x concept x factor x prompt or text)

Knows nothing of lm_eval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from steer_bench.concepts.concept import KINDS, Concept, Prompt
from steer_bench.harness.protocol import Protocol
from steer_bench.names import hint
from steer_bench.results.measures import LIKELIHOOD, MEASURES, PERPLEXITY, REPLIES, SPECIFICITY
from steer_bench.results.stats.blocks import SAMPLE_MARK
from steer_bench.vectors.store import UNSTEERED, load_card

JSON = dict[str, Any]

OPTIONS = (
    "arms",
    "protocol",
    "factors",
    "only_arms",
    "max_concepts",
    "max_rules",
    "max_prompts",
    "max_texts",
    "max_neutral",
    "max_words",
    "max_new_tokens",
    "temperature",
    "n_samples",
    "records",
    "judgements",
)
"""What a task's YAML, --metadata and --model_args may say."""


@dataclass(frozen=True)
class Cell:
    """One arm at one factor for one concept; UNSTEERED at factor 0."""

    arm: str
    source: str
    concept: str
    factor: float

    @property
    def label(self) -> str:
        """How lm-eval's table names the arm: `linear<gemma-3-270m` is an arm with its source."""
        return f"{self.arm}<{self.source}" if self.source else self.arm


class Options:
    """A task's options: metadata (from the command line) before the experiment's limits before the YAML's `steer` block."""

    def __init__(self, task: str, metadata: Mapping[str, Any], block: Mapping[str, Any]) -> None:
        self._given = {**block, **metadata.get("limits", {}).get(task, {}), **metadata}

    def get(self, name: str) -> Any:
        """The option, or None."""
        return self._given.get(name)

    def numbers(self, name: str) -> tuple[float, ...] | None:
        """An option that is a list of numbers above 0."""
        given = self.get(name)
        if given is None:
            return None
        values = given if isinstance(given, list | tuple) else [given]
        if not values or any(
            isinstance(v, bool) or not isinstance(v, int | float) or not 0 < v < math.inf for v in values
        ):
            raise ValueError(
                f"{name}={given}: give numbers above 0, such as [0.1, 0.2, 0.4] (factor 0 is always measured)"
            )
        return tuple(sorted(set(map(float, values))))

    def limit(self, name: str) -> int | None:
        """An option that is a count of at least 1."""
        given = self.get(name)
        if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < 1):
            raise ValueError(f"{name}={given}: give a whole number of at least 1")
        return given


class Plan:
    """What a task measures on one target: the protocol and the arms there are, under the task's options."""

    def __init__(
        self,
        task: str,
        options: Options,
        *,
        entries: Sequence[Any] | None = None,
        asked: Mapping[str, Mapping[str, str]] | None = None,
        protocol: Protocol | None = None,
    ) -> None:
        """`entries` ([arm, source, concepts]), `asked` (arm -> its templates) and `protocol`: of a run whose files are not there yet."""
        self.task, self.options = task, options
        arms = options.get("arms")
        if entries is None or protocol is None:
            entries, asked, protocol = self._read(task, options)
        self.protocol, self._asked = protocol, asked or {}
        self.factors = options.numbers("factors") or protocol.factors.get(task) or ()
        if not self.factors:
            raise ValueError(f"task {task}: no factors; give --metadata 'factors=[0.1,0.2]'")
        self._entries = [(arm, source, tuple(concepts)) for arm, source, concepts in entries]
        only = options.get("only_arms")
        if only is not None:
            wanted, known = (
                only if isinstance(only, list) else [only],
                {arm for arm, _, _ in self._entries} | self._asked.keys(),
            )
            for name in wanted:
                if name not in known:
                    raise ValueError(f"only_arms: unknown arm {name!r} in {arms}; {hint(name, sorted(known))}")
            self._entries = [entry for entry in self._entries if entry[0] in wanted]
            self._asked = {arm: templates for arm, templates in self._asked.items() if arm in wanted}

    def _read(self, task: str, options: Options) -> tuple[Sequence[Any], Mapping[str, Mapping[str, str]], Protocol]:
        """The arms, those that ask, and the protocol that the options name."""
        arms = options.get("arms")
        if not isinstance(arms, str):
            raise ValueError(
                f"task {task}: give the target's arms file, --model_args pretrained=…,arms=RUN/arms/MODEL.safetensors"
            )
        card = load_card(arms)
        if card.get("kind") != "arms":
            raise ValueError(f"{arms}: not an arms file; it stands in RUN/arms/")
        self.target = card["target"]
        path = Path(options.get("protocol") or Path(arms).resolve().parent.parent / "protocol.json")
        return card["entries"], card.get("asked", {}), Protocol.load(path)

    def concepts(self, kind: str) -> list[Concept]:
        """Test concepts of a kind, as many as the option `max_concepts` (or, for rules, `max_rules`) allows."""
        limit = self.options.limit("max_concepts" if kind == "topic" else "max_rules")
        return [concept for concept in self.protocol.concepts.values() if concept.kind == kind][:limit]

    def cells(self, concepts: Sequence[Concept]) -> Iterator[Cell]:
        """Every steered cell, in a fixed order."""
        for arm, source, known in self._entries:
            for concept in concepts:
                if concept.id in known:
                    for factor in self.factors:
                        yield Cell(arm, source, concept.id, factor)

    def asking(self, concepts: Sequence[Concept]) -> Iterator[Cell]:
        """Cells of the arms that ask for the concept instead of steering: no factor."""
        yield from (Cell(arm, "", concept.id, 0.0) for arm in self._asked for concept in concepts)

    def asked(self, cell: Cell, instruction: str) -> str:
        """What the model is asked under a cell: the instruction, or the words of an arm that asks for the concept."""
        if cell.arm not in self._asked:
            return instruction
        concept = self.protocol.concepts[cell.concept]
        template = self._asked[cell.arm][concept.kind]
        return template.replace("{concept}", concept.description).replace("{instruction}", instruction)

    def prompts(self) -> list[Prompt]:
        """Prompts in both roles, as many of each as the option `max_prompts` allows."""
        limit = self.options.limit("max_prompts")
        return [p for role in ("select", "score") for p in [q for q in self.protocol.prompts if q.role == role][:limit]]

    def neutral(self) -> list[tuple[str, str]]:
        """(id, text), as many as the option `max_neutral` allows."""
        chosen = list(self.protocol.neutral.items())[: self.options.limit("max_neutral")]
        return [(item, self._cut(text)) for item, text in chosen]

    def positives(self, concept: Concept) -> list[tuple[str, str]]:
        """(id, text) of the held-out texts that show the concept, as many as the option `max_texts` allows."""
        chosen = concept.positives[: self.options.limit("max_texts")]
        return [(f"{concept.id}-{i}", self._cut(text)) for i, text in enumerate(chosen)]

    def _cut(self, text: str) -> str:
        """The first `max_words` words of a text that is scored."""
        limit = self.options.limit("max_words")
        return text if limit is None else " ".join(text.split()[:limit])


def _doc(cell: Cell, item: str, role: str, text: str) -> JSON:
    return {**asdict(cell), "item": item, "role": role, "text": text}


def likelihood_rows(plan: Plan) -> Iterator[JSON]:
    """Held-out texts of the concept and neutral texts under every cell; each text unsteered once."""
    concepts, neutral = plan.concepts("topic"), plan.neutral()
    texts = {concept.id: plan.positives(concept) for concept in concepts}
    nothing = partial(Cell, UNSTEERED, "", factor=0.0)
    for concept in concepts:
        yield from (_doc(nothing(concept=concept.id), item, "concept", text) for item, text in texts[concept.id])
    yield from (_doc(nothing(concept=""), item, "neutral", text) for item, text in neutral)
    for cell in plan.cells(concepts):
        yield from (_doc(cell, item, "concept", text) for item, text in texts[cell.concept])
        yield from (_doc(cell, item, "neutral", text) for item, text in neutral)


def perplexity_rows(plan: Plan) -> Iterator[JSON]:
    """Neutral texts under every cell, of topics and of rules, and unsteered."""
    for item, text in plan.neutral():
        yield _doc(Cell(UNSTEERED, "", "", 0.0), item, "neutral", text)
    for cell in plan.cells([concept for kind in KINDS for concept in plan.concepts(kind)]):
        yield from (_doc(cell, item, "neutral", text) for item, text in plan.neutral())


def specificity_rows(plan: Plan) -> Iterator[JSON]:
    """Every vector on the held-out texts of every concept, at the largest factor of the task: the specificity matrix."""
    concepts = plan.concepts("topic")
    texts = [(item, text) for concept in concepts for item, text in plan.positives(concept)]
    for item, text in texts:
        yield _doc(Cell(UNSTEERED, "", "", 0.0), item, "concept", text)
    for cell in plan.cells(concepts):
        if cell.factor == plan.factors[-1]:
            yield from (_doc(cell, item, "concept", text) for item, text in texts)


def instruction_rows(plan: Plan, kind: str) -> Iterator[JSON]:
    """Every prompt under every cell, and unsteered for every concept (the reply is the same, its rating is not).

    Of several samples a prompt each is an item: prompt-01#0, prompt-01#1, ...
    A concept to suppress is asked for in the instruction; its vector is subtracted (see `SteerTask.steering_of`).
    """
    concepts, prompts = plan.concepts(kind), plan.prompts()
    unsteered = [Cell(UNSTEERED, "", concept.id, 0.0) for concept in concepts]
    asking = plan.asking(concepts) if kind != "suppress" else ()
    n_samples = plan.options.limit("n_samples") or 1
    for cell in (*unsteered, *asking, *plan.cells(concepts)):
        for prompt, sample in product(prompts, range(n_samples)):
            item = prompt.id if n_samples == 1 else f"{prompt.id}{SAMPLE_MARK}{sample}"
            asked = plan.asked(cell, prompt.instruction)
            asked = plan.protocol.rule(cell.concept).ask(asked) if kind == "suppress" else asked
            yield {**_doc(cell, item, prompt.role, prompt.instruction), "asked": asked, "sample": sample}


BUILDERS: dict[str, Callable[[Plan], Iterator[JSON]]] = {
    LIKELIHOOD: likelihood_rows,
    PERPLEXITY: perplexity_rows,
    SPECIFICITY: specificity_rows,
    **{task: partial(instruction_rows, kind=MEASURES[task].subject) for task in REPLIES},
}
