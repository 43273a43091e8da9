"""lm-eval's samples: the rows and replies of our tasks in the files that lm-eval writes.

    samples_TASK_*.jsonl -> [rows, samples] -> results file, sample browser

The newest file of each task counts.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steer_bench.results.measures import REPLIES
from steer_bench.results.rows import Row
from steer_bench.results.samples import Sample, cut

WORDS = "words"
"""Key of the judge's own words beside a row; not part of the row."""


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


def load_samples(folder: str | Path) -> list[Sample]:
    """The replies in the newest samples files that lm-eval wrote under `folder`, in the order of their keys."""
    samples = []
    for sample, row in read_samples(folder):
        if row.get("task") not in REPLIES:  # scored texts, which nobody wrote in the run
            continue
        doc, replies = sample["doc"], sample.get("filtered_resps") or sample.get("resps") or [""]
        reply = replies[0] if isinstance(replies[0], str) else json.dumps(replies[0])
        keys = {key: str(row[key]) for key in ("task", "target", "source", "arm", "concept", "item", "role", "reason")}
        samples.append(
            Sample(
                **keys,
                factor=float(row["factor"]),
                prompt=cut(str(doc["text"])),
                reply=cut(reply),
                value=row["value"],
                ratings=row.get("ratings") or {},
                words={aspect: cut(str(text)) for aspect, text in (row.get("words") or {}).items()},
            )
        )
    return sorted(samples, key=lambda s: (s.group, s.arm, s.source, s.factor))
