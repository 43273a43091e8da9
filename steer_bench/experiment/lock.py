"""The lock of a run folder: one process writes to it; a second is told who does.

The system's own file lock (flock), so a process that died, however, holds nothing: there is no stale lock to remove.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path


class RunLockedError(ValueError):
    """Another process is at work in the run folder."""


@contextmanager
def run_lock(folder: Path, name: str = ".lock") -> Iterator[None]:
    """Hold RUN/.lock within the block. Raises RunLockedError, naming process and host, where another process holds it.

    Shards, which run at the same time, have a lock each: `name`.
    Ranks above 0 of a multi-process run belong to the process of rank 0 and take no lock of their own.
    """
    from filelock import FileLock, Timeout

    if int(os.environ.get("RANK", "0") or 0) > 0:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / f"{name}.json"
    lock = FileLock(folder / name)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunLockedError(
            f"{folder}: {_said(holder)} is at work in this run folder; wait until it has ended, or stop it, then run the same "
            "command again"
        ) from None
    try:
        said = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        }
        holder.write_text(json.dumps(said))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _said(holder: Path) -> str:
    try:
        known = json.loads(holder.read_text())
        return f"process {known['pid']} on {known['host']} (since {known['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
