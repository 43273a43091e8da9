"""Stage judge: the replies of a finished evaluation rated by one judge, beside what other judges said of them.

    lm-eval's samples -> replies -> [judge] -> RUN/judgements/JUDGE/TARGET.jsonl -> report

Nothing is generated, and a judge behind a server needs no torch. Also the judge's check, RUN/judgements/JUDGE/check.json.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from steer_bench.experiment.run import MissingStageError, Run
from steer_bench.files import write_whole
from steer_bench.judge.check import CheckRow, check_judge
from steer_bench.judge.config import judge_id, load_judge
from steer_bench.judge.judgement import ASPECTS, JudgeError
from steer_bench.judge.ratings import (
    FOLDER,
    Key,
    Ratings,
    Reply,
    inputs_of,
    judge_for,
    load_ratings,
    rate_replies,
    spoken,
)
from steer_bench.results.measures import JUDGED
from steer_bench.results.provenance import AgreementLine, JudgeCheck, JudgeSummary
from steer_bench.results.rows import INVALID, Row
from steer_bench.results.samples import Sample
from steer_bench.results.stats.agreement import agreement
from steer_bench.vectors.arms import UNSTEERED

logger = logging.getLogger(__name__)
Config = Mapping[str, Any]


def judge(run: Run, config: Config | None = None, *, again: bool = True) -> list[Path]:
    """Rate all replies of a run by one judge (default: the experiment's). RUN/judgements/JUDGE/TARGET.jsonl

    Asks only what RUN/records.sqlite does not hold. With `again`, replies without a score are asked for once more; else a target
    that was rated to the end is left as it is. Raises JudgeError for a judge that stops.
    """
    config = config or run.experiment.judge
    for target, replies in unrated(run, config, again=again).items():
        rate_replies(
            config, run.data.protocol.concepts, replies, target=target, records=run.folder.records,
            file=ratings_file(run, config, target), resume=f"steer-bench judge {run.folder}",
        )  # fmt: skip
    return [ratings_file(run, config, target) for target in run.targets if JUDGED in run.experiment.tasks]


def unrated(run: Run, config: Config, *, again: bool) -> dict[str, list[Reply]]:
    """Target -> its replies, for targets that a judge did not rate yet, or not to the end."""
    found = {}
    for target in run.targets if JUDGED in run.experiment.tasks else ():
        replies, file = replies_of(run, target), ratings_file(run, config, target)
        known = load_ratings(file) if file.is_file() else None
        fresh = known is not None and known.card["inputs"] == inputs_of(config, run.data.protocol.concepts, replies)
        if known is None or not fresh or "stopped" in known.card or (again and known.unscored):
            found[target] = replies
    return found


def probe(config: Config) -> None:
    """Ask a judge one question before anything long starts; ValueError where it cannot be asked. Imports no torch."""
    load_judge(config, references={}).probe()


def probe_run(run: Run, config: Config | None = None) -> None:
    """`probe` the judge of a run before it generates, unless nothing is left to be rated."""
    config = config or run.experiment.judge
    rated = all(ratings_file(run, config, target).is_file() for target in run.targets)
    if JUDGED in run.experiment.tasks and not rated:
        probe(config)


def ratings_file(run: Run, config: Config, target: str) -> Path:
    """RUN/judgements/JUDGE/TARGET.jsonl"""
    return run.folder.path / FOLDER / judge_id(config) / f"{run.folder.arms(target).stem}.jsonl"


def raise_stopped(run: Run, targets: Sequence[str]) -> None:
    """JudgeError where the experiment's judge stopped on one of the targets."""
    for target in targets:
        file = ratings_file(run, run.experiment.judge, target)
        card = load_ratings(file).card if file.is_file() else {}
        if "stopped" in card:
            raise JudgeError(card["stopped"])


def replies_of(run: Run, target: str) -> list[Reply]:
    """The judged task's replies in the newest samples file that lm-eval wrote for a target, in its order."""
    folder = run.folder.evaluation(target)
    files = sorted(folder.rglob(f"samples_{JUDGED}_*.jsonl"), key=lambda path: path.name)
    if not files or not (folder / "complete.json").is_file():
        raise MissingStageError(
            f"{target} is not evaluated in {run.folder}; run steer-bench evaluate {run.folder} first"
        )
    replies = []
    for number, line in enumerate(files[-1].read_text(encoding="utf-8").split("\n")[:-1], 1):
        try:
            sample = json.loads(line)
            doc, row = sample["doc"], sample[sample["metrics"][0]]
            key = (doc["arm"], doc["source"], doc["concept"], float(doc["factor"]), doc["item"])
            if row["reason"] == INVALID:  # picked from NaN: nothing to be rated
                continue
            replies.append(Reply(key, doc["text"], sample["resps"][0][0], row["ratings"].get("perplexity")))
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ValueError(f"{files[-1]}:{number}: not a sample of {JUDGED} ({error!r}); evaluate again") from error
    return replies


# ---------------------------------------------------------------------------------------------- for the report


def find_judge(run: Run, given: str | None) -> str:
    """The id of a judge that rated the run: its id or the beginning of one; default the experiment's."""
    if given is None:
        return judge_id(run.experiment.judge)
    known = sorted({path.parent.name for path in (run.folder.path / FOLDER).glob("*/*.jsonl")})
    found = [name for name in known if name == given] or [name for name in known if name.startswith(given)]
    if len(found) == 1:
        return found[0]
    problem = "is the beginning of several" if found else "rated none of its replies"
    hint = f"there are: {', '.join(known)}" if known else f"run steer-bench judge {run.folder} --judge … first"
    raise ValueError(f"judge {given!r} {problem} in {run.folder}; {hint}")


def all_ratings(run: Run) -> dict[str, dict[str, Ratings]]:
    """Judge -> target -> its ratings, where they are of the replies that are there now and came to an end."""
    found: dict[str, dict[str, Ratings]] = {}
    if JUDGED not in run.experiment.tasks:
        return found
    concepts = run.data.protocol.concepts
    for target in run.targets:
        replies = replies_of(run, target)
        for file in sorted((run.folder.path / FOLDER).glob(f"*/{run.folder.arms(target).stem}.jsonl")):
            ratings = load_ratings(file)
            if "stopped" in ratings.card:
                continue
            if ratings.card["inputs"] != inputs_of(ratings.card["judge"], concepts, replies):
                logger.warning("%s rates other replies than the run has now; left out", file)
                continue
            found.setdefault(file.parent.name, {})[target] = ratings
    return found


Rated = TypeVar("Rated", Row, Sample)


def with_ratings(rows: Sequence[Rated], by_target: Mapping[str, Ratings]) -> list[Rated]:
    """The rows or samples with the ratings of one judge in place of those lm-eval's samples hold; other tasks' as they are."""
    replaced = []
    for row in rows:
        if row.task == JUDGED and row.target in by_target:
            key: Key = (row.arm, row.source, row.concept, row.factor, row.item)
            judgement = by_target[row.target].judgements[key]
            measured = {name: value for name, value in row.ratings.items() if name not in ASPECTS}
            said: dict[str, Any] = {"words": spoken(judgement)} if isinstance(row, Sample) else {}
            ratings = {**measured, **judgement.ratings}
            row = replace(row, value=judgement.score, reason=judgement.reason, ratings=ratings, **said)
        replaced.append(row)
    return replaced


def judge_summaries(run: Run, found: Mapping[str, Mapping[str, Ratings]]) -> tuple[JudgeSummary, ...]:
    """Return every judge of the run with its check and its unscored and re-asked replies."""
    judges = []
    for name, by_target in sorted(found.items()):
        card = next(iter(by_target.values())).card
        reasked: dict[str, int] = {}
        for ratings in by_target.values():
            for arm, count in ratings.card["reasked"].items():
                reasked[arm] = reasked.get(arm, 0) + count
        unscored = sum(ratings.unscored for ratings in by_target.values())
        total = sum(ratings.card["total"] for ratings in by_target.values())
        check = saved_check(run, name)
        judges.append(
            JudgeSummary(id=name, name=card["name"], total=total, unscored=unscored, reasked=reasked, check=check)
        )
    return tuple(judges)


def judge_agreement(found: Mapping[str, Mapping[str, Ratings]]) -> tuple[AgreementLine, ...]:
    """Return how far every two judges agree, on each aspect and the score."""
    return tuple(line for one, other in combinations(sorted(found), 2) for line in _agreement(one, other, found))


def _agreement(first: str, second: str, found: Mapping[str, Mapping[str, Ratings]]) -> Iterator[AgreementLine]:
    """Weighted kappa and Spearman of two judges, for each aspect and the score, over all targets both rated."""
    targets = sorted(found[first].keys() & found[second].keys())
    pairs = [
        (found[first][target].judgements[key], found[second][target].judgements[key])
        for target in targets
        for key in sorted(found[first][target].judgements.keys() & found[second][target].judgements.keys())
    ]
    for aspect in (*ASPECTS, "score"):
        sides = zip(*([one.score if aspect == "score" else one.ratings.get(aspect) for one in pair] for pair in pairs))  # noqa: B905
        both = [list(side) for side in sides] or [[], []]
        yield AgreementLine(judges=(first, second), aspect=aspect, **agreement(*both)._asdict())


def unscored_line(by_target: Mapping[str, Ratings], limit: float) -> str | None:
    """What is said of a run whose unscored share is above `limit`; None where it is not."""
    total = sum(ratings.card["total"] for ratings in by_target.values())
    reasons: dict[str, int] = {}
    for ratings in by_target.values():
        for reason, count in ratings.card["unscored"].items():
            reasons[reason] = reasons.get(reason, 0) + count
    missing = sum(reasons.values())
    if not total or missing <= limit * total:
        return None
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items(), key=lambda item: -item[1]))
    return f"incomplete: {missing} of {total} replies unscored ({listed}) = {missing / total:.1%} (limit {limit:.1%})"


# ---------------------------------------------------------------------------------------------- the judge's check


def check(run: Run, config: Config | None = None, *, limit: int | None = None, seed: int = 0) -> list[CheckRow]:
    """How well a judge tells texts with a known answer: `check_judge` on the texts the run's vectors were made from.

    The judge has its references, if it needs any, from the held-out texts, as in the run. Instruction: the target's unsteered replies,
    those of the evaluation where there is one, else made now. Written to RUN/judgements/JUDGE/check.json where the run has begun.
    """
    config = config or run.experiment.judge
    probe(config)
    topics = {key: sides for key, sides in run.data.vector_and_held_out_texts.items() if key in run.data.splits.test}
    target = _Target(run, run.targets[0])
    held_out = {key: sides[1] for key, sides in topics.items()}
    made = judge_for(config, held_out, target.unsteered)
    pairs = list(dict.fromkeys((one.instruction, one.text) for one in target.unsteered if one.text.strip()))
    wants_perplexity = config["kind"] == "embedding"
    rows = check_judge(
        made, [sides[0] for sides in topics.values()], pairs=pairs,
        perplexity=target.perplexities if wants_perplexity else None, limit=limit, seed=seed,
    )  # fmt: skip
    if run.folder.experiment.is_file():
        content = {
            "judge": judge_id(config),
            "target": target.name,
            "limit": limit,
            "rows": [row._asdict() for row in rows],
        }
        write_whole(run.folder.path / FOLDER / judge_id(config) / "check.json", json.dumps(content, indent=1) + "\n")
    return rows


def saved_check(run: Run, judge: str) -> JudgeCheck | None:
    """Return what the leaderboard says of a judge's check; None where it was not checked."""
    file = run.folder.path / FOLDER / judge / "check.json"
    if not file.is_file():
        return None
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    rows = [row for row in rows if row["group"] == "all"]
    auroc = {row["aspect"]: row["auroc"] for row in rows if row["auroc"] is not None}
    n = sum(row["n"] for row in rows)
    return JudgeCheck(auroc=auroc, n=n, unscored=sum(row["unscored"] * row["n"] for row in rows) / n)


@dataclass(frozen=True)
class _Target:
    """A target's unsteered replies and its perplexity of texts: from the evaluation's files, or from the model itself."""

    run: Run
    name: str

    @cached_property
    def unsteered(self) -> list[Reply]:
        try:
            found = replies_of(self.run, self.name)
        except MissingStageError:
            return self._reply()
        return [one for one in found if one.key[0] == UNSTEERED]

    def perplexities(self, texts: Sequence[str]) -> list[float]:
        """Of each text by itself, under the unsteered target."""
        answers = self._model.loglikelihood_rolling([_ask(text) for text in texts])
        return [math.exp(-float(answer) / answer.n_tokens) for answer in answers]

    def _reply(self) -> list[Reply]:
        from steer_bench.harness.task import as_prompt

        template = self._model.tokenizer.chat_template if self.run.experiment.chat else None
        prompts = [prompt.instruction for prompt in self.run.data.protocol.prompts]
        how = {"until": [], "max_gen_toks": 32, "do_sample": False}
        asked = [
            _ask(as_prompt(text, self._model.apply_chat_template if template else None), how, UNSTEERED_REQUEST)
            for text in prompts
        ]
        replies = self._model.generate_until(asked)
        return [
            Reply((UNSTEERED, "", "", 0.0, str(i)), prompt, str(reply), reply.perplexity)
            for i, (prompt, reply) in enumerate(zip(prompts, replies, strict=True))
        ]

    @cached_property
    def _model(self) -> Any:
        from steer_bench.harness.steered_lm import SteeredLM
        from steer_bench.models.device import default_device, resolve_dtype

        experiment = self.run.experiment
        device = experiment.device or default_device()
        dtype = str(resolve_dtype(experiment.dtype, device)).removeprefix("torch.")
        batch_size = experiment.batch_size
        return SteeredLM(pretrained=self.name, dtype=dtype, device=device, batch_size=batch_size)


UNSTEERED_REQUEST = {"steer": {"arm": UNSTEERED, "source": "", "concept": "", "factor": 0.0}, "perplexity": True}


def _ask(*arguments: Any) -> Any:
    """A request, as far as SteeredLM looks at one."""
    return SimpleNamespace(args=arguments, task_name=JUDGED)
