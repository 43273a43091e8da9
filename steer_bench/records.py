"""Records: every finished reply and log-likelihood on disk before the next batch starts, so that a run can be continued.

One SQLite file (WAL) a run; a record is text under a key that hashes everything its value depends on. Records are added and
read, never changed. Several processes of one machine may write one file; SQLite is not shared over a network, so a shard of a
run writes a file of its own, and files are merged. Knows nothing of models.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def record_key(**parts: Any) -> str:
    """SHA-256 of canonical JSON. Raises ValueError for NaN or Inf.

    >>> record_key(a=1, b=2) == record_key(b=2, a=1)
    True
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


class Records:
    """Key-value records in a SQLite file, or in memory only (path None)."""

    def __init__(self, path: str | Path | None = None) -> None:
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path or ":memory:", timeout=60, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("CREATE TABLE IF NOT EXISTS records (key TEXT PRIMARY KEY, value TEXT NOT NULL)")

    def get(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those keys that are recorded."""
        found, wanted = {}, list(dict.fromkeys(keys))
        for start in range(0, len(wanted), 500):
            part = wanted[start : start + 500]
            marks = ",".join("?" * len(part))
            rows = self._db.execute(f"SELECT key, value FROM records WHERE key IN ({marks})", part)
            found.update({key: json.loads(value) for key, value in rows})
        return found

    def add(self, values: Mapping[str, Any]) -> None:
        """Record values, all or none; a key that is there already keeps its value."""
        rows = [(key, json.dumps(value, allow_nan=False)) for key, value in values.items()]
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany("INSERT OR IGNORE INTO records VALUES (?, ?)", rows)
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
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
