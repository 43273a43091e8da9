"""A dry run: what an experiment needs before it is run, counted from the rows that it would measure.

    experiment -> rows of every task on every target -> [Work] -> parts (extract, fit, measure, judge, finish) -> hours at n GPUs

Nothing is loaded but tokenizers, and with `probe` one model for a few batches. A part's time is its work over its rate, times
the number of machines it can use: extract one a model, fit one a pair, measure as many as there are shards; the judge is asked
at its own pace; finishing (lm-eval's samples and tables) is one process a target.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from steer_bench.experiment.completion import is_measured
from steer_bench.experiment.run import Run
from steer_bench.judge.config import OpenAIConfig
from steer_bench.models.load import read_config
from steer_bench.results.measures import JUDGED, MEASURES, SPECIFICITY
from steer_bench.vectors.arms import ArmEntry, ArmsCard

ASPECTS = 3
"""Questions a reply that is judged by a language model."""
JUDGE_SECONDS = 1.0
"""Assumed time of a judge call, where nothing is said; a server answers `concurrency` at once."""
JUDGE_TOKENS = (420, 60)
"""Tokens of a judge call beside the reply, and of its answer."""
FINISH_SECONDS = 0.001
"""Of one sample in lm-eval's loop, from records to the samples file: 6,926 took 6.8 s on one core."""
BYTES = {"score": 190, "reply": 210, "sample": 1500}
"""Of a recorded log-likelihood, a recorded reply (beside its text), and a line of a samples file (beside its text)."""
BYTES_A_TOKEN = 4.5


@dataclass(frozen=True)
class Work:
    """What one task asks of one target."""

    cells: int = 0
    """Arm x concept x factor."""
    samples: int = 0
    """Rows, each a line in a samples file."""
    answers: int = 0
    """Different replies or log-likelihoods: rows that a model computes."""
    read: int = 0
    """Tokens in forward passes over whole texts: prompts (without template), scored texts, replies read by the unsteered model."""
    written: int = 0
    """Tokens generated one by one, at most."""
    judged: int = 0
    """Replies that the judge rates."""

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def __mul__(self, n: float) -> Work:
        return Work(*(round(value * n) for value in vars(self).values()))


@dataclass(frozen=True)
class Rates:
    """Tokens a second on one GPU (or on this CPU)."""

    read: float
    written: float


@dataclass(frozen=True)
class Part:
    """A part of a run: its time on one machine, and how many machines can share it."""

    name: str
    seconds: float
    at_most: float
    """Machines that it can use at once."""

    def hours(self, machines: int) -> float:
        """Wall-clock hours."""
        return self.seconds / min(machines, self.at_most) / 3600


@dataclass(frozen=True)
class Plan:
    """What an experiment needs."""

    work: dict[tuple[str, str], Work]
    """(target, task) -> work."""
    extract: int
    """Tokens read by stage extract."""
    fit: int
    """Tokens read by stage fit."""
    disk: dict[str, int]
    """Bytes by kind of file."""
    missing: list[str]
    """What is still to be made, by stage; empty for a finished run."""
    free: int
    """Bytes free where the run folder lies."""
    pairs: float
    models: int
    targets: int

    @property
    def total(self) -> Work:
        """All tasks on all targets."""
        return sum(self.work.values(), Work())


def plan(run: Run, *, concepts: int | None = None, pairs: int | None = None) -> Plan:
    """Count. `concepts` and `pairs`: as if there were so many test concepts and directed pairs, of the same kind and size."""
    scale = 1.0 if pairs is None else pairs / len(run.experiment.directed)
    given = len(run.data.splits.test)
    work: dict[tuple[str, str], Work] = {}
    for target in run.targets:
        for task in run.experiment.tasks:
            fixed, linear, square = count(run, target, task)
            measured = min(given, getattr(run.experiment.tasks[task], "max_concepts", None) or given)
            n = 1.0 if concepts is None or MEASURES[task].subject in ("rule", "suppress") else concepts / measured
            work[target, task] = (fixed + linear * n + square * n**2) * scale
    words = _tokenizers(run)
    texts = {
        name: sum(
            words(name, text)
            for side in run.data.texts_by_side(run.data.vector_and_held_out_texts).values()
            for text in side
        )
        for name in _names(run)
    }
    more = (
        1.0
        if concepts is None
        else (concepts + len(run.data.vector_and_held_out_texts) - given) / len(run.data.vector_and_held_out_texts)
    )
    unordered = {frozenset(pair) for pair in run.experiment.directed}
    fit = sum(words(name, text) for pair in unordered for name in pair for text in run.data.map_texts)
    total = sum(work.values(), Work())
    models = len(_names(run)) if pairs is None else max(len(_names(run)), _models_for(pairs))
    return Plan(
        work, round(sum(texts.values()) * more * models / len(texts)), round(fit * scale),
        _disk(run, total, scale, 1.0 if concepts is None else concepts / given, models / len(texts)), list(_missing(run)),
        shutil.disk_usage(next(folder for folder in (run.folder.path, *run.folder.path.resolve().parents) if folder.exists())).free,
        len(run.experiment.directed) if pairs is None else pairs, models,
        len(run.targets) if pairs is None else max(len(run.targets), models),
    )  # fmt: skip


def count(run: Run, target: str, task: str) -> tuple[Work, Work, Work]:
    """Work of one task on one target, from the rows it would have: (fixed, linear, quadratic) in the number of concepts."""
    from steer_bench.harness.cells import BUILDERS, ArmAtFactor, TaskRows
    from steer_bench.harness.options import TaskOptions
    from steer_bench.vectors.arms import UNSTEERED

    limits = run.experiment.tasks[task].model_dump(exclude_none=True)
    rows = TaskRows(
        task, TaskOptions(**limits), target=target, entries=_entries(run, target), asked=run.data.prompt_templates,
        protocol=run.data.protocol,
    )  # fmt: skip
    tokens, new = _tokenizers(run), _new_tokens(run, task)
    judged = task == JUDGED
    parts = {kind: Work() for kind in ("fixed", "linear", "square")}
    sums = {kind: [0] * 6 for kind in parts}
    seen: set[str] = set()
    cells: dict[str, set[Any]] = {kind: set() for kind in parts}
    for row in BUILDERS[task](rows):
        plain = row["arm"] == UNSTEERED
        kind = "fixed" if not row["concept"] and task != SPECIFICITY else "linear"
        if task == SPECIFICITY and not plain:
            kind = "square"
        first = not plain or row["text"] not in seen  # unsteered, a text is computed once, for whichever concept
        seen |= {row["text"]} if plain else set()
        answer = kind if not plain or not judged else "fixed"
        sums[kind][1] += 1
        sums[kind][5] += judged
        cells[kind].add(ArmAtFactor(row["arm"], row["source"], row["concept"], row["factor"]))
        if first:
            n = tokens(target, row["text"])
            sums[answer][2] += 1
            sums[answer][3] += n + (n + new if judged else 0)
            sums[answer][4] += new
    for kind in parts:
        parts[kind] = replace(Work(*sums[kind]), cells=len(cells[kind]))
    return parts["fixed"], parts["linear"], parts["square"]


def parts(plan: Plan, run: Run, rates: Rates, *, shards: int | None = None) -> list[Part]:
    """The parts of the run with their time on one machine."""
    total, judge = plan.total, run.experiment.judge
    calls = total.judged * ASPECTS if isinstance(judge, OpenAIConfig) else 0
    at_once = judge.concurrency if isinstance(judge, OpenAIConfig) else 1
    return [
        Part("extract", plan.extract / rates.read, plan.models),
        Part("fit", plan.fit / rates.read, max(1, plan.pairs / 2)),
        Part("measure", total.read / rates.read + total.written / rates.written, shards or total.answers),
        Part("judge", calls * JUDGE_SECONDS / at_once, 1),
        Part("finish", total.samples * FINISH_SECONDS, plan.targets),
    ]


def cost(plan: Plan, run: Run) -> float | None:
    """Dollars of the judge, at its prices; 0 without a paid judge, None where no price is given."""
    judge = run.experiment.judge
    if not isinstance(judge, OpenAIConfig):
        return 0.0
    if judge.price is None:
        return None
    reply = max((_new_tokens(run, task) for task in run.experiment.tasks), default=0)
    calls = plan.total.judged * ASPECTS
    return calls * ((JUDGE_TOKENS[0] + reply) * judge.price.input + JUDGE_TOKENS[1] * judge.price.output) / 1e6


def probe(run: Run, target: str, *, repeats: int = 3) -> Rates:
    """Rates of one model on this machine: a few batches of neutral texts read, and continued by 16 tokens."""
    import torch

    from steer_bench.models.device import sizes
    from steer_bench.models.load import load_model

    loaded = load_model(target, dtype=run.experiment.dtype, device=run.experiment.device)
    size = sizes(loaded.device).rows if run.experiment.batch_size == "auto" else run.experiment.batch_size
    texts = (run.data.map_texts * (1 + size // len(run.data.map_texts)))[:size]
    loaded.tokenizer.pad_token = loaded.tokenizer.pad_token or loaded.tokenizer.eos_token
    loaded.tokenizer.padding_side = "left"
    batch = loaded.tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=64).to(loaded.device)

    def seconds(call: Any) -> float:
        call()  # warm
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / repeats

    with torch.inference_mode():
        read = seconds(lambda: loaded.model(**batch, use_cache=False))
        both = seconds(lambda: loaded.model.generate(**batch, max_new_tokens=17, min_new_tokens=17, do_sample=False))
    decode = max(both - read, 1e-6)
    return Rates(int(batch["attention_mask"].sum()) / read, 16 * size / decode)


def _entries(run: Run, target: str) -> Iterable[ArmEntry]:
    """Return the arms a target will have: those of its arms file once it is there."""
    if run.folder.arms(target).is_file():
        return ArmsCard.read(run.folder.arms(target)).arms
    sources = [source for source, other in run.experiment.directed if other == target]
    return [
        ArmEntry.of(arm, adapter.kind, adapter.method, run.data.measured)
        for adapter in run.data.adapters
        if adapter.method != "prompt"
        for arm in adapter.arms(sources)
    ]


def _new_tokens(run: Run, task: str) -> int:
    """Tokens that a reply of the task has at most; 0 where texts are scored."""
    if not MEASURES[task].replies:
        return 0
    return run.experiment.tasks[task].max_new_tokens or _task_yaml(task)["generation_kwargs"]["max_gen_toks"]


def _task_yaml(task: str) -> Any:
    """A task's YAML, its `!function`s read as text."""
    import yaml

    from steer_bench import shipped

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))  # type: ignore[arg-type]
    return yaml.load((shipped("tasks") / f"{task}.yaml").read_text(), Loader=Loader)  # noqa: S506 (a SafeLoader)


def _names(run: Run) -> list[str]:
    return [config.name for config in run.experiment.models]


def _models_for(pairs: int) -> int:
    """The fewest models with so many directed pairs.

    >>> _models_for(2), _models_for(10), _models_for(20)
    (2, 4, 5)
    """
    return next(n for n in range(2, pairs + 3) if n * (n - 1) >= pairs)


def _tokenizers(run: Run) -> Any:
    """tokens(model, text), each text of a model tokenised once."""
    from functools import cache

    from transformers import AutoTokenizer

    from steer_bench.models.load import model_path
    from steer_bench.models.tokens import encode

    @cache
    def tokenizer(name: str) -> Any:
        return AutoTokenizer.from_pretrained(model_path(name))

    @cache
    def tokens(name: str, text: str) -> int:
        return len(encode(tokenizer(name), text))

    return tokens


def _disk(run: Run, total: Work, pairs: float, concepts: float, models: float) -> dict[str, int]:
    """Bytes by kind of file; models whose config is not here yet count as 4,096 wide."""
    widths = {name: int(read_config(name).get("hidden_size", 4096)) for name in _names(run)}
    kept, measured = len(run.data.vector_and_held_out_texts) * concepts, len(run.data.measured) * concepts
    written = total.written * BYTES_A_TOKEN
    replies = sum(1 for task in run.experiment.tasks if _new_tokens(run, task)) / max(1, len(run.experiment.tasks))
    maps = [
        4 * widths[source] * widths[target]
        for source, target in run.experiment.directed
        for adapter in run.data.adapters
        if adapter.kind == "transfer" and adapter.method != "identity"
    ]
    each = BYTES["reply"] * replies + BYTES["score"] * (1 - replies)
    return {
        "vectors": round(sum(2 * 4 * width * kept for width in widths.values()) * models),
        "maps": round(sum(maps) * pairs),
        "arms": round(
            sum(4 * widths[target] * measured * len(_entries(run, target)) for target in run.targets) * pairs
        ),
        "records": round(total.answers * each + written),
        "samples": round(total.samples * BYTES["sample"] + 2 * written),
    }


def _missing(run: Run) -> Iterator[str]:
    """What the stages still have to make."""
    for name in _names(run):
        if not run.folder.vectors(name).is_file():
            yield f"extract: vectors of {name}"
    for target in run.targets:
        if not run.folder.arms(target).is_file():
            yield f"fit: arms of {target}"
        if not (run.folder.arms(target).is_file() and is_measured(run, target)):
            yield f"evaluate: {target}"
    if not run.folder.results.is_file():
        yield "report: results.json and the leaderboard"
