"""Results: one row a measured value, one JSON file a run.

    lm-eval's samples -> [rows] -> statistics -> leaderboard

Knows nothing of models or judges; what a run did stands in its provenance, `Results.run`.
"""

import hashlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = "steer-bench-results"
VERSION = 1

TEXT_COLUMNS = ("task", "target", "source", "arm", "concept", "item", "role", "reason")
COLUMNS = ("task", "target", "source", "arm", "concept", "factor", "item", "role", "value", "tokens", "reason")
"""The order of Row's fields."""
INVALID = "non_finite"
"""Reason of a row whose logits held NaN or Inf: it has no value, and its reply is not rated."""
RATING = "ratings."
"""Prefix of the columns that hold ratings, e.g. `ratings.fluency`; null where a row has no such rating."""

WORDS = "words"
"""Key of the judge's own words beside a row in lm-eval's samples; not part of the row."""


@dataclass(frozen=True)
class Row:
    """One measured value with the keys that say what was measured."""

    task: str
    """concept_steering, concept_likelihood, steered_perplexity, rule_following, or another lm-eval task."""
    target: str
    """The model that was steered."""
    source: str
    """The model the vector was learned on; "" for arms that need none (unsteered, native, random, mean, prompt)."""
    arm: str
    """unsteered, native, an adapter (identity, linear, ...) or a control (random, mean, ...)."""
    concept: str
    """Concept or rule id; "" where the row is the same for all concepts."""
    factor: float
    """Steering factor; 0.0 for unsteered."""
    item: str
    """Id of the prompt or text."""
    role: str
    """"select" or "score" for prompts; "concept" or "neutral" for likelihood texts."""
    value: float | None
    """concept_steering 0..2; rule_following 0..1; likelihood: mean log-likelihood a token, nats. None: unscored."""
    tokens: int = 0
    """Tokens the value is averaged over (likelihood); length of the reply (generation)."""
    reason: str = ""
    """Why the row is unscored."""
    ratings: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Aspects concept, instruction, fluency, each 0..2; also perplexity and distinct_2 of the reply."""

    def __post_init__(self) -> None:
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"value {self.value} in {self.where}; a value is finite, or None with a reason")
        if not (math.isfinite(self.factor) and all(map(math.isfinite, self.ratings.values()))):
            raise ValueError(f"a factor or rating that is not finite in {self.where}; leave the rating out instead")

    @property
    def key(self) -> tuple[str, str, str, str, str, float, str, str]:
        """What makes a row: no two rows of a run share it."""
        return (self.task, self.target, self.source, self.arm, self.concept, self.factor, self.item, self.role)

    @property
    def where(self) -> str:
        """The key in words, for messages."""
        names = ("task", "target", "source", "arm", "concept", "factor", "item", "role")
        return ", ".join(f"{name}={value!r}" for name, value in zip(names, self.key, strict=True))


@dataclass(frozen=True)
class Results:
    """All rows of one run, and where they come from."""

    run: Mapping[str, Any]
    """Provenance: name, created, versions, models, judge, splits, factors, seeds, adapters, geometry, complete, ..."""
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        seen = set()
        for row in self.rows:
            if row.key in seen:
                raise ValueError(f"two rows for {row.where}; results hold each measurement once")
            seen.add(row.key)


def save_results(path: str | Path, results: Results) -> None:
    """Write results as JSON: whole or not at all, and the same bytes for the same results.

    Rows are sorted by key, floats carry 6 significant digits. Raises ValueError for values JSON can not hold.
    """
    rows = sorted(results.rows, key=lambda row: row.key)
    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in COLUMNS}
    for aspect in sorted({aspect for row in rows for aspect in row.ratings}):
        columns[RATING + aspect] = [row.ratings.get(aspect) for row in rows]
    document = {"schema": SCHEMA, "version": VERSION, "run": _six_digits(results.run), "rows": _six_digits(columns)}
    parts = [f'"{name}": {json.dumps(value, allow_nan=False, sort_keys=True)}' for name, value in document.items()]
    write_atomic(path, "{" + ",\n".join(parts) + "}\n")


def load_results(path: str | Path) -> Results:
    """Read what `save_results` wrote. Raises ValueError naming the file and what is wrong with it."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}); give a file from leaderboards/results or a run") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"{path} has schema {schema!r}, not {SCHEMA!r}; give a results file of steer-bench")
    if document.get("version") != VERSION:
        raise ValueError(
            f"{path} has version {document.get('version')!r}, this steer-bench reads {VERSION}; "
            "install the release that wrote it, or report the run again"
        )
    run, columns = document.get("run"), document.get("rows")
    if not isinstance(run, dict) or not isinstance(columns, dict):
        raise ValueError(f"{path} lacks 'run' or 'rows'; report the run again")
    _check_columns(path, columns)
    try:
        return Results(run=run, rows=_rows(columns))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write a file whole or leave the old one: temporary file beside it, fsync, rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".write-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _check_columns(path: str | Path, columns: Mapping[str, Any]) -> None:
    """Every column is there, a list of the common length, of its type."""
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise ValueError(f"{path} lacks the column {missing[0]!r} in 'rows'; report the run again")
    unknown = [name for name in columns if name not in COLUMNS and not name.startswith(RATING)]
    if unknown:
        raise ValueError(f"{path} has an unknown column {unknown[0]!r} in 'rows'; report the run again")
    n_rows = len(columns["task"]) if isinstance(columns["task"], list) else 0
    for name, values in columns.items():
        if not isinstance(values, list) or len(values) != n_rows:
            raise ValueError(f"{path}: column {name!r} is not a list as long as 'task'; report the run again")
        wrong = set(map(type, values)) - _types(name)
        if wrong:
            value = next(value for value in values if type(value) in wrong)
            raise ValueError(f"{path}: column {name!r} holds {value!r}; report the run again")


def _rows(columns: Mapping[str, list[Any]]) -> tuple[Row, ...]:
    """Rows of checked columns; equal texts become one object, for the few names of a run stand in every row."""
    sides: list[Iterable[Any]] = [map(sys.intern, columns[n]) if n in TEXT_COLUMNS else columns[n] for n in COLUMNS]
    aspects = [name.removeprefix(RATING) for name in columns if name.startswith(RATING)]
    if aspects:
        rated = zip(*(columns[RATING + aspect] for aspect in aspects), strict=True)
        sides.append(
            {aspect: one for aspect, one in zip(aspects, given, strict=True) if one is not None} for given in rated
        )
    return tuple(Row(*values) for values in zip(*sides, strict=True))


def _types(column: str) -> set[type]:
    """What a column may hold."""
    if column in TEXT_COLUMNS:
        return {str}
    if column == "tokens":
        return {int}
    return {int, float, type(None)} if column == "value" or column.startswith(RATING) else {int, float}


def _six_digits(value: Any) -> Any:
    """The same value with every float at 6 significant digits (and no negative zero).

    >>> _six_digits({"a": [0.12345678, 3, None]})
    {'a': [0.123457, 3, None]}
    """
    if isinstance(value, float):
        return float(f"{value:.6g}") + 0.0
    if isinstance(value, Mapping):
        return {str(key): _six_digits(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_six_digits(inner) for inner in value]
    return value


def load_rows(folder: str | Path) -> list[Row]:
    """The rows in the newest samples file of each task that lm-eval wrote under `folder`, sorted by key.

    Raises ValueError, naming file and line, for a sample that carries no row of ours.
    """
    rows = [Row(**{key: value for key, value in row.items() if key != WORDS}) for _, row in read_samples(folder)]
    return sorted(rows, key=lambda row: row.key)


def newest_samples(folder: str | Path) -> dict[str, Path]:
    """Task -> the newest samples file of it that lm-eval wrote under `folder`."""
    newest: dict[str, Path] = {}
    for file in sorted(Path(folder).rglob("samples_*.jsonl"), key=lambda path: path.name):
        newest[file.name.removeprefix("samples_").rsplit("_", 1)[0]] = file
    return newest


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_samples(folder: str | Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(lm-eval's sample, our row in it) of the newest samples file of each task under `folder`.

    A row may hold, beyond Row's fields, `words`: the judge's own words by aspect.
    """
    newest = newest_samples(folder)
    if not newest:
        raise ValueError(
            f"{folder}: no samples_*.jsonl of lm-eval; run steer-bench evaluate, or lm_eval with --log_samples"
        )
    for file in newest.values():
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    sample = json.loads(line)
                    row = sample[sample["metrics"][0]]
                    Row(**{key: value for key, value in row.items() if key != WORDS})
                except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
                    raise ValueError(
                        f"{file}:{number}: not a sample of a steer-bench task ({error!r}); evaluate again"
                    ) from error
                yield sample, row
