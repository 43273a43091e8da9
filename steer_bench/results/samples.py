"""Samples: the replies of a run beside their ratings, for people to read: one JSON file a run, apart from its numbers.

    lm-eval's samples + the concepts' texts -> [samples] -> RUN/samples.json -> sample browser of the page

Everything in it but the numbers was written by models or by others: it is shown as text, never as markup.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from steer_bench.files import digest, read_json, write_whole

SCHEMA = "steer-bench-samples"
VERSION = 2
KEYS = ("task", "target", "source", "arm", "concept", "item", "role", "reason", "prompt")
"""Columns that hold few distinct texts."""
MAX_SAMPLES = 50_000
MAX_BYTES = 32 * 1024 * 1024
"""What a page holds at most, all its runs together."""
MAX_CHARACTERS = 4_000
"""A longer reply or judge's answer is cut there, and says so."""
MAX_TEXTS, MAX_TEXT = 3, 1_000


Group = tuple[str, str, str, str]
"""Task, target, concept and item."""


@dataclass(frozen=True)
class Sample:
    """One reply."""

    task: str
    target: str
    source: str
    arm: str
    concept: str
    factor: float
    item: str
    role: str
    prompt: str
    reply: str
    value: float | None
    reason: str = ""
    level: float = 0.0
    """Damage that the factor was found for; 0 where the factor was given."""
    ratings: Mapping[str, float] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    """Aspect -> the judge's own words."""

    @property
    def group(self) -> Group:
        """What stands side by side: the replies of all arms to one prompt for one concept on one target."""
        return (self.task, self.target, self.concept, self.item)


@dataclass(frozen=True)
class Origin:
    """What a concept's vector was learned from."""

    description: str
    genre: str
    texts: tuple[str, ...]
    negatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class Samples:
    """The replies of one run."""

    run: str
    judge: str
    samples: tuple[Sample, ...]
    concepts: Mapping[str, Origin]
    total: int
    rule: str = ""
    """How those here were chosen of `total`; "" where all are here."""


def cut(text: str, limit: int = MAX_CHARACTERS) -> str:
    r"""Return text that can be written down: at most `limit` characters, no half of a surrogate pair.

    >>> cut("abcdef", 3), cut("a\ud800")
    ('abc… [3 more characters]', 'a\ufffd')
    """
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text if len(text) <= limit else f"{text[:limit]}… [{len(text) - limit} more characters]"


def origin(description: str, genre: str, texts: Sequence[str], negatives: Sequence[str] = ()) -> Origin:
    """Return a concept's origin, its first texts, cut."""
    some, others = (tuple(cut(text, MAX_TEXT) for text in side[:MAX_TEXTS]) for side in (texts, negatives))
    return Origin(description, genre, some, others)


def sample_for_page(runs: Sequence[Samples], limit: int = MAX_SAMPLES, max_bytes: int = MAX_BYTES) -> list[Samples]:
    """Return at most `limit` samples and `max_bytes` of text over all runs.

    Whole prompts are kept, with the replies of all arms and factors, drawn by a hash of their names and evenly over
    runs, tasks, targets and concepts; what is dropped is counted and `rule` says so.
    """
    runs = list(runs)
    sizes = [sum(map(_size, one.samples)) for one in runs]
    if sum(len(one.samples) for one in runs) <= limit and sum(sizes) <= max_bytes:
        return runs
    by_group: dict[tuple[int, Group], list[Sample]] = defaultdict(list)
    for place, one in enumerate(runs):
        for sample in one.samples:
            by_group[place, sample.group].append(sample)
    n_before: Counter[tuple[int, str, str, str]] = Counter()
    queue = []
    for order, place, group in sorted((digest(*group), place, group) for place, group in by_group):
        queue.append((n_before[place, *group[:3]], order, place, group))
        n_before[place, *group[:3]] += 1
    kept: list[list[Sample]] = [[] for _ in runs]
    n_left, bytes_left = limit, max_bytes
    for _, _, place, group in sorted(queue):
        members = by_group[place, group]
        size = sum(map(_size, members))
        if len(members) > n_left or size > bytes_left:
            break
        kept[place] += members
        n_left, bytes_left = n_left - len(members), bytes_left - size
    return [_thinned(one, some) for one, some in zip(runs, kept, strict=True)]


def _thinned(one: Samples, kept: Sequence[Sample]) -> Samples:
    if len(kept) == len(one.samples):
        return one
    rule = "whole prompts with the replies of all arms, drawn by a hash of their names and evenly over tasks, targets and concepts"
    used = {sample.concept for sample in kept}
    concepts = {key: value for key, value in one.concepts.items() if key in used}
    order = sorted(kept, key=lambda s: (s.group, s.arm, s.source, s.level, s.factor))
    return replace(one, samples=tuple(order), concepts=concepts, rule=rule)


def _size(sample: Sample) -> int:
    """Return the bytes of a sample in a page, roughly."""
    return len(sample.reply.encode()) + sum(len(text.encode()) for text in sample.words.values()) + 60


def to_document(samples: Samples) -> dict[str, object]:
    """Return the samples as JSON values: the schema of the file, and of each run in the page's data block.

    `keys`: column -> distinct texts, for KEYS; `codes`: column -> place in `keys` of each sample. `factor`, `level`,
    `value` and `reply` have an entry per sample; `ratings` and `words` one per aspect and sample, null or "" where there is none.
    """
    rows = samples.samples
    keys, codes = {}, {}
    for name in KEYS:
        distinct = {text: place for place, text in enumerate(dict.fromkeys(getattr(row, name) for row in rows))}
        keys[name], codes[name] = list(distinct), [distinct[getattr(row, name)] for row in rows]
    aspects = sorted({aspect for row in rows for aspect in row.ratings})
    spoken = sorted({aspect for row in rows for aspect in row.words})
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "run": samples.run,
        "judge": samples.judge,
        "total": samples.total,
        "rule": samples.rule,
        "concepts": {
            key: {"description": o.description, "genre": o.genre, "texts": o.texts, "negatives": o.negatives}
            for key, o in samples.concepts.items()
        },
        "keys": keys,
        "codes": codes,
        "factor": [_short(row.factor) for row in rows],
        "level": [_short(row.level) for row in rows],
        "value": [_short(row.value) for row in rows],
        "reply": [row.reply for row in rows],
        "ratings": {aspect: [_short(row.ratings.get(aspect)) for row in rows] for aspect in aspects},
        "words": {aspect: [row.words.get(aspect, "") for row in rows] for aspect in spoken},
    }


def save_samples(path: str | Path, samples: Samples) -> None:
    """Write samples as JSON, whole or not at all; the same bytes for the same samples."""
    write_whole(path, json.dumps(to_document(samples), ensure_ascii=False, allow_nan=False, sort_keys=True) + "\n")


def load_document(path: str | Path) -> Samples:
    """Read what `save_samples` wrote. Raises ValueError naming the file and what is wrong with it."""
    document = read_json(path, "report the run again")
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA or document.get("version") != VERSION:
        raise ValueError(
            f"{path} has schema {schema!r}, version {document.get('version') if schema else None!r}, not {SCHEMA!r}, {VERSION}; "
            "report the run again, or remove the file for a page without samples"
        )
    try:
        n = len(document["reply"])
        columns = {name: [document["keys"][name][code] for code in document["codes"][name]] for name in KEYS}
        columns |= {name: document[name] for name in ("factor", "level", "value", "reply")}
        columns |= {"ratings": _by_sample(document["ratings"], n), "words": _by_sample(document["words"], n)}
        samples = tuple(
            Sample(**dict(zip(columns, cells, strict=True))) for cells in zip(*columns.values(), strict=True)
        )
        concepts = {
            key: Origin(o["description"], o["genre"], tuple(o["texts"]), tuple(o["negatives"]))
            for key, o in document["concepts"].items()
        }
        return Samples(document["run"], document["judge"], samples, concepts, document["total"], document["rule"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: not whole ({error!r}); report the run again, or remove the file for a page without samples"
        ) from error


def samples_beside(results: str | Path) -> Samples | None:
    """Return the samples of a results file, if it has any: RUN/samples.json of RUN/results.json, ../samples/NAME.json of NAME.json."""
    results = Path(results)
    beside = (
        results.with_name("samples.json")
        if results.name == "results.json"
        else results.parent.parent / "samples" / results.name
    )
    return load_document(beside) if beside.is_file() else None


def _by_sample(columns: Mapping[str, Sequence[object]], n: int) -> list[dict[str, object]]:
    """Return columns as one mapping a sample, without what is empty."""
    rows: list[dict[str, object]] = [{} for _ in range(n)]
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            if value not in (None, ""):
                row[name] = value
    return rows


def _short(value: float | None) -> float | None:
    """Return a number at 4 significant digits; None for none.

    >>> _short(0.123456), _short(None), _short(2.0)
    (0.1235, None, 2)
    """
    if value is None or not math.isfinite(value):
        return None
    short = float(f"{value:.4g}")
    return int(short) if short.is_integer() else short
