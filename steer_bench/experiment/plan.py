"""A dry run: what an experiment needs before it is run, counted from the rows that it would measure.

    experiment -> rows of every task on every target -> [TaskCost] -> stages with their time -> hours at n GPUs

Nothing is loaded but tokenizers. A stage's time is its work over the throughput, shared by the machines it can use: extract one
per model, fit one per pair, measure as many as there are answers; the judge is asked at its own pace; finishing (lm-eval's
samples and tables) is one process per target.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING

import yaml

from steer_bench import shipped
from steer_bench.experiment.completion import is_measured
from steer_bench.experiment.run import Run
from steer_bench.harness.cells import BUILDERS, TaskRows
from steer_bench.harness.options import TaskOptions
from steer_bench.judge.config import OpenAIConfig
from steer_bench.models.load import model_path, read_config
from steer_bench.models.tokens import encode
from steer_bench.results.measures import MEASURES, SPECIFICITY
from steer_bench.vectors.arms import UNSTEERED, ArmEntry, ArmsCard

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ASPECTS = 3
"""Questions to a language model that judges one reply."""
JUDGE_SECONDS = 1.0
"""Assumed time of one judge call; a server answers `concurrency` at once."""
FINISH_SECONDS = 0.001
"""Of one sample in lm-eval's loop, from records to the samples file: 6,926 took 6.8 s on one core."""
BYTES_PER_SCORE, BYTES_PER_REPLY, BYTES_PER_SAMPLE = 190, 210, 1500
"""Of a recorded log-likelihood, a recorded reply and a line of a samples file, each without its text."""
BYTES_PER_TOKEN = 4.5


@dataclass(frozen=True)
class TaskCost:
    """What one task asks of one target."""

    cells: int = 0
    """Arm x concept x factor."""
    samples: int = 0
    """Rows, each one line of a samples file."""
    answers: int = 0
    """Different replies or log-likelihoods: rows that a model computes."""
    read: int = 0
    """Tokens in forward passes over whole texts: prompts (without template), scored texts, replies read by the unsteered model."""
    written: int = 0
    """Tokens generated one by one, at most."""
    judged: int = 0
    """Replies that the judge rates."""

    def __add__(self, other: TaskCost) -> TaskCost:
        return TaskCost(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def __mul__(self, n: float) -> TaskCost:
        return TaskCost(*(round(getattr(self, one.name) * n) for one in fields(self)))


@dataclass(frozen=True)
class Throughput:
    """Tokens a second on one GPU (or on this CPU)."""

    read: float
    written: float


@dataclass(frozen=True)
class StageTime:
    """The time of a part of a run on one machine, and how many machines can share it."""

    name: str
    seconds: float
    at_most: float
    """Machines that it can use at once."""

    def hours(self, machines: int) -> float:
        """Return wall-clock hours."""
        return self.seconds / min(machines, self.at_most) / 3600


@dataclass(frozen=True)
class Plan:
    """What an experiment needs."""

    costs: dict[tuple[str, str], TaskCost]
    """By (target, task)."""
    extract: int
    """Tokens read by stage extract."""
    fit: int
    """Tokens read by stage fit."""
    disk: dict[str, int]
    """Bytes by kind of file."""
    missing: list[str]
    """What is still to be made, by stage; empty for a finished run."""
    free: int
    """Free bytes where the run folder lies."""
    pairs: int
    """Directed pairs of models."""
    models: int
    targets: int
    judge_calls: int
    """Questions to a judge behind a server; 0 where the judge runs here."""
    judge_concurrency: int

    @property
    def total(self) -> TaskCost:
        """The cost of all tasks on all targets."""
        return sum(self.costs.values(), TaskCost())

    def stages(self, throughput: Throughput) -> list[StageTime]:
        """Return the parts of the run with their time on one machine."""
        total, read = self.total, throughput.read
        return [
            StageTime("extract", self.extract / read, self.models),
            StageTime("fit", self.fit / read, max(1, self.pairs / 2)),
            StageTime("measure", total.read / read + total.written / throughput.written, max(1, total.answers)),
            StageTime("judge", self.judge_calls * JUDGE_SECONDS / self.judge_concurrency, 1),
            StageTime("finish", total.samples * FINISH_SECONDS, self.targets),
        ]


def plan(run: Run, *, concepts: int | None = None, pairs: int | None = None) -> Plan:
    """Count what a run needs; `concepts`, `pairs`: as if there were so many test concepts and directed pairs, alike in size."""
    data, directed, given = run.data, run.experiment.directed, len(run.data.splits.test)
    by_pairs = 1.0 if pairs is None else pairs / len(directed)
    by_concepts = 1.0 if concepts is None else concepts / given
    costs = {}
    for target in run.targets:
        for task, limits in run.experiment.tasks.items():
            fixed, linear, square = count(run, target, task)
            n = 1.0 if concepts is None else concepts / min(given, limits.max_concepts or given)
            costs[target, task] = (fixed + linear * n + square * n**2) * by_pairs
    total = sum(costs.values(), TaskCost())
    models = len(run.models) if pairs is None else max(len(run.models), _models_for(pairs))
    by_models = models / len(run.models)
    sides = data.texts_by_side(data.vector_and_held_out_texts).values()
    extract = sum(_tokens(name, text) for name in run.models for side in sides for text in side)
    used = len(data.vector_and_held_out_texts)
    fit = sum(
        _tokens(name, text)
        for pair in {frozenset(pair) for pair in directed}
        for name in pair
        for text in data.map_texts
    )
    judge, existing = run.experiment.judge, (run.folder.path, *run.folder.path.resolve().parents)
    return Plan(
        costs, round(extract * by_models * (1 if concepts is None else (used - given + concepts) / used)), round(fit * by_pairs),
        _disk(run, total, by_pairs, by_concepts, by_models), list(_missing(run)),
        shutil.disk_usage(next(folder for folder in existing if folder.exists())).free,
        pairs or len(directed), models, len(run.targets) if pairs is None else max(len(run.targets), models),
        total.judged * ASPECTS if isinstance(judge, OpenAIConfig) else 0,
        judge.concurrency if isinstance(judge, OpenAIConfig) else 1,
    )  # fmt: skip


def count(run: Run, target: str, task: str) -> tuple[TaskCost, TaskCost, TaskCost]:
    """Count the rows of one task on one target: (fixed, linear, quadratic) in the number of test concepts, rules left out."""
    rows = TaskRows(
        task, TaskOptions(**run.experiment.limits[task]), target=target, entries=_entries(run, target), asked=run.data.prompt_templates,
        protocol=run.data.protocol,
    )  # fmt: skip
    new, judged = _new_tokens(run, task), MEASURES[task].judged
    sums, cells = [Counter[str]() for _ in range(3)], [set() for _ in range(3)]
    seen: set[str] = set()
    topics = set(run.data.splits.test)
    for row in BUILDERS[task](rows):
        plain, text = row["arm"] == UNSTEERED, row["text"]
        growth = 1 if row["concept"] in topics or task == SPECIFICITY else 0
        growth = 2 if task == SPECIFICITY and not plain else growth
        sums[growth] += Counter(samples=1, judged=int(judged))
        cells[growth].add((row["arm"], row["source"], row["concept"], row["factor"]))
        if plain and text in seen:  # unsteered, a text is computed once, for whichever concept
            continue
        seen |= {text} if plain else set()
        n = _tokens(target, text)
        sums[0 if plain and judged else growth] += Counter(answers=1, read=n + (n + new if judged else 0), written=new)
    fixed, linear, square = (TaskCost(cells=len(own), **found) for own, found in zip(cells, sums, strict=True))
    return fixed, linear, square


def _entries(run: Run, target: str) -> list[ArmEntry]:
    """Return the arms a target will have: those of its arms file once it is there."""
    if run.folder.arms(target).is_file():
        return list(ArmsCard.read(run.folder.arms(target)).arms)
    sources = [source for source, other in run.experiment.directed if other == target]
    return [
        ArmEntry.of(arm, adapter.kind, adapter.method, run.data.measured)
        for adapter in run.data.adapters
        if adapter.name not in run.data.prompt_templates
        for arm in adapter.arms(sources)
    ]


def _new_tokens(run: Run, task: str) -> int:
    """Return the most tokens that a reply of the task has; 0 where texts are scored."""
    if not MEASURES[task].replies:
        return 0
    return run.experiment.tasks[task].max_new_tokens or int(_task_yaml(task)["generation_kwargs"]["max_gen_toks"])


class _Loader(yaml.SafeLoader):
    """Reads a task's `!function` as text."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))  # type: ignore[arg-type]


def _task_yaml(task: str) -> dict[str, dict[str, int]]:
    return yaml.load((shipped("tasks") / f"{task}.yaml").read_text(), Loader=_Loader)  # noqa: S506 (a SafeLoader)


def _models_for(pairs: int) -> int:
    """Return the fewest models with so many directed pairs.

    >>> _models_for(2), _models_for(10), _models_for(20)
    (2, 4, 5)
    """
    return next(n for n in range(2, pairs + 3) if n * (n - 1) >= pairs)


@lru_cache(maxsize=8)
def _tokenizer(name: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_path(name))


@lru_cache(maxsize=1 << 16)
def _tokens(name: str, text: str) -> int:
    """Return the number of tokens of a text, each text of a model tokenised once."""
    return len(encode(_tokenizer(name), text))


def _disk(run: Run, total: TaskCost, pairs: float, concepts: float, models: float) -> dict[str, int]:
    """Return bytes by kind of file; models whose config is not here yet count as 4,096 wide."""
    width = {name: int(read_config(name).get("hidden_size", 4096)) for name in run.models}
    kept, measured = len(run.data.vector_and_held_out_texts) * concepts, len(run.data.measured) * concepts
    fitted = [one for one in run.data.adapters if one.kind == "transfer" and one.method != "identity"]
    replies = sum(MEASURES[task].replies for task in run.experiment.tasks) / max(1, len(run.experiment.tasks))
    text = total.written * BYTES_PER_TOKEN
    found = {
        "vectors": 2 * 4 * sum(width.values()) * kept * models,
        "maps": 4
        * len(fitted)
        * sum(width[source] * width[target] for source, target in run.experiment.directed)
        * pairs,
        "arms": 4 * sum(width[target] * len(_entries(run, target)) for target in run.targets) * measured * pairs,
        "records": total.answers * (BYTES_PER_REPLY * replies + BYTES_PER_SCORE * (1 - replies)) + text,
        "samples": total.samples * BYTES_PER_SAMPLE + 2 * text,
    }
    return {kind: round(size) for kind, size in found.items()}


def _missing(run: Run) -> Iterator[str]:
    """Yield what the stages still have to make."""
    for name in run.models:
        if not run.folder.vectors(name).is_file():
            yield f"extract: vectors of {name}"
    for target in run.targets:
        if not run.folder.arms(target).is_file():
            yield f"fit: arms of {target}"
        if not is_measured(run, target):
            yield f"evaluate: {target}"
    if not run.folder.results.is_file():
        yield "report: results.json and the leaderboard"
