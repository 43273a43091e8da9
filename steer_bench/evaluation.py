"""Evaluation: the lm-eval tasks of steer-bench, one class for all of them.

    arms file + protocol.json -> rows (arm x concept x factor x prompt or text) -> requests with their steering -> samples

The task YAMLs in `tasks/` name the class and one of `BUILDERS`. Options come from the YAML's `steer` block and, before it,
from `--metadata` and `--model_args`, which lm-eval hands to tasks as metadata.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property, partial
from itertools import chain, product
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from steer_bench import register
from steer_bench.concepts import KINDS, Concept, Prompt
from steer_bench.judge import JudgeError, Judgement, Reply, distinct_2, judge_id, rate_replies
from steer_bench.judge.replies import Key, spoken
from steer_bench.protocol import Protocol
from steer_bench.ranks import PADDING, all_gather_list
from steer_bench.results import WORDS, Row
from steer_bench.rules import add_rule, ask_for_rule, check_rule, check_suppressed, declared_rule
from steer_bench.stats import SAMPLE_MARK, measure_generation, measure_likelihood, nan_mean, specificity
from steer_bench.vectors import UNSTEERED, load_card

register()  # a task given by path is loaded before the model: from here on `--model steer_bench` is known

logger = logging.getLogger(__name__)
JSON = dict[str, Any]


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
        for declared in protocol.rules:
            add_rule(declared_rule(declared))
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
                    near = difflib.get_close_matches(str(name), known, n=1)
                    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(known))}"
                    raise ValueError(f"only_arms: unknown arm {name!r} in {arms}; {hint}")
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
        rule = plan.protocol.concepts[cell.concept].rule
        for prompt, sample in product(prompts, range(n_samples)):
            item = prompt.id if n_samples == 1 else f"{prompt.id}{SAMPLE_MARK}{sample}"
            asked = plan.asked(cell, prompt.instruction)
            asked = ask_for_rule(rule, asked) if kind == "suppress" else asked
            yield {**_doc(cell, item, prompt.role, prompt.instruction), "asked": asked, "sample": sample}


BUILDERS: dict[str, Callable[[Plan], Iterator[JSON]]] = {
    "concept_likelihood": likelihood_rows,
    "steered_perplexity": perplexity_rows,
    "specificity": specificity_rows,
    "concept_steering": partial(instruction_rows, kind="topic"),
    "rule_following": partial(instruction_rows, kind="rule"),
    "rule_suppression": partial(instruction_rows, kind="suppress"),
}
RULE_CHECKS = {"rule_following": check_rule, "rule_suppression": check_suppressed}


def as_prompt(instruction: str, template: Callable[..., str] | None) -> str:
    """An instruction through the chat template, or, for a model without one, as a plain form to fill in."""
    if template is not None:
        return template([{"role": "user", "content": instruction}])
    return f"Instruction: {instruction}\nResponse:"


class SteerTask(ConfigurableTask):
    """A task whose rows say how the model is steered. On a model that cannot steer it fails: it must not return a number."""

    def __init__(
        self, data_dir: Any = None, cache_dir: Any = None, download_mode: Any = None, config: Any = None
    ) -> None:
        config = dict(config or {})
        config.pop("class", None)  # lm-eval's TaskConfig knows neither this key nor the next
        block = config.pop("steer", None) or {}
        unknown = set(block) - {"rows", *OPTIONS}
        if unknown or block.get("rows") not in BUILDERS:
            raise ValueError(
                f"task {config.get('task')}: the steer block needs rows: {' | '.join(BUILDERS)} and may hold {', '.join(OPTIONS)}; "
                f"found {block}"
            )
        self.block = block
        options = Options(block["rows"], config.get("metadata") or {}, block)
        if "generation_kwargs" in config:
            config["generation_kwargs"] = {**config["generation_kwargs"], **_generation_kwargs(options)}
        super().__init__(data_dir, cache_dir, download_mode, config)

    @property
    def measure(self) -> str:
        """Which of BUILDERS makes the rows; also the task's name in results."""
        return str(self.block["rows"])

    @cached_property
    def plan(self) -> Plan:
        """What is measured."""
        return Plan(self.measure, Options(self.measure, self.config.metadata or {}, self.block))

    def download(self, dataset_kwargs: Any = None, **kwargs: Any) -> None:
        """Build the rows, once."""
        rows = list(BUILDERS[self.measure](self.plan))
        if not rows:
            raise ValueError(f"task {self.config.task}: no rows; the run has no concept of the kind it measures")
        self.dataset = datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})

    def has_test_docs(self) -> bool:
        """Always."""
        return True

    def test_docs(self) -> Any:
        """The rows."""
        return self.dataset["test"]

    def doc_iterator(self, *, rank: int = 0, world_size: int = 1, **kwargs: Any) -> Iterator[tuple[int, JSON]]:
        """As lm-eval: every `world_size`-th row. A rank that gets none works on a copy of the first, which is in no result."""
        mine = super().doc_iterator(rank=rank, world_size=world_size, **kwargs)
        first = next(mine, None)
        if first is None and world_size > 1:
            return iter([(PADDING, {**self.test_docs()[0], "padding": True})])
        return mine if first is None else chain([first], mine)

    def has_training_docs(self) -> bool:
        """Never: there are no few-shot examples."""
        return False

    has_validation_docs = has_training_docs

    def fewshot_docs(self) -> Any:
        """None: there are no few-shot examples."""
        return None

    def doc_to_text(self, doc: JSON, doc_to_text: Any = None) -> str:
        """The instruction of a generation task; nothing stands before a text that is scored whole."""
        return doc["asked"] if self.OUTPUT_TYPE == "generate_until" else ""

    def doc_to_target(self, doc: JSON, doc_to_target: Any = None) -> str:
        """The text whose likelihood is measured; nothing for a reply."""
        return "" if self.OUTPUT_TYPE == "generate_until" else doc["text"]

    def fewshot_context(self, doc: JSON, num_fewshot: int, *args: Any, **kwargs: Any) -> str:
        """The prompt: the instruction through the chat template, or, for a model without one, as a plain form to fill in."""
        if self.OUTPUT_TYPE != "generate_until":
            return ""
        return as_prompt(doc["asked"], kwargs.get("chat_template") if kwargs.get("apply_chat_template") else None)

    def construct_requests(self, doc: JSON, ctx: Any, **kwargs: Any) -> Any:
        """lm-eval's request with the row's steering as its last argument, so that it is in every cache key."""
        made = super().construct_requests(doc, ctx, **kwargs)
        extra: JSON = {"steer": self.steering_of(doc)}
        if self.OUTPUT_TYPE == "generate_until":
            extra["perplexity"] = True
        if doc.get("role") == "neutral":  # of either task, so that a text both measure is one request
            extra["kl"] = True
        if doc.get("sample"):
            extra["sample"] = doc["sample"]
        for request in made if isinstance(made, list) else [made]:
            request.arguments = (*request.args, extra)
        return made

    def steering_of(self, doc: JSON) -> JSON:
        """How the row's request is steered: as it says, but a concept to suppress by its vector times minus the factor."""
        if doc["factor"] == 0:  # unsteered, whatever the concept
            return {"arm": UNSTEERED, "source": "", "concept": "", "factor": 0.0}
        steering = {key: doc[key] for key in ("arm", "source", "concept", "factor")}
        if self.plan.protocol.concepts[doc["concept"]].kind == "suppress":
            steering["factor"] = -steering["factor"]
        return steering

    def build_all_requests(self, *, tokenizer_name: str = "", **kwargs: Any) -> None:
        """As lm-eval, with a hash of all rows in the key of its request cache, which knows no task options."""
        rows = hashlib.sha256(json.dumps(list(self.test_docs()), sort_keys=True).encode()).hexdigest()[:16]
        self._world_size = int(kwargs.get("world_size") or 1)
        super().build_all_requests(tokenizer_name=f"{tokenizer_name}-rows{rows}", **kwargs)

    def apply_filters(self) -> Any:
        """As lm-eval; then all replies of a judged task are rated at once (they are on disk by now)."""
        for instance in self._instances:  # lm-eval lets ranks with fewer rows ask their last request again
            del instance.resps[instance.repeats :]
        done = super().apply_filters()
        judged = self.measure == "concept_steering" and "bypass" not in self._metric_fn_list
        self._judgements = self._rate(self._instances) if judged else {}
        return done

    def _rate(self, instances: Sequence[Instance]) -> Mapping[Key, Judgement]:
        """Judgement of each row, by `_row_id`; what is rated is stored as it arrives.

        With the option `judgements` (a folder) they are written there too, and a judge that stops leaves all rows unscored, so that
        lm-eval writes the replies: `steer-bench judge` rates them later. Without it a judge that stops ends the run.
        """
        replies = [
            Reply(_row_id(one.doc), one.doc["text"], str(one.resps[0]), one.resps[0].perplexity)
            for one in instances
            if "padding" not in one.doc and not one.resps[0].invalid
        ]
        unsteered = [reply for reply in replies if reply.key[0] == UNSTEERED]
        protocol, folder = self.plan.protocol, self.plan.options.get("judgements")
        name = f"{Path(self.plan.options.get('arms')).stem}.jsonl"
        where = {} if folder is None else {"file": Path(folder) / judge_id(protocol.judge) / name}
        resume = "the same command" if folder is None else f"steer-bench judge {Path(folder).parent}"
        try:
            ratings = rate_replies(
                protocol.judge, protocol.concepts, replies, target=self.plan.target,
                unsteered=all_gather_list(unsteered, self._world_size),  # one judge, the same on all ranks
                records=self.plan.options.get("records"), resume=resume, **where,
            )  # fmt: skip
        except JudgeError as error:
            if folder is None:
                raise
            logger.error("%s", error)
            return {}
        return ratings.judgements

    def process_results(self, doc: JSON, results: Sequence[Any]) -> JSON:
        """The row's measurement under its arm's label; an unsteered row under every label, for each is compared with it."""
        if doc.get("padding"):
            return {}
        row = asdict(self._measured(doc, results[0]))
        if "bypass" in self._metric_fn_list:
            return {"bypass": row}
        labels = self._labels if doc["arm"] == UNSTEERED else [Cell(doc["arm"], doc["source"], "", 0).label]
        words = spoken(self._judgements.get(_row_id(doc)))
        return {label: {**row, WORDS: words} if words and label == labels[0] else row for label in labels}

    def _measured(self, doc: JSON, answer: Any) -> Row:
        keys = {key: doc[key] for key in ("source", "arm", "concept", "factor", "item", "role")}
        row = partial(Row, task=self.measure, target=self.plan.target, **keys)
        if self.OUTPUT_TYPE != "generate_until":
            total = answer[0] if isinstance(answer, tuple) else float(answer)
            if not math.isfinite(total):
                return row(value=None, tokens=answer.n_tokens, reason="non_finite")
            kl = getattr(answer, "kl", None)
            ratings = {"kl": kl} if kl is not None and math.isfinite(kl) else {}
            return row(value=total / answer.n_tokens, tokens=answer.n_tokens, ratings=ratings)
        if answer.invalid:
            return row(value=None, tokens=answer.n_tokens, reason=answer.invalid)
        numbers = {"distinct_2": distinct_2(str(answer))}
        if answer.perplexity is not None:
            numbers["perplexity"] = answer.perplexity
        if self.measure in RULE_CHECKS:
            rule = self.plan.protocol.concepts[doc["concept"]].rule
            cut = answer.n_tokens >= self.config.generation_kwargs["max_gen_toks"]
            value = RULE_CHECKS[self.measure](rule, str(answer), cut=cut)
            return row(
                value=value, tokens=answer.n_tokens, reason="" if value is not None else "undetectable", ratings=numbers
            )
        judgement = self._judgements.get(_row_id(doc))
        if judgement is None:
            return row(value=None, tokens=answer.n_tokens, reason="not judged", ratings=numbers)
        ratings = {**numbers, **judgement.ratings}
        return row(value=judgement.score, tokens=answer.n_tokens, reason=judgement.reason, ratings=ratings)

    @cached_property
    def _labels(self) -> list[str]:
        cells = (Cell(doc["arm"], doc["source"], "", 0) for doc in self.test_docs())
        return list(dict.fromkeys(cell.label for cell in cells if cell.arm != UNSTEERED)) or [UNSTEERED]

    def aggregation(self) -> JSON:
        """One number an arm for lm-eval's table; the leaderboard has the intervals."""
        headline = partial(_headline, measure=self.measure, target=self.plan.target)
        return {"bypass": lambda rows: 999, **dict.fromkeys(self._labels, headline)}

    def higher_is_better(self) -> JSON:
        """More of the concept is better; more perplexity is worse."""
        return dict.fromkeys(["bypass", *self._labels], self.measure != "steered_perplexity")


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


def _generation_kwargs(options: Options) -> JSON:
    """Length and sampling of replies, as far as the options say them. Raises ValueError for samples that would all be equal."""
    tokens, temperature = options.limit("max_new_tokens"), options.get("temperature")
    if temperature is not None and (
        isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 <= temperature < math.inf
    ):
        raise ValueError(f"temperature={temperature}: give a number from 0 (greedy)")
    if (options.limit("n_samples") or 1) > 1 and not temperature:
        raise ValueError(
            f"n_samples={options.get('n_samples')} at temperature 0 gives equal replies; set a temperature"
        )
    given: JSON = {} if tokens is None else {"max_gen_toks": tokens}
    return {**given, "do_sample": True, "temperature": float(temperature)} if temperature else given


def _headline(rows: Sequence[JSON], *, measure: str, target: str) -> float:
    """lm-eval's one number an arm, by the statistics of the leaderboard; NaN where rows are missing (`--limit`).

    concept_likelihood: mean lift at matched damage, nats a token. steered_perplexity: perplexity ratio at the largest factor.
    specificity: change on texts of the vector's own concept minus that on the others', nats a token.
    Generation tasks: mean score at the selected factors.
    """
    known = {field.name for field in fields(Row)}
    rows = sorted(
        rows, key=lambda row: json.dumps([row[key] for key in ("arm", "source", "concept", "factor", "item")])
    )
    measured = [
        Row(**{key: value for key, value in row.items() if key in known}) for row in rows
    ]  # in one order on any ranks
    if measure == "steered_perplexity":
        top = max(row.factor for row in measured)
        plain = {row.item: row for row in measured if row.arm == UNSTEERED}
        pairs = [(row, plain[row.item]) for row in measured if row.factor == top and row.item in plain and top > 0]
        pairs = [(row, base) for row, base in pairs if row.value is not None and base.value is not None]
        tokens = sum(row.tokens for row, _ in pairs)
        change = math.fsum(((row.value or 0.0) - (base.value or 0.0)) * row.tokens for row, base in pairs)
        return math.exp(-change / tokens) if tokens else math.nan
    if measure == "specificity":
        differences = [matrix.difference.value for matrix in specificity(measured, target).values()]
        return next((value for value in differences if value is not None), math.nan)
    if measure == "concept_likelihood":
        found = measure_likelihood(measured, target)
        per_concept = [nan_mean(found.effects[arm]) - nan_mean(found.neutral[arm]) for arm in found.effects]
    else:
        scores = measure_generation(measured, measure, target)
        per_concept = [nan_mean(values) for arm, values in scores.scores.items() if arm.name != UNSTEERED]
    values = [float(value) for arm in per_concept for value in arm if math.isfinite(value)]
    return math.fsum(values) / len(values) if values else math.nan


def _row_id(doc: JSON) -> Key:
    return doc["arm"], doc["source"], doc["concept"], doc["factor"], doc["item"]
