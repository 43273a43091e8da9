"""Records: every finished reply and log-likelihood on disk before the next batch starts, so that a run can be continued.

One SQLite file (WAL) a run; a record is text under a key that hashes everything its value depends on. Records are added and
read, never changed. Each carries a digest: one whose bytes were changed on disk is computed again, never believed. Several
processes of one machine may write one file; SQLite is not shared over a network, so a shard of a run writes a file of its own,
and files are merged. Knows nothing of models.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

_TABLE = "CREATE TABLE IF NOT EXISTS records (key TEXT PRIMARY KEY, value TEXT NOT NULL, digest TEXT NOT NULL)"


def record_key(**parts: Any) -> str:
    """SHA-256 of canonical JSON. Raises ValueError for NaN or Inf.

    >>> record_key(a=1, b=2) == record_key(b=2, a=1)
    True
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def seal(*texts: str) -> str:
    """Digest of a record's texts, stored beside them: a record whose seal is broken was changed on disk."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def readable(data: bytes) -> str:
    """Text of a database: damaged text breaks its seal, not the query."""
    return data.decode("utf-8", "replace")


def explained(path: Path | None, error: sqlite3.DatabaseError) -> Exception:
    """A damaged file as a ValueError with the way on; a full disk, a lock and the like as they are."""
    damaged = not isinstance(error, sqlite3.OperationalError) or "no such column" in str(error)
    if path is None or not damaged:
        return error
    return ValueError(
        f"{path}: damaged, or not a records file of this steer-bench ({error}); what it holds can not be read. Move it "
        f"and its -wal and -shm files away (mv {path} {path}.damaged) and run the same command again: it is computed again"
    )


class Records:
    """Key-value records in a SQLite file, or in memory only (path None).

    Raises ValueError, saying how to go on, for a file that is damaged or not ours.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path or ":memory:", timeout=60, isolation_level=None)
        self._db.text_factory = readable
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(_TABLE)
            self._db.execute("SELECT key, value, digest FROM records LIMIT 1").fetchall()
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise explained(self.path, error) from error

    def get(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those keys that are recorded, whole and unchanged."""
        found, damaged, wanted = {}, [], list(dict.fromkeys(keys))
        try:
            for start in range(0, len(wanted), 500):
                part = wanted[start : start + 500]
                marks = ",".join("?" * len(part))
                rows = self._db.execute(f"SELECT key, value, digest FROM records WHERE key IN ({marks})", part)
                for key, value, digest in rows:
                    if isinstance(value, str) and digest == seal(key, value):
                        found[key] = json.loads(value)
                    else:
                        damaged.append(key)
            if damaged:  # so that what is computed again can take their place
                logger.warning("%s: %d records are damaged and computed again", self.path, len(damaged))
                with contextlib.suppress(sqlite3.OperationalError):  # opened to be read only
                    self._db.executemany("DELETE FROM records WHERE key = ?", [(key,) for key in damaged])
        except sqlite3.DatabaseError as error:
            raise explained(self.path, error) from error
        return found

    def add(self, values: Mapping[str, Any]) -> None:
        """Record values, all or none; a key that is there already keeps its value."""
        texts = [(key, json.dumps(value, allow_nan=False)) for key, value in values.items()]
        rows = [(key, text, seal(key, text)) for key, text in texts]
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT OR IGNORE INTO records VALUES (?, ?, ?)", rows)
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:  # a full disk has rolled back already
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.DatabaseError):
                raise explained(self.path, error) from error
            raise

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


def read_only(path: Path) -> Records:
    """Records to be read while nobody writes them: safe for readers on several machines. None there: empty records."""
    if not path.is_file():
        return Records()
    records = Records()
    records._db.close()
    unused = path.with_name(path.name + "-wal")
    settled = "&immutable=1" if not unused.is_file() or not unused.stat().st_size else ""
    records._db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro{settled}", uri=True, timeout=60)
    return records


_NAN = ("nan", False)


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
        """What a single process would have by now: what the run recorded before its shards began, and, as NaN, what was dealt.

        The same for all shards, as the dealing needs.
        """
        wanted = list(keys)
        dealt = {key: list(_NAN) for key in wanted if key in self._seen}
        return _OthersAreNaN(dealt | self._run.get(wanted))

    def mine(self, items: Sequence[T], size: int, keys: Callable[[T], Iterable[str]]) -> list[T]:
        """The items of this shard's batches of `size`, without those whose keys its own file holds already."""
        dealt = [item for i, item in enumerate(items) if (self._dealt + i // size) % self.count == self.index]
        self._dealt += -(-len(items) // size)
        self._seen.update(key for item in items for key in keys(item))
        wanted = [list(keys(item)) for item in dealt]
        known = super().get(key for item_keys in wanted for key in item_keys)
        return [
            item for item, item_keys in zip(dealt, wanted, strict=True) if not all(key in known for key in item_keys)
        ]


class _OthersAreNaN(dict[str, Any]):
    """A key that is not there reads as no number."""

    def __missing__(self, key: str) -> list[Any]:
        return list(_NAN)
