"""Results: the rows of a run in one JSON file, and in the samples that lm-eval writes.

    lm-eval's samples -> [results] -> statistics -> leaderboard

Knows nothing of models or judges; what a run did stands in its provenance, `Results.run`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steer_bench.files import write_whole
from steer_bench.results.rows import COLUMNS, RATING, TEXT_COLUMNS, Row, Rows

SCHEMA = "steer-bench-results"
VERSION = 1

WORDS = "words"
"""Key of the judge's own words beside a row in lm-eval's samples; not part of the row."""


@dataclass(frozen=True)
class Results:
    """All rows of one run, and where they come from."""

    run: Mapping[str, Any]
    """Provenance: name, created, versions, models, judge, splits, factors, seeds, adapters, geometry, complete, ..."""
    rows: Rows
    """Any rows may be given; they are kept as columns."""

    def __init__(self, run: Mapping[str, Any], rows: Iterable[Row]) -> None:
        object.__setattr__(self, "run", run)
        object.__setattr__(self, "rows", Rows.of(rows))
        repeated = self.rows.repeated()
        if repeated is not None:
            raise ValueError(f"two rows for {repeated.where}; results hold each measurement once")


def save_results(path: str | Path, results: Results) -> None:
    """Write results as JSON: whole or not at all, and the same bytes for the same results.

    Rows are sorted by key, floats carry 6 significant digits. Raises ValueError for values JSON can not hold.
    """
    columns = results.rows.ordered().columns()
    document = {"schema": SCHEMA, "version": VERSION, "run": _six_digits(results.run), "rows": _six_digits(columns)}
    parts = [f'"{name}": {json.dumps(value, allow_nan=False, sort_keys=True)}' for name, value in document.items()]
    write_whole(path, "{" + ",\n".join(parts) + "}\n")


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
        return Results(run=run, rows=Rows.from_columns(columns))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


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
