"""Evaluation: the lm-eval tasks of steer-bench, one class for all of them.

    rows (see `cells`) -> requests with their steering -> samples

The task YAMLs in `tasks/` name the class and one of `cells.BUILDERS`. Options come from the YAML's `steer` block and, before it,
from `--metadata` and `--model_args`, which lm-eval hands to tasks as metadata.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from steer_bench import register
from steer_bench.concepts.rules.rule import Rule
from steer_bench.harness.cells import BUILDERS, JSON, OPTIONS, Cell, Options, Plan
from steer_bench.harness.ranks import PADDING, all_gather_list
from steer_bench.judge.config import judge_id
from steer_bench.judge.judgement import JudgeError, Judgement, distinct_2
from steer_bench.judge.ratings import Key, Reply, rate_replies, spoken
from steer_bench.results.file import WORDS
from steer_bench.results.measures import JUDGED, LIKELIHOOD, PERPLEXITY, RULES, SPECIFICITY, SUPPRESSION, measure_of
from steer_bench.results.rows import Row
from steer_bench.results.stats.blocks import block_of, nan_mean
from steer_bench.results.stats.details import specificity
from steer_bench.results.stats.effects import measure_generation, measure_likelihood
from steer_bench.vectors.store import UNSTEERED

register()  # a task given by path is loaded before the model: from here on `--model steer_bench` is known

logger = logging.getLogger(__name__)


RULE_SCORES = {RULES: Rule.score, SUPPRESSION: Rule.score_suppressed}


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
        self._judgements: Mapping[Key, Judgement] = {}
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
        judged = self.measure == JUDGED and "bypass" not in self._metric_fn_list
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
        if self.measure in RULE_SCORES:
            cut = answer.n_tokens >= self.config.generation_kwargs["max_gen_toks"]
            value = RULE_SCORES[self.measure](self.plan.protocol.rule(doc["concept"]), str(answer), cut=cut)
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
        return dict.fromkeys(["bypass", *self._labels], measure_of(self.measure).higher_is_better)


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
    if measure == PERPLEXITY:
        top = max(row.factor for row in measured)
        plain = {row.item: row for row in measured if row.arm == UNSTEERED}
        pairs = [(row, plain[row.item]) for row in measured if row.factor == top and row.item in plain and top > 0]
        pairs = [(row, base) for row, base in pairs if row.value is not None and base.value is not None]
        tokens = sum(row.tokens for row, _ in pairs)
        change = math.fsum(((row.value or 0.0) - (base.value or 0.0)) * row.tokens for row, base in pairs)
        return math.exp(-change / tokens) if tokens else math.nan
    if measure == SPECIFICITY:
        differences = [matrix.difference.value for matrix in specificity(measured, target).values()]
        return next((value for value in differences if value is not None), math.nan)
    if measure == LIKELIHOOD:
        found = measure_likelihood(measured, target)
        per_concept = [nan_mean(found.effects[arm]) - nan_mean(found.neutral[arm]) for arm in found.effects]
    else:
        scores = measure_generation(block_of(measured, measure, target))
        per_concept = [nan_mean(values) for arm, values in scores.scores.items() if arm.name != UNSTEERED]
    values = [float(value) for arm in per_concept for value in arm if math.isfinite(value)]
    return math.fsum(values) / len(values) if values else math.nan


def _row_id(doc: JSON) -> Key:
    return doc["arm"], doc["source"], doc["concept"], doc["factor"], doc["item"]
