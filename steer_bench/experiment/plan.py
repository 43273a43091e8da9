"""A dry run: what an experiment needs before it is run, counted from the rows that it would measure.

    experiment -> rows of every task on every target -> [TaskCost] -> stages with their time -> hours at n GPUs

Nothing is loaded but tokenizers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from steer_bench import shipped
from steer_bench.experiment.completion import is_measured, waiting
from steer_bench.experiment.run import Run
from steer_bench.harness.cells import BUILDERS, TaskRows
from steer_bench.harness.options import TaskOptions
from steer_bench.judge.config import OpenAIConfig
from steer_bench.models.load import model_path, read_config
from steer_bench.models.steered.dosing import COARSE
from steer_bench.models.tokens import encode
from steer_bench.results.measures import MEASURES, SPECIFICITY
from steer_bench.transfer.adapters import Adapter
from steer_bench.vectors.arms import UNSTEERED, ArmEntry, ArmsCard, Dose

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ASPECTS = 3
"""Questions to a language model that judges one reply."""
JUDGE_SECONDS = 1.0
"""Assumed time of one judge call; a server answers `concurrency` at once."""
FINISH_SECONDS = 0.001
"""Time of one sample in lm-eval's loop, from records to the samples file: 6,926 took 6.8 s on one core."""
PASSES, LADDER = 1.6, 5
"""Passes over all calibration texts for a dose, and over the first ones for a vector: 24 vectors at three levels took so many."""
BYTES_PER_SCORE, BYTES_PER_REPLY, BYTES_PER_SAMPLE = 190, 210, 1500
"""Size of a recorded log-likelihood, a recorded reply and a line of a samples file, each without its text."""
BYTES_PER_TOKEN = 4.5


@dataclass(frozen=True)
class TaskCost:
    """What one task asks of one target.

    cells: arm x concept x factor; samples: rows, each one line of a samples file; answers: different replies or
    log-likelihoods, rows that a model computes; read: tokens of prompts (without template), scored texts and replies that the
    unsteered model reads; written: tokens generated one by one, at most; judged: replies that the judge rates.
    """

    cells: int = 0
    samples: int = 0
    answers: int = 0
    read: int = 0
    written: int = 0
    judged: int = 0

    def __add__(self, other: TaskCost) -> TaskCost:
        return TaskCost(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, n: float) -> TaskCost:
        return TaskCost(*(round(mine * n) for mine in astuple(self)))


class StageTime(NamedTuple):
    """The time of a part of a run on one machine, and how many machines can share it."""

    name: str
    seconds: float
    machines: float

    def hours(self, machines: int) -> float:
        """Return wall-clock hours."""
        return self.seconds / min(machines, self.machines) / 3600


@dataclass(frozen=True)
class Plan:
    """What an experiment needs.

    costs: by (target, task); extract, fit, dose: tokens that the stages read; disk: bytes by kind of file; missing: what is still to
    be made, by stage; models, pairs (directed), targets: how many; judge: the one behind a server, if that is what judges.
    """

    costs: dict[tuple[str, str], TaskCost]
    extract: int
    fit: int
    dose: int
    disk: dict[str, int]
    missing: list[str]
    models: int
    pairs: int
    targets: int
    judge: OpenAIConfig | None

    @property
    def total(self) -> TaskCost:
        """The cost of all tasks on all targets."""
        return sum(self.costs.values(), TaskCost())

    @property
    def judge_calls(self) -> int:
        """Questions to a judge behind a server; 0 where the judge runs here."""
        return self.total.judged * ASPECTS if self.judge else 0

    def stages(self, read: float, written: float) -> list[StageTime]:
        """Return the parts of the run with their time, at so many tokens read and written a second on one machine."""
        total, at_once = self.total, self.judge.concurrency if self.judge else 1
        return [
            StageTime("extract", self.extract / read, self.models),
            StageTime("fit", self.fit / read, max(1, self.pairs / 2)),
            StageTime("dose", self.dose / read, self.targets),
            StageTime("measure", total.read / read + total.written / written, max(1, total.answers)),
            StageTime("judge", self.judge_calls * JUDGE_SECONDS / at_once, 1),
            StageTime("finish", total.samples * FINISH_SECONDS, self.targets),
        ]


def plan(run: Run, *, concepts: int | None = None, pairs: int | None = None) -> Plan:
    """Count what a run needs; `concepts`, `pairs`: as if there were so many test concepts and directed pairs, alike in size."""
    data, experiment = run.data, run.experiment
    directed, models, given = experiment.directed, len(run.models), len(data.splits.test)
    if pairs is not None:
        models = next(
            n for n in range(models, models + pairs + 2) if n * (n - 1) >= pairs
        )  # the fewest with so many pairs
    by_pairs, by_models = (pairs or len(directed)) / len(directed), models / len(run.models)
    added, learned = (concepts or given) - given, len(data.vector_and_held_out_texts)
    costs = {}
    for target in run.targets:
        for task, limits in experiment.tasks.items():
            fixed, linear, square = count(run, target, task)
            n = 1.0 if concepts is None else concepts / min(given, limits.max_concepts or given)
            costs[target, task] = (fixed + linear * n + square * n**2) * by_pairs
    total = sum(costs.values(), TaskCost())
    sides = data.texts_by_side(data.vector_and_held_out_texts).values()
    extract = sum(_tokens(name, text) for name in run.models for side in sides for text in side)
    read = [name for pair in {frozenset(pair) for pair in directed} for name in pair]
    fit = sum(_tokens(name, text) for name in read for fold in data.folds.values() for text in data.fold_texts(fold))

    width = {name: int(read_config(name).get("hidden_size", 4096)) for name in run.models}  # 4,096: not here yet
    maps = sum(adapter.kind == "transfer" and adapter.method != "identity" for adapter in data.adapters)
    replies = sum(MEASURES[task].replies for task in experiment.tasks) / max(1, len(experiment.tasks))
    arms = sum(width[target] * len(_entries(run, target)) for target in run.targets)
    text = total.written * BYTES_PER_TOKEN
    disk = {
        "vectors": 2 * 4 * sum(width.values()) * (learned + added) * by_models,
        "maps": 4
        * maps
        * len(data.folds)
        * by_pairs
        * sum(width[source] * width[target] for source, target in directed),
        "arms": 4 * arms * (len(data.measured) + added) * by_pairs,
        "records": total.answers * (BYTES_PER_REPLY * replies + BYTES_PER_SCORE * (1 - replies)) + text,
        "samples": (total.samples * BYTES_PER_SAMPLE + 2 * text)
        * (2 if experiment.grids else 1),  # a file for each step
    }
    return Plan(
        costs, round(extract * by_models * (learned + added) / learned), round(fit * by_pairs), round(_dose_tokens(run) * by_pairs),
        {kind: round(size) for kind, size in disk.items()}, list(_missing(run)), models, pairs or len(directed),
        len(run.targets) if pairs is None else models, experiment.judge if isinstance(experiment.judge, OpenAIConfig) else None,
    )  # fmt: skip


def count(run: Run, target: str, task: str) -> tuple[TaskCost, TaskCost, TaskCost]:
    """Count the rows of one task on one target: (fixed, linear, quadratic) in the number of test concepts, rules left out."""
    entries = _entries(run, target)
    limits: dict[str, object] = {**run.experiment.limits[task]}
    if task in run.experiment.grids:  # whichever factor is chosen, it is one
        at = run.experiment.grid(task)[0]
        limits["chosen"] = [
            (entry.arm.name, entry.source, concept, at) for entry in entries for concept in entry.concepts
        ]
    rows = TaskRows(
        task, TaskOptions.model_validate(limits), target=target, entries=entries,
        asked=run.data.prompt_templates, protocol=run.data.protocol, doses=_doses(run, target, entries),
    )  # fmt: skip
    new, judged, topics = _new_tokens(run, task), MEASURES[task].judged, set(run.data.splits.test)
    sums = [Counter[str]() for _ in range(3)]
    cells: list[set[tuple[str, str, str, float]]] = [set() for _ in range(3)]
    seen: set[str] = set()
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


def _dose_tokens(run: Run) -> int:
    """Return the tokens that the doses read: a ladder on few texts, then about two passes over all of them for each level."""
    total = 0.0
    for target in run.targets:
        tokens = [_tokens(target, text) for text in run.data.protocol.calibration.values()]
        entries = _entries(run, target)
        doses, vectors = len(list(_doses(run, target, entries))), sum(len(entry.concepts) for entry in entries)
        total += doses * PASSES * sum(tokens) + vectors * LADDER * sum(tokens[:COARSE])
    return round(total)


def _entries(run: Run, target: str) -> list[ArmEntry]:
    """Return the arms a target will have: those of its arms file once it is there."""
    if run.folder.arms(target).is_file():
        return list(ArmsCard.read(run.folder.arms(target)).arms)
    sources = [source for source, other in run.experiment.directed if other == target]
    kinds = Counter(run.data.concepts[key].kind == "topic" for key in run.data.measured)

    def concepts(adapter: Adapter) -> list[str]:
        """Return what the adapter has vectors for: wrong ones only where there are others of the kind."""
        fewest = len(adapter.arms([])) if adapter.method == "wrong-concept" else 0
        return [key for key in run.data.measured if kinds[run.data.concepts[key].kind == "topic"] > fewest]

    return [
        ArmEntry.of(arm, adapter.kind, adapter.method, concepts(adapter))
        for adapter in run.data.adapters
        if adapter.name not in run.data.prompt_templates
        for arm in adapter.arms(sources)
    ]


def _doses(run: Run, target: str, entries: Sequence[ArmEntry]) -> Iterator[Dose]:
    """Yield the doses of a target; before they are found one for every level, as if each were reached."""
    path = run.folder.arms(target)
    if path.is_file() and (card := ArmsCard.read(path)).doses_inputs:
        yield from card.doses
        return
    levels = sorted({level for task in run.experiment.tasks for level in run.experiment.levels(task)})
    for entry, level in product(entries, levels):
        for concept in entry.concepts:
            yield Dose(arm=entry.arm.name, source=entry.source, concept=concept, level=level, factor=level)


def _new_tokens(run: Run, task: str) -> int:
    """Return the most tokens that a reply of the task has, by default those of its YAML; 0 where texts are scored."""
    if not MEASURES[task].replies:
        return 0
    default = re.search(r"max_gen_toks: (\d+)", (shipped("tasks") / f"{task}.yaml").read_text())
    assert default, "a task that writes replies says how long they are"
    return run.experiment.tasks[task].max_new_tokens or int(default[1])


@lru_cache(maxsize=8)
def _tokenizer(name: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_path(name))


@lru_cache(maxsize=1 << 16)
def _tokens(name: str, text: str) -> int:
    return len(encode(_tokenizer(name), text))


def _missing(run: Run) -> Iterator[str]:
    yield from (f"extract: vectors of {name}" for name in run.models if not run.folder.vectors(name).is_file())
    for target in run.targets:
        if not run.folder.arms(target).is_file():
            yield f"fit: arms of {target}"
        if not is_measured(run, target) or waiting(run, target):
            yield f"evaluate: {target}"
    if not run.folder.results.is_file():
        yield "report: results.json and the leaderboard"
