"""lm-eval's samples: the rows and replies of our tasks in the files that lm-eval writes.

    samples_TASK_*.jsonl -> [rows, samples] -> results file, sample browser

The newest file of each task counts.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steer_bench.results.measures import REPLIES
from steer_bench.results.rows import TEXT_COLUMNS, Row
from steer_bench.results.samples import Sample, cut

WORDS = "words"
"""Key of the judge's own words beside a row; not part of the row."""


def load_rows(folder: str | Path) -> list[Row]:
    """Return the rows in the newest samples file of each task that lm-eval wrote under `folder`, sorted by key.

    Raises ValueError, naming file and line, for a sample that carries no row of ours.
    """
    return sorted((row for row, _, _ in _read_samples(folder)), key=lambda row: row.key)


def newest_samples(folder: str | Path) -> dict[str, Path]:
    """Return task -> the newest samples file of it that lm-eval wrote under `folder`."""
    newest: dict[str, Path] = {}
    for file in sorted(Path(folder).rglob("samples_*.jsonl"), key=lambda path: path.name):
        newest[file.name.removeprefix("samples_").rsplit("_", 1)[0]] = file
    return newest


def _read_samples(folder: str | Path) -> Iterator[tuple[Row, dict[str, str], dict[str, Any]]]:
    """Yield our row, the judge's own words by aspect, and lm-eval's sample, of the newest samples file of each task."""
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
                    fields = dict(sample[sample["metrics"][0]])
                    words = fields.pop(WORDS, None) or {}
                    yield Row(**fields), words, sample
                except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
                    raise ValueError(
                        f"{file}:{number}: not a sample of a steer-bench task ({error!r}); evaluate again"
                    ) from error


def load_samples(folder: str | Path) -> list[Sample]:
    """Return the replies in the newest samples files that lm-eval wrote under `folder`, in the order of their keys."""
    samples = []
    for row, words, sample in _read_samples(folder):
        if row.task not in REPLIES:  # scored texts, which nobody wrote in the run
            continue
        reply = (sample.get("filtered_resps") or sample.get("resps") or [""])[0]
        samples.append(
            Sample(
                **{key: getattr(row, key) for key in TEXT_COLUMNS},
                factor=float(row.factor),
                level=row.level,
                prompt=cut(str(sample["doc"]["text"])),
                reply=cut(reply if isinstance(reply, str) else json.dumps(reply)),
                value=row.value,
                ratings=row.ratings,
                words={aspect: cut(str(text)) for aspect, text in words.items()},
            )
        )
    return sorted(samples, key=lambda s: (s.group, s.arm, s.source, s.level, s.factor))
