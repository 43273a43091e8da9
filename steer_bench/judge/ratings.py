"""Replies of a target rated by one judge, and what it said on disk beside what other judges said.

    replies + concepts + configuration -> [rate_replies] -> ratings -> RUN/judgements/JUDGE/TARGET.jsonl

Every rating is a record of the run before the next arrives. Knows nothing of lm_eval or torch.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from pydantic import ConfigDict

from steer_bench.concepts.concept import Concept
from steer_bench.files import Checked, parse_json, write_whole
from steer_bench.judge.config import JudgeConfig, judge_id
from steer_bench.judge.embedding import SCHEME, Calibration, EmbeddingJudge, Reference
from steer_bench.judge.judgement import (
    ASPECTS,
    READING,
    Case,
    Judge,
    JudgeError,
    Judgement,
    Question,
    Usage,
    digest,
    rate_by_aspect,
)
from steer_bench.judge.load import load_judge
from steer_bench.judge.prompts import VERSION
from steer_bench.records import Records

logger = logging.getLogger(__name__)
Key = tuple[str, str, str, float, str]
"""(arm, source, concept, factor, item): names a reply of one target."""
Yardstick = Sequence[tuple[str, str, float | None]]
"""(instruction, reply, perplexity) of the unsteered target, on prompts that nothing is scored on: what a judge is set by."""
FOLDER = "judgements"


class JudgedReply(NamedTuple):
    """A reply to be rated."""

    key: Key
    instruction: str
    text: str
    perplexity: float | None
    """Under the unsteered target; None where it was not measured."""


class RatingsCard(Checked):
    """Which judge rated which replies, and with what outcome: the first line of a ratings file."""

    model_config = ConfigDict(extra="ignore")  # a file of an older version says more

    judge: JudgeConfig
    id: str
    name: str
    target: str
    inputs: str
    """See `rating_fingerprint`."""
    total: int
    unscored: dict[str, int] = {}
    """Reason -> replies without a score."""
    reasked: dict[str, int] = {}
    """Arm -> questions that were asked again because the first answer held no rating; each is a new draw from the judge."""
    calibration: Calibration | None = None
    usage: Usage | None = None
    """What the judge was asked the last time; None if it was not asked."""
    stopped: str | None = None
    """Why the judge did not come to an end."""


class Ratings(NamedTuple):
    """What one judge said of all replies of one target."""

    card: RatingsCard
    judgements: Mapping[Key, Judgement]

    @property
    def unscored(self) -> int:
        """Number of replies without a score."""
        return sum(self.card.unscored.values())


def rating_fingerprint(
    config: JudgeConfig, concepts: Mapping[str, Concept], yardstick: Yardstick, replies: Iterable[JudgedReply]
) -> str:
    """Return a digest that changes whenever ratings on disk are not of these replies, concepts, yardstick and judge."""
    described = {key: [one.description, one.positives, one.negatives] for key, one in concepts.items()}
    listed = [list(reply) for reply in sorted(replies, key=lambda reply: reply.key)]
    reading = [] if config.kind == "embedding" else [READING]
    return digest([VERSION, SCHEME, judge_id(config), described, list(yardstick), listed, *reading])[:16]


def judge_for(
    config: JudgeConfig, concepts: Mapping[str, Concept], yardstick: Yardstick, *, resume: str = "steer-bench judge RUN"
) -> Judge:
    """Make the judge of a configuration and set it to one target: held-out texts are its references, the yardstick its scale."""
    references = {
        concept.id: Reference(concept.description, concept.positives, concept.negatives)
        for concept in concepts.values()
        if concept.kind == "topic"
    }
    judge = load_judge(config, references=references, yardstick=yardstick, resume=resume)
    if isinstance(judge, EmbeddingJudge) and not judge.yardstick:
        logger.warning(
            "the judge has no yardstick of the target's unsteered replies (steer-bench dose RUN makes one): it rates on the scale "
            "of the reference texts alone"
        )
    return judge


def rate_recorded(judge: Judge, cases: Sequence[Case], records: Records) -> list[Judgement]:
    """Return one judgement per case, in order; ask only what the records do not hold, and record each rating as it arrives.

    A JudgeError leaves recorded what was rated before it. What could not be rated is not recorded: it is asked again.
    """
    keys = [judge.key(Question(case, aspect)) for case in cases for aspect in ASPECTS]
    known = {key: Judgement.from_json(value) for key, value in records.get(keys).items()}

    def keep(question: Question, judgement: Judgement) -> None:
        if judgement.reason or not judgement.ratings:
            reason = judgement.reason or "no ratings"
            raise ValueError(f"a judgement without a rating ({reason}) is asked again, never recorded")
        records.add({judge.key(question): judgement.to_json()})

    return rate_by_aspect(judge, cases, known=known, keep=keep)


def rate_replies(
    config: JudgeConfig,
    concepts: Mapping[str, Concept],
    replies: Sequence[JudgedReply],
    *,
    target: str,
    yardstick: Yardstick,
    records: str | Path | None = None,
    file: Path | None = None,
    resume: str = "steer-bench judge RUN",
) -> Ratings:
    """Rate all replies at once, asking only what `records` (a records file) does not hold.

    The ratings are written to `file`. A judge that stops raises JudgeError: what it rated before is in `records`, and the file says
    that it stopped, unless it holds the ratings of an earlier time.
    """
    judge = judge_for(config, concepts, yardstick, resume=resume)
    cases = [
        Case(one.key[2], concepts[one.key[2]].description, one.instruction, one.text, one.perplexity) for one in replies
    ]
    inputs = rating_fingerprint(config, concepts, yardstick, replies)
    card = RatingsCard(
        judge=config, id=judge_id(config), name=judge.name, target=target, inputs=inputs, total=len(replies)
    )
    try:
        with Records(records) as store:
            judgements = rate_recorded(judge, cases, store)
    except JudgeError as error:
        if file is not None and not file.is_file():  # what was rated before stays
            save_ratings(file, Ratings(card.model_copy(update={"stopped": str(error)}), {}))
        raise
    rated = {reply.key: judgement for reply, judgement in zip(replies, judgements, strict=True)}
    unscored = Counter(judgement.reason for judgement in judgements if judgement.score is None)
    reasked = Counter[str]()
    for (arm, *_), judgement in rated.items():
        reasked[arm] += sum(max(0, len(raw) - 1) for raw in judgement.raw.values())
    outcome = {
        "unscored": dict(sorted(unscored.items())),
        "reasked": dict(sorted((+reasked).items())),  # those above 0
        "calibration": judge.calibration() if isinstance(judge, EmbeddingJudge) else None,
        "usage": judge.usage,
    }
    ratings = Ratings(card.model_copy(update=outcome), rated)
    if file is not None:
        save_ratings(file, ratings)
    return ratings


def judge_words(judgement: Judgement | None) -> dict[str, str]:
    """Return what the judge wrote, by aspect: its explanation, or every answer where none gave a rating."""
    if judgement is None:
        return {}
    words = {aspect: "\n\n".join(texts) for aspect, texts in judgement.raw.items() if judgement.reason}
    words |= judgement.explanation
    return {aspect: text for aspect, text in words.items() if text}


def save_ratings(file: Path, ratings: Ratings) -> None:
    """Write the card and one line per reply, atomically.

    All answers of the judge are kept where it was asked again or gave no rating; else its explanation says it.
    """
    card = ratings.card.model_dump(mode="json", exclude_none=True)
    lines = [json.dumps({"card": card}, sort_keys=True, allow_nan=False)]
    for key, one in ratings.judgements.items():
        raw = {aspect: texts for aspect, texts in one.raw.items() if one.reason or len(texts) > 1}
        lines.append(json.dumps({"key": key, **replace(one, raw=raw).to_json()}, allow_nan=False))
    write_whole(file, "\n".join(lines) + "\n")


def load_ratings(file: Path) -> Ratings:
    """Read what `save_ratings` wrote. Raises ValueError naming the file."""
    try:
        first, *rest = map(parse_json, file.read_text(encoding="utf-8").split("\n")[:-1])
        card = RatingsCard.model_validate(first["card"])
        judgements = {}
        for found in rest:
            arm, source, concept, factor, item = found["key"]
            judgements[arm, source, concept, float(factor), item] = Judgement.from_json(found)
        return Ratings(card, judgements)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"{file}: not ratings of steer-bench ({error!r}); remove it and run steer-bench judge again"
        ) from error
