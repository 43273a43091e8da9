"""Records: every finished reply and log-likelihood on disk before the next batch starts, so that a run can be continued.

One SQLite file (WAL) a run; a record is text under a key that hashes everything its value depends on. Records are added and
read, never changed. Knows nothing of models.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


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

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM records").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()
