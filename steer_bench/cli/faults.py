"""What a fault looks like to the user: one line, what happened, where, how to go on; no key and no escape sequence in it."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PATHS = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP,
)  # fmt: skip
"""What a path that cannot be read or written gives."""
_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|.?)|[\x00-\x08\x0b-\x1f\x7f-\x9f]", re.DOTALL
)


class Fault(Exception):
    """A run that stopped and can be continued: exit code 4."""


def is_bad_path(error: BaseException) -> bool:
    """Tell whether a path that was given is at fault."""
    return isinstance(error, OSError) and error.errno in _PATHS


def printable(text: str) -> str:
    r"""Return the text without escape sequences and control characters, which a model's reply may hold, and without keys.

    >>> printable("a\x1b]0;title\x07b\x1b[31mc\rd\te")
    'abcd\te'
    """
    return redacted(_ESCAPES.sub("", text))


def redacted(text: str) -> str:
    """Return the text without what looks like a key, and without the values of the environment's keys and tokens."""
    from steer_bench.judge.calls import redact

    names = [name for name in os.environ if re.search(r"(?:_KEY|_TOKEN|_SECRET|_PASSWORD)$", name)]
    return redact(text, [os.environ[name] for name in names])


def explained(error: BaseException, folder: Path) -> str:
    """Say on one line what stopped a stage that wrote to `folder`."""
    for cause in _chain(error):
        if _is_disk_full(cause):
            named = getattr(cause, "filename", None)
            where = Path(named if isinstance(named, str) else folder)
            return f"disk full: {where} could not be written ({free_bytes(folder):,} bytes free there); free space"
    said = " ".join(str(error).split())
    plain = isinstance(error, ValueError) or type(error).__module__.startswith("steer_bench.")
    return said if plain and said else f"{type(error).__name__}: {said}".rstrip(": ")


def free_bytes(folder: Path) -> int:
    """Return the free bytes on the disk of a folder, or of its nearest parent that exists."""
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL
    return isinstance(error, sqlite3.OperationalError) and bool(re.search("disk is full|disk I/O error", str(error)))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
