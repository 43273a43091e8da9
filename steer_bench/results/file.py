"""Results: the rows of a run in one JSON file, and in the samples that lm-eval writes.

    lm-eval's samples -> [results] -> statistics -> leaderboard

Knows nothing of models or judges; what a run did stands in its provenance, `Results.run`.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from steer_bench.files import read_json, write_whole
from steer_bench.results.measures import MEASURES, RATED
from steer_bench.results.provenance import Provenance
from steer_bench.results.rows import COLUMNS, RATING, TEXT_COLUMNS, Row, Rows

SCHEMA = "steer-bench-results"
VERSION = 3
"""Version 2 compared arms at factors of a grid: its rows have no level of damage."""


@dataclass(frozen=True)
class Results:
    """All rows of one run, and where they come from."""

    run: Provenance
    rows: Rows
    """Any rows may be given; they are kept as columns."""

    def __init__(self, run: Provenance, rows: Iterable[Row]) -> None:
        object.__setattr__(self, "run", run)
        object.__setattr__(self, "rows", Rows.of(rows))
        repeated = self.rows.repeated()
        if repeated is not None:
            raise ValueError(f"two rows for {repeated.where}; results hold each measurement once")


def save_results(path: str | Path, results: Results) -> None:
    """Write results as JSON: whole or not at all, and the same bytes for the same results.

    Rows are sorted by key, floats carry 6 significant digits. Raises ValueError for values that JSON cannot hold.
    """
    columns = results.rows.ordered().columns()
    document = {
        "schema": SCHEMA,
        "version": VERSION,
        "run": _six_digits(results.run.model_dump(mode="json")),
        "rows": _six_digits(columns),
    }
    document["sha256"] = _digest(document["run"], document["rows"])
    parts = [f'"{name}": {json.dumps(value, allow_nan=False, sort_keys=True)}' for name, value in document.items()]
    write_whole(path, "{" + ",\n".join(parts) + "}\n")


def load_results(path: str | Path) -> Results:
    """Read what `save_results` wrote. Raises ValueError naming the file and what is wrong with it."""
    document = read_json(path, "give a file from leaderboards/results or a run", finite=False)  # the row is named below
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"{path} has schema {schema!r}, not {SCHEMA!r}; give a results file of steer-bench")
    if document.get("version") != VERSION:
        raise ValueError(
            f"{path} has version {document.get('version')!r}, this steer-bench reads {VERSION}; report the run again, or "
            "install the release that wrote it"
        )
    run, columns = document.get("run"), document.get("rows")
    if not isinstance(run, dict) or not isinstance(columns, dict):
        raise ValueError(f"{path} lacks 'run' or 'rows'; report the run again")
    _check_columns(path, columns)
    try:
        results = Results(Provenance.model_validate_json(json.dumps(run), strict=True), Rows.from_columns(columns))
        _check_range(results.rows)
        if document.get("sha256") != _digest(run, columns):
            raise ValueError("its numbers are not those that were saved (SHA-256 differs); report the run again")
        return results
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, ("run", *fault["loc"])))
        raise ValueError(f"{path}: {key}: {fault['msg']}; report the run again") from error
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from error


def _digest(run: object, columns: object) -> str:
    """Return the SHA-256 of what a results file says: a number that was changed by hand, or half a download, is found."""
    return hashlib.sha256(json.dumps([run, columns], sort_keys=True).encode()).hexdigest()


def _check_columns(path: str | Path, columns: Mapping[str, object]) -> None:
    """Raise ValueError unless every column is there, is as long as the others, and has its type."""
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise ValueError(f"{path} lacks the column {missing[0]!r} in 'rows'; report the run again")
    unknown = [name for name in columns if name not in COLUMNS and not name.startswith(RATING)]
    if unknown:
        raise ValueError(f"{path} has an unknown column {unknown[0]!r} in 'rows'; report the run again")
    tasks = columns["task"]
    n_rows = len(tasks) if isinstance(tasks, list) else 0
    for name, values in columns.items():
        if not isinstance(values, list) or len(values) != n_rows:
            raise ValueError(f"{path}: column {name!r} is not a list as long as 'task'; report the run again")
        wrong = set(map(type, values)) - _types(name)
        if wrong:
            value = next(value for value in values if type(value) in wrong)
            raise ValueError(f"{path}: column {name!r} holds {value!r}; report the run again")


def _check_range(rows: Rows) -> None:
    """Raise ValueError, naming the row, for a value or rating that its measure cannot have."""
    for task, measure in MEASURES.items():
        mine = rows.where(task=task)
        limits = {"value": measure.bounds} | {RATING + aspect: bounds for aspect, bounds in RATED.items()}
        for name, bounds in limits.items():
            if bounds is None or name not in mine.numbers:
                continue
            values = mine.numbers[name]
            outside = np.flatnonzero((values < bounds[0]) | (values > bounds[1]))
            if len(outside):
                place = int(outside[0])
                raise ValueError(
                    f"{name} {values[place]:g} in {mine[place].where}; it lies between {bounds[0]:g} and {bounds[1]:g}"
                )


def _types(column: str) -> set[type]:
    """Return the types a column may hold."""
    if column in TEXT_COLUMNS:
        return {str}
    if column == "tokens":
        return {int}
    return {int, float, type(None)} if column == "value" or column.startswith(RATING) else {int, float}


def _six_digits(value: object) -> object:
    """Return the same value with every float at 6 significant digits (and no negative zero).

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
