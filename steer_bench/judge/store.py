"""Judgement store: every rating is on disk before the next is asked for; a failure never is.

    judge + store -> [StoredJudge] -> judgements

One sqlite table in WAL mode, plain JSON text, safe for several threads and processes. Each rating carries a digest: one
whose bytes were changed on disk is asked for again, never believed.
"""

import json
import logging
import math
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from steer_bench.judge.judgement import ASPECTS, AspectJudge, Case, Judge, Judgement, Question, digest, rate_by_aspect
from steer_bench.records import explained, readable, seal

logger = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS judgements (
  key TEXT PRIMARY KEY,
  judge TEXT NOT NULL,
  "case" TEXT NOT NULL,
  ratings TEXT NOT NULL,
  explanation TEXT NOT NULL,
  raw TEXT NOT NULL,
  created TEXT NOT NULL,
  digest TEXT NOT NULL
)
"""
_CHUNK = 64
"""Cases between two saves, for judges that answer only whole batches."""


class JudgementStore:
    """Judgements by key, in the table `judgements` of a sqlite file (which may hold other tables)."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise ValueError(f"{self.path}: its folder does not exist; make it first or give another path")
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(self.path, timeout=60, check_same_thread=False, isolation_level=None)
        self._connection.text_factory = readable
        try:
            _use_wal(self._connection)
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute(_SCHEMA)
            self._connection.execute("SELECT digest FROM judgements LIMIT 1").fetchall()
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise ValueError(
                f"{self.path}: cannot keep judgements there ({error}); move the file away or mend it"
            ) from error

    def load(self, keys: Sequence[str]) -> dict[str, Judgement]:
        """The judgements there are, by key; raises ValueError for a file that can not be read."""
        found: dict[str, Judgement] = {}
        broken: list[str] = []
        for start in range(0, len(keys), 500):  # sqlite takes at least 999 parameters
            some = keys[start : start + 500]
            places = ",".join("?" * len(some))
            query = f'SELECT key, "case", ratings, explanation, raw, digest FROM judgements WHERE key IN ({places})'
            for key, *texts, sealed in self._execute(query, some):
                if not all(isinstance(text, str) for text in texts) or sealed != seal(key, *texts):
                    broken.append(key)
                    continue
                ratings, explanation, extra = map(json.loads, texts[1:])
                found[key] = Judgement(
                    ratings=ratings,
                    explanation=explanation,
                    raw={aspect: tuple(replies) for aspect, replies in extra["raw"].items()},
                    flags=tuple(extra["flags"]),
                )
        if broken:  # so that what is asked again can take their place
            logger.warning("%s: %d judgements are damaged and asked for again", self.path, len(broken))
            for key in broken:
                self._execute("DELETE FROM judgements WHERE key = ?", (key,))
        return found

    def _execute(self, statement: str, values: Sequence[str] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._connection.execute(statement, values).fetchall()
            except sqlite3.DatabaseError as error:
                raise explained(self.path, error) from error

    def save(self, key: str, judge: str, case: Case, judgement: Judgement) -> None:
        """Write one judgement; a key that is there stays as it is. Unscored ones are refused: they are to be asked again."""
        if judgement.reason or not judgement.ratings:
            raise ValueError(
                f"an unscored judgement ({judgement.reason or 'no ratings'}) is not stored; ask again instead"
            )
        texts = (
            _json(_finite(case)),
            _json(judgement.ratings),
            _json(judgement.explanation),
            _json({"raw": judgement.raw, "flags": judgement.flags}),
        )
        created = datetime.now(UTC).isoformat(timespec="seconds")
        self._execute(
            "INSERT OR IGNORE INTO judgements VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (key, judge, *texts, created, seal(key, *texts)),
        )

    def judges(self) -> dict[str, int]:
        """Name of each judge -> ratings of it in the store."""
        return dict(self._execute("SELECT judge, COUNT(*) FROM judgements GROUP BY judge ORDER BY judge"))

    def close(self) -> None:
        """Close the file; the store cannot be used after."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> "JudgementStore":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _use_wal(connection: sqlite3.Connection, patience: float = 60.0) -> None:
    """Switch to WAL mode, waiting for other processes: unlike every other statement this one fails at once where two open a new file."""
    deadline = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


class StoredJudge:
    """A judge that remembers: asks only what the store does not hold, and stores each rating as it arrives."""

    def __init__(self, judge: Judge, store: JudgementStore) -> None:
        self.judge = judge
        self.store = store
        self.name = judge.name

    def fingerprint(self) -> str:
        """That of the judge within."""
        return self.judge.fingerprint()

    def rate(self, cases: Sequence[Case]) -> list[Judgement]:
        """One judgement a case, in order; a JudgeError leaves stored what was rated before it."""
        if isinstance(self.judge, AspectJudge):
            return self._rate_aspects(self.judge, cases)
        return self._rate_cases(cases)

    def missing(self, cases: Sequence[Case]) -> int:
        """How many questions (of an aspect judge) or cases (of another) are still to be asked."""
        if isinstance(self.judge, AspectJudge):
            keys = _aspect_keys(self.judge, cases)
        else:
            keys = list(dict.fromkeys(self._case_keys(cases)))
        return len(keys) - len(self.store.load(keys))

    def _rate_aspects(self, judge: AspectJudge, cases: Sequence[Case]) -> list[Judgement]:
        def keep(question: Question, judgement: Judgement) -> None:
            self.store.save(judge.key(question), self.name, question.case, judgement)

        known = self.store.load(_aspect_keys(judge, cases))
        return rate_by_aspect(judge, cases, known=known, keep=keep)

    def _rate_cases(self, cases: Sequence[Case]) -> list[Judgement]:
        keys = self._case_keys(cases)
        rated = self.store.load(keys)
        missing = {key: case for key, case in zip(keys, cases, strict=True) if key not in rated}
        todo = list(missing.items())
        for start in range(0, len(todo), _CHUNK):
            chunk = todo[start : start + _CHUNK]
            for (key, case), judgement in zip(chunk, self.judge.rate([case for _, case in chunk]), strict=True):
                rated[key] = judgement
                if not judgement.reason:
                    self.store.save(key, self.name, case, judgement)
        return [rated[key] for key in keys]

    def _case_keys(self, cases: Sequence[Case]) -> list[str]:
        fingerprint = self.fingerprint()
        return [digest([fingerprint, _finite(case)]) for case in cases]


def _aspect_keys(judge: AspectJudge, cases: Sequence[Case]) -> list[str]:
    return list({judge.key(Question(case, aspect)): None for case in cases for aspect in ASPECTS})


def _finite(case: Case) -> dict[str, object]:
    """The case as plain values; a perplexity that is no number is none."""
    measured = case.perplexity is not None and math.isfinite(case.perplexity)
    return asdict(case) | {"perplexity": case.perplexity if measured else None}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=True, sort_keys=True, allow_nan=False)
