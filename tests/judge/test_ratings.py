"""Ratings are records: asked once, kept as they arrive. Run: python -m pytest tests/judge/test_ratings.py"""

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from fakes.word_embedder import WordEmbedder

from steer_bench.concepts.concept import Concept
from steer_bench.judge.config import EmbeddingConfig, OpenAIConfig
from steer_bench.judge.judgement import (
    ASPECTS,
    Case,
    JudgeError,
    Judgement,
    Keep,
    Question,
    Usage,
    digest,
    rate_by_aspect,
)
from steer_bench.judge.ratings import (
    JudgedReply,
    Yardstick,
    load_ratings,
    rate_recorded,
    rate_replies,
    rating_fingerprint,
    save_ratings,
)
from steer_bench.records import Records, row_checksum


def cases(n: int) -> list[Case]:
    return [Case("sea", "the sea", f"prompt {i}", f"reply {i}", float("nan") if i == 0 else 5.0) for i in range(n)]


class StepJudge:
    """Rates aspects one by one, stops for good after some, and cannot rate replies with an odd number if `fail`."""

    name = "step"
    usage = None

    def __init__(self, stop_after: int = 10**9, *, version: str = "1", fail: bool = False) -> None:
        self.stop_after, self.version, self.fail, self.asked = stop_after, version, fail, list[Question]()

    def probe(self) -> None:
        pass

    def fingerprint(self) -> str:
        return self.version

    def key(self, question: Question) -> str:
        shown = question.case.concept_id if question.aspect == "concept" else ""
        return digest([self.fingerprint(), question.aspect, shown, question.case.reply])

    def answer(self, questions: Sequence[Question], keep: Keep) -> list[Judgement]:
        judgements = []
        for question in questions:
            if len(self.asked) >= self.stop_after:
                raise JudgeError("stopped")
            self.asked.append(question)
            if self.fail and question.case.reply[-1] in "13579":
                judgements.append(Judgement(reason="timeout"))
                continue
            said = {question.aspect: ("Hm", f"{question.case.reply}: 1")}
            judgements.append(Judgement({question.aspect: 1.0}, "", {question.aspect: "ü \x00"}, said, ("a flag",)))
            keep(question, judgements[-1])
        return judgements


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "r.sqlite")


def test_a_recorded_judgement_comes_back_equal_from_the_file(tmp_path: Path) -> None:
    with Records(tmp_path / "r.sqlite") as records:
        first = rate_recorded(StepJudge(), cases(3), records)
    with Records(tmp_path / "r.sqlite") as records:
        rest = StepJudge()
        assert rate_recorded(rest, cases(3), records) == first
    assert rest.asked == []
    assert first[2].raw["fluency"] == ("Hm", "reply 2: 1")
    assert (first[2].score, first[2].flags) == (1.0, ("a flag",))


def test_a_failure_is_never_recorded_and_is_asked_again(records: Records) -> None:
    first = rate_recorded(StepJudge(fail=True), cases(4), records)
    assert [one.reason for one in first] == ["", "timeout", "", "timeout"]
    assert len(records) == 2 * len(ASPECTS)
    healthy = StepJudge()
    assert [one.score for one in rate_recorded(healthy, cases(4), records)] == [1.0] * 4
    assert {question.case.reply for question in healthy.asked} == {"reply 1", "reply 3"}

    class Careless(StepJudge):
        def answer(self, questions: Sequence[Question], keep: Keep) -> list[Judgement]:
            keep(questions[0], Judgement(reason="timeout"))
            return []

    with pytest.raises(ValueError, match="timeout"):
        rate_recorded(Careless(version="2"), cases(1), records)


def test_another_judge_or_version_asks_anew_and_old_ratings_stay(records: Records) -> None:
    rate_recorded(StepJudge(), cases(3), records)
    newer = StepJudge(version="2")
    rate_recorded(newer, cases(3), records)
    assert len(newer.asked) == 9
    again = StepJudge()
    rate_recorded(again, cases(3), records)
    assert again.asked == []
    assert len(records) == 18


@pytest.mark.parametrize("stop_after", [0, 1, 4, 11])
def test_a_stopped_judge_goes_on_with_the_next_question(records: Records, stop_after: int) -> None:
    stopped = StepJudge(stop_after)
    with pytest.raises(JudgeError):
        rate_recorded(stopped, cases(4), records)
    rest = StepJudge()
    judgements = rate_recorded(rest, cases(4), records)
    assert len(stopped.asked) + len(rest.asked) == 12
    assert all(one.score == 1.0 for one in judgements)


def test_equal_questions_are_asked_once() -> None:
    judge = StepJudge()
    one = Case("sea", "the sea", "p", "the same reply")
    other = Case("war", "war", "p", "the same reply")
    rate_by_aspect(judge, [one, other, one])
    # two concept questions, one instruction, one fluency
    assert len(judge.asked) == 4


def test_a_rating_that_was_changed_on_disk_is_not_believed_and_asked_again(tmp_path: Path) -> None:
    with Records(tmp_path / "r.sqlite") as records:
        rate_recorded(StepJudge(), cases(2), records)
    with sqlite3.connect(tmp_path / "r.sqlite") as db:
        db.execute("UPDATE records SET value = replace(value, '1.0', '2.0') WHERE rowid = 2")
    with Records(tmp_path / "r.sqlite") as records:
        judge = StepJudge()
        assert [one.score for one in rate_recorded(judge, cases(2), records)] == [1.0, 1.0]
        assert [question.aspect for question in judge.asked] == ["instruction"]


def test_a_ratings_file_of_the_first_version_is_read(tmp_path: Path) -> None:
    """Its usage counted reasks, and a file of a judge that stopped holds no counts of unscored."""
    card = {
        "id": "openai-m-1", "inputs": "0a", "judge": {"kind": "openai", "model": "m", "concurrency": 3}, "name": "m at host",
        "reasked": {"native": 2}, "target": "t", "total": 1, "unscored": {"parse": 1},
        "usage": {"calls": 5, "cost": None, "input_tokens": 7, "output_tokens": 2, "reasks": 2, "retries": 0},
    }  # fmt: skip
    line = {"key": ["native", "", "sea", 0.2, "p1"], "reason": "parse", "raw": {"concept": ["Hm", "Hm"]}}
    file = tmp_path / "t.jsonl"
    file.write_text(f"{json.dumps({'card': card})}\n{json.dumps(line)}\n")
    found = load_ratings(file)
    assert found.card.judge == OpenAIConfig(model="m", concurrency=3)
    assert found.card.usage == Usage(calls=5, input_tokens=7, output_tokens=2)
    assert (found.unscored, found.card.reasked, found.card.stopped) == (1, {"native": 2}, None)
    assert found.judgements == {
        ("native", "", "sea", 0.2, "p1"): Judgement(reason="parse", raw={"concept": ("Hm", "Hm")})
    }
    save_ratings(tmp_path / "again.jsonl", found)
    assert load_ratings(tmp_path / "again.jsonl") == found
    file.write_text(f"{json.dumps({'card': {**card, 'total': 'many'}})}\n")
    with pytest.raises(ValueError, match=r"t\.jsonl: not ratings of steer-bench"):
        load_ratings(file)


def test_ratings_an_older_version_was_paid_for_are_not_asked_again(tmp_path: Path) -> None:
    """It kept them in a table `judgements`, under the same keys."""
    judge, old = StepJudge(), sqlite3.connect(tmp_path / "r.sqlite")
    old.execute(
        'CREATE TABLE judgements (key TEXT PRIMARY KEY, judge TEXT, "case" TEXT, ratings TEXT, explanation TEXT, raw TEXT, '
        "created TEXT, digest TEXT)"
    )
    for case in cases(3):
        for aspect in ASPECTS:
            key, rest = judge.key(Question(case, aspect)), {"raw": {aspect: ["Rating: [[1]]"]}, "flags": []}
            texts = [json.dumps(part) for part in ({}, {aspect: 1.0}, {aspect: "So."}, rest)]
            row = (key, "step", *texts, "2026-01-01", row_checksum(key, *texts))
            old.execute("INSERT INTO judgements VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    old.commit()
    old.close()
    with Records(tmp_path / "r.sqlite") as records:
        found = rate_recorded(judge, cases(3), records)
    assert judge.asked == []
    assert found[0] == Judgement(
        dict.fromkeys(ASPECTS, 1.0), "", dict.fromkeys(ASPECTS, "So."), dict.fromkeys(ASPECTS, ("Rating: [[1]]",))
    )


# --- a yardstick that is fixed before it measures ---

SEA = Concept(
    "sea", "the sea", "text", ("sea ship", "sea wave", "ship wave"), ("walk talk", "talk bread", "bread house")
)
YARDSTICK = (("walk house", "walk house", 8.0), ("law court", "law judge", 12.0), ("walk law", "sea talk", 10.0))
"""Of another pool than the rated replies."""


def scored_replies(*texts: str, arm: str = "native") -> list[JudgedReply]:
    return [
        JudgedReply((arm, "", "sea", 0.2, f"{arm} {number}"), "walk talk", text, 10.0 + number)
        for number, text in enumerate(texts)
    ]


def ratings_of(
    replies: Sequence[JudgedReply], yardstick: Yardstick = YARDSTICK, records: Path | None = None
) -> dict[tuple[str, float | None], object]:
    found = rate_replies(
        EmbeddingConfig(model="none"), {"sea": SEA}, replies, target="t", yardstick=yardstick, records=records
    )
    return {(one.text, one.perplexity): found.judgements[one.key].ratings for one in replies}


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steer_bench.judge.embedding.Embedder", lambda *_args, **_options: WordEmbedder())


@pytest.mark.usefixtures("words")
def test_one_text_has_one_rating_whatever_is_rated_beside_it(tmp_path: Path) -> None:
    own = scored_replies("sea walk", "ship talk law", "walk talk")
    first = ratings_of(
        [*own, *scored_replies("walk talk", "talk walk", arm="unsteered")], records=tmp_path / "a.sqlite"
    )
    loud = scored_replies("sea sea wave", "ship wave sea", "sea ship talk", arm="unsteered")
    runs = (
        ratings_of([*own, *loud], records=tmp_path / "b.sqlite"),  # other unsteered replies
        ratings_of([*loud, *reversed(own)], records=tmp_path / "c.sqlite"),
        ratings_of(own[:1]),
        ratings_of(own, tuple(reversed(YARDSTICK)), records=tmp_path / "a.sqlite"),  # and one that finds records
    )
    assert all(found[key] == first[key] for found in runs for key in found.keys() & first.keys())
    assert all(found.keys() & {(one.text, one.perplexity) for one in own} for found in runs)


@pytest.mark.usefixtures("words")
def test_another_yardstick_is_another_rating_and_another_fingerprint(tmp_path: Path) -> None:
    replies = scored_replies("sea walk")
    wet = (*YARDSTICK[:2], ("walk law", "sea ship wave", 10.0))
    found = [ratings_of(replies, marks, tmp_path / "r.sqlite")["sea walk", 10.0] for marks in (YARDSTICK, wet)]
    assert found[0]["concept"] > found[1]["concept"]
    prints = {
        rating_fingerprint(EmbeddingConfig(), {"sea": SEA}, marks, replies)
        for marks in (YARDSTICK, wet, (), (*YARDSTICK[:2], ("walk law", "sea talk", 10.5)))
    }
    assert len(prints) == 4


@pytest.mark.usefixtures("words")
def test_a_judge_without_a_yardstick_says_so(caplog: pytest.LogCaptureFixture) -> None:
    assert set(ratings_of(scored_replies("sea walk"), ())["sea walk", 10.0]) == set(ASPECTS)
    assert "no yardstick" in caplog.text
    caplog.clear()
    ratings_of(scored_replies("sea walk"))
    assert caplog.text == ""
