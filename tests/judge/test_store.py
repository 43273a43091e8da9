"""Run: python -m pytest tests/judge/test_store.py"""

import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from steer_bench.judge.judgement import ASPECTS, Case, JudgeError, Judgement, Keep, Question, digest, rate_by_aspect
from steer_bench.judge.store import JudgementStore, StoredJudge, _use_wal

GOOD = Judgement(
    dict.fromkeys(ASPECTS, 2.0),
    explanation={"concept": "ü \x00"},
    raw={"concept": ("a", "b")},
    flags=("rating_in_reply",),
)


def cases(n: int) -> list[Case]:
    return [Case("sea", "the sea", f"prompt {i}", f"reply {i}", float("nan") if i == 0 else 5.0) for i in range(n)]


class WholeJudge:
    """Rates whole cases; those with an odd number fail until it is told otherwise."""

    name = "whole"

    def __init__(self, version: str = "1", *, fail: bool = False) -> None:
        self.version, self.fail, self.asked = version, fail, list[Case]()

    def fingerprint(self) -> str:
        return self.version

    def rate(self, cases: Sequence[Case]) -> list[Judgement]:
        self.asked += cases
        return [Judgement(reason="timeout") if self.fail and i % 2 else GOOD for i, _ in enumerate(cases)]


class StepJudge:
    """Rates aspects one by one and stops for good after some."""

    name = "step"

    def __init__(self, stop_after: int = 10**9) -> None:
        self.stop_after, self.asked = stop_after, list[Question]()

    def fingerprint(self) -> str:
        return "step"

    def rate(self, cases: Sequence[Case]) -> list[Judgement]:
        return rate_by_aspect(self, cases)

    def key(self, question: Question) -> str:
        shown = question.case.concept_id if question.aspect == "concept" else ""
        return digest([self.fingerprint(), question.aspect, shown, question.case.reply])

    def answer(self, questions: Sequence[Question], keep: Keep) -> list[Judgement]:
        judgements = []
        for question in questions:
            if len(self.asked) >= self.stop_after:
                raise JudgeError("stopped")
            self.asked.append(question)
            judgements.append(Judgement({question.aspect: 1.0}))
            keep(question, judgements[-1])
        return judgements


def test_what_is_stored_comes_back_equal(tmp_path: Path) -> None:
    with JudgementStore(tmp_path / "records.sqlite") as store:
        store.save("k", "judge", cases(1)[0], GOOD)
    with JudgementStore(tmp_path / "records.sqlite") as store:
        assert store.load(["k", "other"]) == {"k": GOOD}
        assert store.judges() == {"judge": 1}


def test_a_failure_is_never_stored_and_is_asked_again(tmp_path: Path) -> None:
    with JudgementStore(tmp_path / "r.sqlite") as store:
        with pytest.raises(ValueError, match="timeout"):
            store.save("k", "judge", cases(1)[0], Judgement(reason="timeout"))
        failing = WholeJudge(fail=True)
        first = StoredJudge(failing, store).rate(cases(4))
        assert [one.reason for one in first] == ["", "timeout", "", "timeout"]
        healthy = WholeJudge()
        stored = StoredJudge(healthy, store)
        assert stored.missing(cases(4)) == 2
        assert stored.rate(cases(4)) == [GOOD] * 4
        assert [case.reply for case in healthy.asked] == ["reply 1", "reply 3"]
        assert stored.missing(cases(4)) == 0


def test_another_judge_or_version_asks_anew_and_old_judgements_stay(tmp_path: Path) -> None:
    with JudgementStore(tmp_path / "r.sqlite") as store:
        StoredJudge(WholeJudge("1"), store).rate(cases(3))
        newer = WholeJudge("2")
        StoredJudge(newer, store).rate(cases(3))
        assert len(newer.asked) == 3
        again = WholeJudge("1")
        StoredJudge(again, store).rate(cases(3))
        assert again.asked == []
        assert store.judges() == {"whole": 6}


def test_a_finished_judgement_is_never_rewritten(tmp_path: Path) -> None:
    with JudgementStore(tmp_path / "r.sqlite") as store:
        store.save("k", "judge", cases(1)[0], GOOD)
        store.save("k", "judge", cases(1)[0], Judgement({"concept": 0.0}))
        assert store.load(["k"])["k"] == GOOD


@pytest.mark.parametrize("stop_after", [0, 1, 4, 11])
def test_a_stopped_judge_goes_on_with_the_next_question(tmp_path: Path, stop_after: int) -> None:
    with JudgementStore(tmp_path / "r.sqlite") as store:
        stopped = StepJudge(stop_after)
        with pytest.raises(JudgeError):
            StoredJudge(stopped, store).rate(cases(4))
        rest = StepJudge()
        judgements = StoredJudge(rest, store).rate(cases(4))
        assert len(stopped.asked) + len(rest.asked) == 12
        assert all(one.score == 1.0 for one in judgements)


def test_equal_questions_are_asked_once(tmp_path: Path) -> None:
    judge = StepJudge()
    one = Case("sea", "the sea", "p", "the same reply")
    other = Case("war", "war", "p", "the same reply")
    judge.rate([one, other, one])
    # two concept questions, one instruction, one fluency
    assert len(judge.asked) == 4


def test_threads_share_a_store(tmp_path: Path) -> None:
    with JudgementStore(tmp_path / "r.sqlite") as store:

        def write(start: int) -> None:
            for i in range(start, start + 100):
                store.save(f"k{i}", "judge", cases(1)[0], GOOD)

        threads = [threading.Thread(target=write, args=(50 * i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(store.load([f"k{i}" for i in range(250)])) == 250


def test_processes_share_a_store(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom steer_bench.judge.judgement import *\n"
        "from steer_bench.judge.openai_judge import OpenAIJudge\nfrom steer_bench.judge.store import JudgementStore, StoredJudge\n"
        "store = JudgementStore(sys.argv[1])\n"
        "for i in range(200): store.save(f'{sys.argv[2]}-{i}', 'judge', Case('a', 'b', 'c', 'd'), Judgement({'concept': 1.0}))\n"
    )
    path = tmp_path / "r.sqlite"
    children = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "ab"]
    assert [child.wait(300) for child in children] == [0, 0]  # importing takes long on a busy machine
    with JudgementStore(path) as store:
        assert store.judges() == {"judge": 400}


def test_opening_waits_for_a_process_that_holds_the_new_file(tmp_path: Path) -> None:
    """Two processes that open a new file at once: the switch to WAL mode does not wait by itself, as all else does."""
    path = tmp_path / "r.sqlite"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE t (x)")
    other.execute("BEGIN EXCLUSIVE")
    direct = sqlite3.connect(path, timeout=0.2, isolation_level=None)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        direct.execute("PRAGMA journal_mode=WAL")
    direct.close()
    release = threading.Timer(0.3, lambda: other.execute("COMMIT"))
    release.start()
    with JudgementStore(path) as store:
        store.save("k", "judge", cases(1)[0], GOOD)
        assert store.judges() == {"judge": 1}
    release.join()
    other.close()


def test_a_switch_to_wal_that_fails_at_once_is_tried_again() -> None:
    class Busy:
        left = 3

        def execute(self, statement: str) -> None:
            assert statement == "PRAGMA journal_mode=WAL"
            self.left -= 1
            if self.left:
                raise sqlite3.OperationalError("database is locked")

    busy = Busy()
    _use_wal(busy)  # type: ignore[arg-type]
    assert busy.left == 0
    with pytest.raises(sqlite3.OperationalError):
        _use_wal(Busy(), patience=-1)  # type: ignore[arg-type]


def test_the_store_lives_beside_other_tables(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE replies (x)")
    connection.commit()
    connection.close()
    with JudgementStore(path) as store:
        store.save("k", "judge", cases(1)[0], GOOD)
        assert store.load(["k"])


@pytest.mark.parametrize("column", ["ratings", "raw", "explanation", '"case"', "digest"])
def test_a_judgement_that_was_changed_on_disk_is_not_believed_and_asked_again(tmp_path: Path, column: str) -> None:
    path, judge = tmp_path / "r.sqlite", WholeJudge()
    with JudgementStore(path) as store:
        StoredJudge(judge, store).rate(cases(2))
    with sqlite3.connect(path) as db:  # one character of one row: 2.0 becomes 1.0, say
        ((text,),) = db.execute(f"SELECT {column} FROM judgements WHERE rowid = 2")
        changed = text.replace("2", "1", 1) if "2" in text else text[:-1] + " "
        db.execute(f"UPDATE judgements SET {column} = ? WHERE rowid = 2", (changed,))
    with JudgementStore(path) as store:
        assert StoredJudge(judge, store).missing(cases(2)) == 1
        assert StoredJudge(judge, store).rate(cases(2)) == [GOOD, GOOD]
        assert [case.reply for case in judge.asked] == ["reply 0", "reply 1", "reply 1"]
        assert StoredJudge(judge, store).missing(cases(2)) == 0


def test_a_flipped_bit_anywhere_in_a_store_gives_an_error_or_leaves_the_judgement_out(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with JudgementStore(path) as store:
        for i in range(12):
            store.save(f"k{i}", "judge", cases(1)[0], GOOD)
    whole, rng, left_out, refused = path.read_bytes(), random.Random(0), 0, 0
    for place in rng.sample(range(len(whole)), 100):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            with JudgementStore(path) as store:
                found = store.load([f"k{i}" for i in range(12)])
        except (ValueError, sqlite3.OperationalError):
            refused += 1
        else:
            assert all(judgement == GOOD for judgement in found.values())
            left_out += len(found) < 12
        for name in ("-wal", "-shm"):
            path.with_name(path.name + name).unlink(missing_ok=True)
    assert refused
    assert left_out


def test_a_file_that_is_no_database_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    path.write_text("not a database, certainly not one " * 100)
    with pytest.raises(ValueError, match=r"r\.sqlite"):
        JudgementStore(path)
    with pytest.raises(ValueError, match="folder does not exist"):
        JudgementStore(tmp_path / "no" / "r.sqlite")
