"""The lm-eval tasks of steer-bench: one class for all of them.

    rows (see `cells`) -> requests with their steering -> samples

The task YAMLs in `tasks/` name the class and one of `cells.BUILDERS`. Options come from the YAML's `steer` block and, before it,
from `--metadata` and `--model_args`, which lm-eval hands to tasks as metadata.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from itertools import chain
from typing import Any, cast

import datasets
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from steer_bench.concepts.rules.rule import Rule
from steer_bench.files import digest
from steer_bench.harness import answers
from steer_bench.harness.cells import BUILDERS, ArmAtFactor, Doc, TaskRows
from steer_bench.harness.command import register
from steer_bench.harness.options import TaskOptions, read_options
from steer_bench.harness.ranks import PADDING
from steer_bench.judge.judgement import Judgement, distinct_2
from steer_bench.judge.ratings import JudgedReply, Key, judge_words, rate_replies
from steer_bench.models.steered.steering import Steering
from steer_bench.results.lmeval_samples import WORDS
from steer_bench.results.measures import JUDGED, RULES, SUPPRESSION, measure_of
from steer_bench.results.rows import INVALID, NOT_JUDGED, Row
from steer_bench.results.stats.headline import headline
from steer_bench.vectors.arms import UNSTEERED

register()  # a task given by path is loaded before the model: from here on `--model steer_bench` is known


Answer = answers.ReplyText | answers.LogLikelihood | answers.RollingLogLikelihood
RULE_SCORES = {RULES: Rule.score, SUPPRESSION: Rule.score_suppressed}


def as_prompt(instruction: str, template: Callable[..., str] | None) -> str:
    """Return an instruction through the chat template, or, for a model without one, as a plain form to fill in."""
    if template is not None:
        return template([{"role": "user", "content": instruction}])
    return f"Instruction: {instruction}\nResponse:"


def _options(block: Mapping[str, object], metadata: Mapping[str, object] | None) -> TaskOptions:
    return read_options(str(block["rows"]), metadata or {}, {key: block[key] for key in block if key != "rows"})


class SteerTask(ConfigurableTask):
    """A task whose rows say how the model is steered. It fails on a model that cannot steer, which must give no number."""

    def __init__(
        self,
        data_dir: str | None = None,
        cache_dir: str | None = None,
        download_mode: datasets.DownloadMode | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        given = dict(config or {})
        given.pop("class", None)  # lm-eval's TaskConfig knows neither this key nor the next
        block = given.pop("steer", None) or {}
        unknown = set(block) - {"rows", *TaskOptions.model_fields}
        if unknown or block.get("rows") not in BUILDERS:
            raise ValueError(
                f"task {given.get('task')}: the steer block needs rows: {' | '.join(BUILDERS)} and may hold "
                f"{', '.join(TaskOptions.model_fields)}; found {block}"
            )
        self.block = block
        self._judgements: Mapping[Key, Judgement] = {}
        options = _options(block, given.get("metadata"))
        if "generation_kwargs" in given:
            given["generation_kwargs"] = {**given["generation_kwargs"], **options.generation_kwargs}
        super().__init__(data_dir, cache_dir, download_mode, given)

    @property
    def measure(self) -> str:
        """Which of BUILDERS makes the rows; also the task's name in results."""
        return str(self.block["rows"])

    @cached_property
    def rows(self) -> TaskRows:
        """The protocol and the arms, under the task's options."""
        return TaskRows.load(self.measure, _options(self.block, self.config.metadata))

    def download(self, dataset_kwargs: object = None, **kwargs: object) -> None:
        """Build the rows, once."""
        rows = list(BUILDERS[self.measure](self.rows))
        if not rows:
            raise ValueError(f"task {self.config.task}: no rows; the run has no concept of the kind it measures")
        self.dataset = datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})

    def has_test_docs(self) -> bool:
        """True."""
        return True

    def test_docs(self) -> datasets.Dataset:
        """The rows."""
        return self.dataset["test"]

    def doc_iterator(self, *, rank: int = 0, world_size: int = 1, **kwargs: object) -> Iterator[tuple[int, Doc]]:
        """Yield every `world_size`-th row, as lm-eval does. A rank without rows gets a copy of the first, for no result."""
        mine = super().doc_iterator(rank=rank, world_size=world_size, **kwargs)
        first = next(mine, None)
        if first is None and world_size > 1:
            padding = cast(Doc, self.test_docs()[0])
            padding["padding"] = True
            return iter([(PADDING, padding)])
        return mine if first is None else chain([first], mine)

    def has_training_docs(self) -> bool:
        """False."""
        return False

    has_validation_docs = has_training_docs

    def fewshot_docs(self) -> None:
        """Few-shot examples are not supported."""
        return None

    def doc_to_text(self, doc: Doc, doc_to_text: object = None) -> str:
        """Return the instruction of a generation task; nothing stands before a text that is scored whole."""
        return doc["asked"] if self.OUTPUT_TYPE == "generate_until" else ""

    def doc_to_target(self, doc: Doc, doc_to_target: object = None) -> str:
        """Return the text whose likelihood is measured; "" for a generation task."""
        return "" if self.OUTPUT_TYPE == "generate_until" else doc["text"]

    def fewshot_context(
        self, doc: Doc, num_fewshot: int, *args: object, apply_chat_template: bool = False,
        chat_template: Callable[..., str] | None = None, **kwargs: object,
    ) -> str:  # fmt: skip
        """Return the prompt of a generation task; "" for a text that is scored whole."""
        if self.OUTPUT_TYPE != "generate_until":
            return ""
        return as_prompt(doc["asked"], chat_template if apply_chat_template else None)

    def construct_requests(self, doc: Doc, ctx: object, **kwargs: object) -> Instance | list[Instance]:
        """Return lm-eval's request with the row's steering as its last argument, so that it is in every cache key."""
        made = super().construct_requests(doc, ctx, **kwargs)
        extra: dict[str, object] = {"steer": asdict(self.steering_of(doc)), "compared": True}
        if self.OUTPUT_TYPE == "generate_until":
            extra["perplexity"] = True
        if doc.get("role") == "neutral":  # of either task, so that a text both measure is one request
            extra["kl"] = True
        if doc.get("sample"):
            extra["sample"] = doc["sample"]
        for request in made if isinstance(made, list) else [made]:
            request.arguments = (*request.args, extra)
        return made

    def steering_of(self, doc: Doc) -> Steering:
        """Return how the row's request is steered: as it says, but a concept to suppress by minus the factor."""
        concept = self.rows.protocol.concepts.get(doc["concept"])
        sign = -1 if concept is not None and concept.kind == "suppress" else 1
        return Steering(doc["arm"], doc["source"], doc["concept"], sign * doc["factor"])

    def build_all_requests(self, *, tokenizer_name: str = "", world_size: int = 1, **kwargs: Any) -> None:
        """Build all requests; a hash of rows and settings enters the key of lm-eval's request cache, which knows no task options.

        Raises ValueError for an option of lm-eval that these tasks would ignore, or that leaves no group of rows whole.
        """
        self._refuse(**kwargs)
        rows = digest(*self.test_docs(), self.config.generation_kwargs)
        super().build_all_requests(tokenizer_name=f"{tokenizer_name}-rows{rows}", world_size=world_size, **kwargs)

    def _refuse(
        self,
        limit: int | None = None,
        samples: Sequence[int] | None = None,
        system_instruction: str | None = None,
        **_: object,
    ) -> None:
        task, n = self.config.task, len(self.test_docs())
        if system_instruction is not None:
            raise ValueError(f"--system_instruction: {task} asks its prompts as they stand; leave it out")
        if self.config.num_fewshot:
            raise ValueError(
                f"--num_fewshot {self.config.num_fewshot}: {task} has no examples; leave it out, or give 0"
            )
        if "bypass" in self._metric_fn_list:  # --predict_only: nothing is made of the rows
            return
        for flag, count in (("--limit", limit), ("--samples", None if samples is None else len(samples))):
            if count is not None and count < n:
                raise ValueError(
                    f"{flag}: {task} compares arms over all of its {n} rows, and {count} of them give no number; measure less by "
                    "--metadata max_concepts=2 max_prompts=4 (max_texts, max_neutral, only_arms)"
                )

    def apply_filters(self) -> list[Instance] | None:
        """Filter as lm-eval does, then rate all replies of a judged task at once, unless the option `rate` is false."""
        for instance in self._instances:  # lm-eval lets ranks with fewer rows ask their last request again
            del instance.resps[instance.repeats :]
        done = super().apply_filters()
        judged = self.measure == JUDGED and "bypass" not in self._metric_fn_list and self.rows.options.rate
        self._judgements = self._rate(self._instances) if judged else {}
        return done

    def _rate(self, instances: Sequence[Instance]) -> Mapping[Key, Judgement]:
        """Return the judgement of each row, by `_row_id`; what is rated is recorded as it arrives. A judge that stops ends the run."""
        replies = [
            JudgedReply(_row_id(one.doc), one.doc["text"], str(one.resps[0]), one.resps[0].perplexity)
            for one in instances
            if "padding" not in one.doc and not one.resps[0].invalid
        ]
        ratings = rate_replies(
            self.rows.protocol.judge, self.rows.protocol.concepts, replies, target=self.rows.target,
            yardstick=self.rows.yardstick,
            records=self.rows.options.records, resume="the same command",
        )  # fmt: skip
        return ratings.judgements

    def process_results(self, doc: Doc, results: Sequence[Answer]) -> dict[str, dict[str, object]]:
        """Return the row's measurement under its arm's label; an unsteered one under every label, to compare each with it."""
        if doc.get("padding"):
            return {}
        row = asdict(self._measured(doc, results[0]))
        if "bypass" in self._metric_fn_list:
            return {"bypass": row}
        labels = self._labels if doc["arm"] == UNSTEERED else [ArmAtFactor(doc["arm"], doc["source"], "", 0).label]
        words = judge_words(self._judgements.get(_row_id(doc)))
        return {label: {**row, WORDS: words} if words and label == labels[0] else row for label in labels}

    def _measured(self, doc: Doc, answer: Answer) -> Row:
        row = partial(
            Row, task=self.measure, target=self.rows.target, source=doc["source"], arm=doc["arm"], concept=doc["concept"],
            factor=doc["factor"], level=doc["level"], item=doc["item"], role=doc["role"], tokens=answer.n_tokens,
        )  # fmt: skip
        if not isinstance(answer, answers.ReplyText):
            total = answer[0] if isinstance(answer, answers.LogLikelihood) else float(answer)
            if not math.isfinite(total):
                return row(value=None, reason=INVALID)
            kl = answer.kl if isinstance(answer, answers.RollingLogLikelihood) else None
            return row(
                value=total / answer.n_tokens, ratings={"kl": kl} if kl is not None and math.isfinite(kl) else {}
            )
        if answer.invalid:
            return row(value=None, reason=answer.invalid)
        numbers = {"distinct_2": distinct_2(str(answer))}
        if answer.perplexity is not None:
            numbers["perplexity"] = answer.perplexity
        if self.measure in RULE_SCORES:
            cut = answer.n_tokens >= self.config.generation_kwargs["max_gen_toks"]
            value = RULE_SCORES[self.measure](self.rows.protocol.rule(doc["concept"]), str(answer), cut=cut)
            return row(value=value, reason="" if value is not None else "undetectable", ratings=numbers)
        judgement = self._judgements.get(_row_id(doc))
        if judgement is None:
            return row(value=None, reason=NOT_JUDGED, ratings=numbers)
        return row(value=judgement.score, reason=judgement.reason, ratings={**numbers, **judgement.ratings})

    @cached_property
    def _labels(self) -> list[str]:
        cells = (ArmAtFactor(doc["arm"], doc["source"], "", 0) for doc in self.test_docs())
        return list(dict.fromkeys(cell.label for cell in cells if cell.arm != UNSTEERED)) or [UNSTEERED]

    def aggregation(self) -> dict[str, Callable[..., float]]:
        """Return what makes lm-eval's one number per arm; the leaderboard has the intervals."""
        one_number = partial(_headline, measure=self.measure, target=self.rows.target)
        return {"bypass": lambda rows: 999, **dict.fromkeys(self._labels, one_number)}

    def higher_is_better(self) -> dict[str, bool]:
        """Return for every label that more of the concept is better, or that more perplexity is worse."""
        return dict.fromkeys(["bypass", *self._labels], measure_of(self.measure).higher_is_better)


def _headline(rows: Sequence[dict[str, Any]], *, measure: str, target: str) -> float:
    """Return lm-eval's number for an arm from the rows as `process_results` made them, in one order on any ranks."""
    order = ("arm", "source", "concept", "factor", "level", "item")
    rows = sorted(rows, key=lambda row: json.dumps([row[key] for key in order]))
    plain = [Row(**{key: value for key, value in row.items() if key != WORDS}) for row in rows]
    return headline(plain, measure=measure, target=target)


def _row_id(doc: Doc) -> Key:
    return doc["arm"], doc["source"], doc["concept"], doc["factor"], doc["item"]
