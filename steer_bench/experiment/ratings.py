"""Ratings of a run: which replies there are to rate, what each judge said of them, and how that joins the measured rows.

lm-eval's samples -> replies            RUN/judgements/JUDGE/TARGET.jsonl + rows -> rated rows
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

from steer_bench.experiment.run import MissingStageError, Run
from steer_bench.files import read_json
from steer_bench.judge.check import CheckRow
from steer_bench.judge.config import JudgeConfig, judge_id
from steer_bench.judge.judgement import ASPECTS, Judgement
from steer_bench.judge.ratings import (
    FOLDER,
    JudgedReply,
    Key,
    Ratings,
    Yardstick,
    judge_words,
    load_ratings,
    rating_fingerprint,
)
from steer_bench.results.measures import JUDGED
from steer_bench.results.provenance import AgreementLine, JudgeCheck, JudgeSummary
from steer_bench.results.rows import INVALID, NOT_JUDGED, Row
from steer_bench.results.samples import Sample
from steer_bench.results.stats.agreement import agreement
from steer_bench.vectors.arms import ArmsCard

logger = logging.getLogger(__name__)


def ratings_file(run: Run, config: JudgeConfig, target: str) -> Path:
    """RUN/judgements/JUDGE/TARGET.jsonl"""
    return run.folder.path / FOLDER / judge_id(config) / f"{run.folder.arms(target).stem}.jsonl"


def yardstick_of(run: Run, target: str) -> Yardstick:
    """Return the unsteered replies that a judge of this target is set by; none where the stage dose made none."""
    return ArmsCard.read(run.folder.arms(target)).yardstick


def replies_of(run: Run, target: str) -> list[JudgedReply]:
    """Read the judged task's replies from the newest samples file that lm-eval wrote for a target, in its order."""
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
            replies.append(JudgedReply(key, doc["text"], sample["resps"][0][0], row["ratings"].get("perplexity")))
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise ValueError(f"{files[-1]}:{number}: not a sample of {JUDGED} ({error!r}); evaluate again") from error
    return replies


def find_judge(run: Run, given: str | None) -> str:
    """Return the id of a judge that rated the run, from its id or the beginning of it; by default the experiment's."""
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
    """Return judge -> target -> ratings, where they are of the replies that are there now and came to an end."""
    found: dict[str, dict[str, Ratings]] = {}
    if JUDGED not in run.experiment.tasks:
        return found
    for target in run.targets:
        for judge, ratings in ratings_of(run, target).items():
            found.setdefault(judge, {})[target] = ratings
    return found


def ratings_of(run: Run, target: str) -> dict[str, Ratings]:
    """Return judge -> ratings of one target, as `all_ratings` does. Raises MissingStageError where it is not evaluated."""
    found = {}
    concepts, replies, yardstick = run.data.protocol.concepts, replies_of(run, target), yardstick_of(run, target)
    for file in sorted((run.folder.path / FOLDER).glob(f"*/{run.folder.arms(target).stem}.jsonl")):
        ratings = load_ratings(file)
        if ratings.card.stopped:
            continue
        if ratings.card.inputs != rating_fingerprint(ratings.card.judge, concepts, yardstick, replies):
            logger.warning("%s rates other replies than the run has now; left out", file)
            continue
        found[file.parent.name] = ratings
    return found


Rated = TypeVar("Rated", Row, Sample)


def with_ratings(rows: Sequence[Rated], by_target: Mapping[str, Ratings]) -> list[Rated]:
    """Give judged rows or samples the ratings of one judge, and none where it rated nothing; leave other rows unchanged."""
    return [_rated(row, by_target.get(row.target)) if row.task == JUDGED else row for row in rows]


def _rated(row: Rated, ratings: Ratings | None) -> Rated:
    if row.reason == INVALID:  # no reply to rate
        return row
    key: Key = (row.arm, row.source, row.concept, row.factor, row.item)
    judgement = Judgement(reason=NOT_JUDGED) if ratings is None else ratings.judgements[key]
    measured = {name: value for name, value in row.ratings.items() if name not in ASPECTS}
    said: dict[str, Any] = {"words": judge_words(judgement)} if isinstance(row, Sample) else {}
    ratings_now = {**measured, **judgement.ratings}
    return replace(row, value=judgement.score, reason=judgement.reason, ratings=ratings_now, **said)


def judge_summaries(run: Run, found: Mapping[str, Mapping[str, Ratings]]) -> tuple[JudgeSummary, ...]:
    """Return every judge of the run with its check and its unscored and re-asked replies."""
    judges = []
    for name, by_target in sorted(found.items()):
        cards = [ratings.card for ratings in by_target.values()]
        judges.append(
            JudgeSummary(
                id=name, name=cards[0].name, total=sum(card.total for card in cards), check=saved_check(run, name),
                unscored=sum(one.unscored for one in by_target.values()),
                reasked=sum((Counter(card.reasked) for card in cards), Counter[str]()),
            )
        )  # fmt: skip
    return tuple(judges)


def judge_agreement(found: Mapping[str, Mapping[str, Ratings]]) -> tuple[AgreementLine, ...]:
    """Return how far every two judges agree, on each aspect and the score."""
    return tuple(line for one, other in combinations(sorted(found), 2) for line in _agreement(one, other, found))


def _agreement(first: str, second: str, found: Mapping[str, Mapping[str, Ratings]]) -> Iterator[AgreementLine]:
    """Measure weighted kappa and Spearman of two judges, for each aspect and the score, over all targets both rated."""
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
    """Say that a run's unscored share is above `limit`; None where it is not."""
    cards = [ratings.card for ratings in by_target.values()]
    total, reasons = sum(card.total for card in cards), sum((Counter(card.unscored) for card in cards), Counter[str]())
    missing = reasons.total()
    if not total or missing <= limit * total:
        return None
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return f"incomplete: {missing} of {total} replies unscored ({listed}) = {missing / total:.1%} (limit {limit:.1%})"


def check_file(run: Run, judge: str) -> Path:
    """RUN/judgements/JUDGE/check.json"""
    return run.folder.path / FOLDER / judge / "check.json"


def saved_check(run: Run, judge: str) -> JudgeCheck | None:
    """Return what the leaderboard says of a judge's check; None where it was not checked."""
    file = check_file(run, judge)
    if not file.is_file():
        return None
    try:
        rows = [CheckRow(**row) for row in read_json(file)["rows"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file}: not a judge's check ({error!r}); run steer-bench judge --check again") from error
    rows = [row for row in rows if row.group == "all"]
    n = sum(row.n for row in rows)
    auroc = {row.aspect: row.auroc for row in rows if row.auroc is not None}
    return JudgeCheck(auroc=auroc, n=n, unscored=sum(row.unscored * row.n for row in rows) / n)
