"""Records: every finished reply, log-likelihood and rating is on disk before the next, so that a run can be continued.

One SQLite file (WAL) per run; a record is JSON under a key that hashes everything its value depends on, added once and never
changed; one whose checksum shows that its bytes were changed on disk is computed again. Threads and processes of one machine may
write one file; SQLite is not shared over a network, so a shard writes a file of its own, to be merged. Knows no models, no judges.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

_TABLE = "CREATE TABLE IF NOT EXISTS records (key TEXT PRIMARY KEY, value TEXT NOT NULL, digest TEXT NOT NULL)"


def record_key(**parts: object) -> str:
    """Return the SHA-256 of canonical JSON. Raises ValueError for NaN or Inf.

    >>> record_key(a=1, b=2) == record_key(b=2, a=1)
    True
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def row_checksum(*texts: str) -> str:
    """Return the checksum of a record's texts, stored beside them: where it differs, the record was changed on disk."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


@contextlib.contextmanager
def _explained(path: Path | None) -> Iterator[None]:
    """Raise a damaged file's error as a ValueError with the way on; a full disk, a lock and the like unchanged."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        damaged = not isinstance(error, sqlite3.OperationalError) or "no such column" in str(error)
        if path is None or not damaged:
            raise
        raise ValueError(
            f"{path}: damaged, or not a records file of this steer-bench ({error}); what it holds cannot be read. Move it "
            f"and its -wal and -shm files away (mv {path} {path}.damaged) and run the same command again: it is computed again"
        ) from error


class Records:
    """Key-value records in a SQLite file, or in memory only (path None); safe for several threads. Raises ValueError for a damaged file."""

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._db = _connect(path or ":memory:")
        with _explained(self.path), contextlib.ExitStack() as stack:
            stack.callback(self._db.close)
            use_wal(self._db)
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(_TABLE)
            _take_over_judgements(self._db)
            self._db.execute("SELECT key, value, digest FROM records LIMIT 1").fetchall()
            stack.pop_all()  # opened: stays open

    def get(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of those keys that are recorded, whole and unchanged."""
        found, damaged, wanted = {}, [], list(dict.fromkeys(keys))
        with _explained(self.path), self._lock:
            for start in range(0, len(wanted), 500):  # sqlite takes at least 999 parameters
                part = wanted[start : start + 500]
                marks = ",".join("?" * len(part))
                rows = self._db.execute(f"SELECT key, value, digest FROM records WHERE key IN ({marks})", part)
                for key, value, checksum in rows:
                    if isinstance(value, str) and checksum == row_checksum(key, value):
                        found[key] = json.loads(value)
                    else:
                        damaged.append((key,))
            if damaged:  # so that what is computed again can take their place
                logger.warning("%s: %d records are damaged and computed again", self.path, len(damaged))
                with contextlib.suppress(sqlite3.OperationalError):  # opened to be read only
                    self._db.executemany("DELETE FROM records WHERE key = ?", damaged)
        return found

    def add(self, values: Mapping[str, object]) -> None:
        """Record values, all or none; a key that is there already keeps its value."""
        texts = {key: json.dumps(value, allow_nan=False) for key, value in values.items()}
        rows = [(key, text, row_checksum(key, text)) for key, text in texts.items()]
        with _explained(self.path), self._lock, _transaction(self._db):
            self._db.executemany("INSERT OR IGNORE INTO records VALUES (?, ?, ?)", rows)

    def merge(self, path: Path) -> None:
        """Add what another records file holds; a key that is here already keeps its value."""
        self._db.execute("ATTACH DATABASE ? AS other", (str(path),))
        try:
            self._db.execute("INSERT OR IGNORE INTO records SELECT * FROM other.records")
        finally:
            self._db.execute("DETACH DATABASE other")

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM records").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _connect(database: str | Path, *, uri: bool = False) -> sqlite3.Connection:
    db = sqlite3.connect(database, uri=uri, timeout=60, isolation_level=None, check_same_thread=False)
    db.text_factory = lambda data: data.decode("utf-8", "replace")  # damage breaks the checksum, not the query
    return db


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk has rolled back already
            db.execute("ROLLBACK")
        raise


def use_wal(db: sqlite3.Connection, patience: float = 60.0) -> None:
    """Switch to WAL mode, waiting for other processes: unlike every other statement this one fails at once where two open a new file."""
    deadline = time.monotonic() + patience
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _take_over_judgements(db: sqlite3.Connection) -> None:
    """Make records of the ratings that a run begun by an older version kept in a table of their own, under the keys they have."""
    there = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'judgements'"
    if not db.execute(there).fetchone():
        return
    with _transaction(db):
        if not db.execute(there).fetchone():  # another process was faster
            return
        columns = 'key, "case", ratings, explanation, raw, digest'
        rows, damaged = [], 0
        for key, *texts, checksum in db.execute(f"SELECT {columns} FROM judgements").fetchall():
            if not all(isinstance(text, str) for text in texts) or checksum != row_checksum(key, *texts):
                damaged += 1
                continue
            ratings, explanation, rest = map(json.loads, texts[1:])
            text = json.dumps({"ratings": ratings, "explanation": explanation, **rest}, allow_nan=False)
            rows.append((key, text, row_checksum(key, text)))
        db.executemany("INSERT OR IGNORE INTO records VALUES (?, ?, ?)", rows)
        db.execute("DROP TABLE judgements")
    if damaged:
        logger.warning("%d ratings of an older version are damaged and asked for again", damaged)


def read_only(path: Path) -> Records:
    """Return records to be read while nobody writes them, safe for readers on several machines; empty ones where no file is."""
    records = Records()
    if path.is_file():
        records.close()
        unused = path.with_name(path.name + "-wal")
        settled = "" if unused.is_file() and unused.stat().st_size else "&immutable=1"
        records._db = _connect(f"{path.resolve().as_uri()}?mode=ro{settled}", uri=True)
    return records


def _nan() -> list[object]:
    return ["nan", False]


class ShardRecords(Records):
    """The records of shard `index` of `count`: written to a file of its own, beside the run's, which it only reads.

    The model forms the batches that a single process would form, and this deals them out (`mine`): so a run in shards has
    the numbers of a run in one piece, to the bit, whatever the dtype. What falls to other shards reads as NaN here: the
    answers of a model with these records are for nobody, only the records count.
    """

    def __init__(self, path: str | Path, run: Records, index: int, count: int) -> None:
        if not 0 <= index < count:
            raise ValueError(f"shard {index} of {count}: shards are numbered 0 to {count - 1}")
        super().__init__(path)
        self.index, self.count = index, count
        self._run, self._dealt = run, 0
        self._seen: set[str] = set()

    def get(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return what a single process would have by now: what the run recorded before its shards, and, as NaN, what was dealt.

        The same for all shards, as the dealing needs; any other key reads as NaN.
        """
        wanted = list(keys)
        dealt = {key: _nan() for key in wanted if key in self._seen}
        return defaultdict(_nan, dealt | self._run.get(wanted))

    def mine(self, items: Sequence[T], size: int, keys: Callable[[T], Iterable[str]]) -> list[T]:
        """Return the items of this shard's batches of `size`, without those whose keys its own file holds already."""
        dealt = [item for i, item in enumerate(items) if (self._dealt + i // size) % self.count == self.index]
        self._dealt += -(-len(items) // size)
        self._seen.update(key for item in items for key in keys(item))
        known = super().get(key for item in dealt for key in keys(item))
        return [item for item in dealt if not all(key in known for key in keys(item))]
