"""Loaders: JSON Lines, AxBench folders, parquet files and Hugging Face data sets become concepts.

pyarrow and datasets are imported only where such a source is read.
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from steer_bench.concepts.concept import Concept, Prompt, short, text_key
from steer_bench.concepts.lines import Record, SeenAt, at, check_keys, read_lines, read_unique, string, strings

logger = logging.getLogger(__name__)

_CONCEPT_KEYS = ("id", "description", "genre", "positives", "negatives", "kind", "rule")
_AXBENCH_COLUMNS = ("output", "output_concept", "concept_genre", "category", "concept_id")


def load_concepts(source: str | Path, *, limit: int | None = None) -> list[Concept]:
    """Load concepts from JSON Lines, an AxBench folder, a parquet file or "hf:owner/name[:config or subfolder]".

    JSON Lines: {"id", "description", "genre" (default "text"), "positives": [...], "negatives": [...]} per line, or without
    "negatives" where a line {"genre", "negatives"} gives the ones shared by that genre. A rule adds "kind": "rule" and
    "rule": its name. Published data (AxBench's rows) is taken as it is: repeated and empty texts are left out and logged.
    `limit` keeps the first concepts; the whole source is checked either way. Raises ValueError naming the file and the line.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; it has to be at least 1")
    if str(source).startswith("hf:"):
        concepts = _load_hub(str(source))
    elif (path := Path(source)).is_dir():
        concepts = _load_axbench(path)
    elif path.suffix == ".parquet":
        concepts = _from_rows(_read_parquet(path), str(path), path.stem)
    else:
        concepts = from_records(list(read_lines(path)))
    if not concepts:
        raise ValueError(f"{source}: no concept in it; give one JSON object per line, or another source")
    return concepts[:limit]


def load_texts(path: str | Path) -> list[str]:
    """Return the texts of a JSON Lines file of {"id", "text"}, in order. Each id and text may stand once."""
    return [record["text"] for _, record in read_unique(Path(path), ("id", "text"), "text")]


def load_prompts(path: str | Path) -> list[Prompt]:
    """Return the prompts of a JSON Lines file of {"id", "instruction"}, in order. Each id and instruction may stand once."""
    return [Prompt(**record) for _, record in read_unique(Path(path), ("id", "instruction"), "instruction")]


def from_records(records: Sequence[Record]) -> list[Concept]:
    """Return concepts from records; one without id and positives gives the negatives that a genre shares."""
    shared: dict[str, tuple[str, ...]] = {}
    genres, ids = SeenAt("the shared negatives of genre"), SeenAt("id")
    for place, value in records:
        check_keys(place, value, _CONCEPT_KEYS, required=("negatives", "genre") if _is_shared(value) else ("id",))
        if _is_shared(value):
            genre = string(place, value, "genre")
            genres.add(genre, place, key=genre)
            shared[genre] = strings(place, value, "negatives")
            if not shared[genre]:
                raise ValueError(f"{place}: negatives is empty; give at least one text")
    concepts = []
    for place, value in records:
        if _is_shared(value):
            continue
        concept = _concept(place, value, shared)
        ids.add(concept.id, place, key=concept.id.lower())
        concepts.append(concept)
    return concepts


def _is_shared(value: Mapping[str, object]) -> bool:
    return bool(value) and value.keys() <= {"genre", "negatives"}


def _concept(place: str, value: Mapping[str, object], shared: Mapping[str, tuple[str, ...]]) -> Concept:
    check_keys(place, value, _CONCEPT_KEYS, required=("id", "description", "positives"))
    fields = {key: string(place, value, key) for key in value if key not in ("positives", "negatives")}
    genre = fields.setdefault("genre", "text")
    if "negatives" not in value and genre not in shared:
        raise ValueError(
            f'{place}: no negatives; give "negatives", or a line {{"genre": {json.dumps(genre)}, "negatives": [...]}}'
        )
    negatives = strings(place, value, "negatives") if "negatives" in value else shared[genre]
    positives = strings(place, value, "positives")
    with at(place):
        return Concept(**fields, positives=positives, negatives=negatives)


def _load_axbench(folder: Path) -> list[Concept]:
    """Read train_data.parquet with the descriptions and genres of metadata.jsonl beside it."""
    table, metadata = folder / "train_data.parquet", folder / "metadata.jsonl"
    for path in (table, metadata):
        if not path.is_file():
            raise ValueError(f"{folder}: an AxBench folder needs {path.name}; give such a folder or a .jsonl file")
    described: dict[int, tuple[str, str]] = {}
    ids = SeenAt("concept_id")
    for place, value in read_lines(metadata):
        check_keys(place, value, tuple(value), required=("concept_id", "concept", "concept_genres_map"))
        number, concept = value["concept_id"], string(place, value, "concept")
        if type(number) is not int or number < 0:
            raise ValueError(f"{place}: concept_id is {short(str(number))}; it has to be a whole number from 0")
        genres = value["concept_genres_map"]
        genres = genres.get(concept) if isinstance(genres, dict) else None
        if not (isinstance(genres, list) and genres and isinstance(genres[0], str)):
            raise ValueError(f"{place}: concept_genres_map gives no genre for {short(concept)}")
        ids.add(str(number), place, key=number)
        described[number] = (concept, genres[0])
    return _from_rows(_read_parquet(table), str(table), folder.resolve().name or "axbench", described)


def _read_parquet(path: Path) -> list[dict[str, object]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: cannot be read as parquet ({_first_line(error)}); check the file") from None


def _load_hub(source: str) -> list[Concept]:
    """Read `hf:owner/name[:config or subfolder]`: the split "train", or the only one."""
    import datasets

    name, _, config = source.removeprefix("hf:").partition(":")
    try:
        try:
            loaded = datasets.load_dataset(name, config or None)
        except ValueError:
            if not config:
                raise
            loaded = datasets.load_dataset(name, data_dir=config)
    except Exception as error:  # the hub's errors have no common type
        raise ValueError(
            f"{source}: cannot load the data set {name!r} ({_first_line(error)}); check the name, the network, "
            "and whether HF_HUB_OFFLINE is set"
        ) from None
    split = "train" if "train" in loaded else next(iter(loaded)) if len(loaded) == 1 else None
    if split is None:
        raise ValueError(f"{source}: no split 'train' among {', '.join(map(str, loaded))}; name a subfolder after ':'")
    return _from_rows(loaded[split].to_list(), source, name.rstrip("/").split("/")[-1])


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _from_rows(
    rows: Sequence[Mapping[str, object]],
    source: str,
    prefix: str,
    described: Mapping[int, tuple[str, str]] | None = None,
) -> list[Concept]:
    """Return the concepts of a table with AxBench's columns, or with ours where there is a column "positives".

    AxBench: positives are the `output` of a concept_id's rows of category positive; negatives are the `output` of the
    rows with concept_id -1 and the same genre. `described`: concept_id -> (description, genre), from the metadata.
    """
    columns = set(rows[0]) if rows else set()
    if "positives" in columns:
        given = ({key: value for key, value in row.items() if value is not None} for row in rows)
        return from_records([Record(f"{source}, row {i}", row) for i, row in enumerate(given)])
    if missing := [name for name in _AXBENCH_COLUMNS if name not in columns]:
        raise ValueError(f"{source}: the column {missing[0]!r} is missing; AxBench's are {', '.join(_AXBENCH_COLUMNS)}")
    texts = _axbench_texts(rows, source)
    described = texts.described if described is None else described
    if unknown := sorted(texts.positives.keys() ^ described.keys()):
        here, there = ("the table", "metadata.jsonl")[:: 1 if unknown[0] in texts.positives else -1]
        raise ValueError(
            f"{source}: concept_id {unknown[0]} is in {here} but not in {there}; the two files do not belong together"
        )
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", prefix)[:90].strip("._-") or "axbench"
    concepts = []
    for number, (description, genre) in sorted(described.items()):
        with at(f"{source}, concept_id {number}"):
            if genre not in texts.negatives:
                raise ValueError(f"no negatives (rows with concept_id -1) of its genre {genre!r}")
            own = _unique(texts.positives[number], (), f"{source}, concept_id {number}, positives")
            others = _unique(texts.negatives[genre], own, f"{source}, concept_id {number}, negatives")
            concepts.append(Concept(f"{name}-{number}", description, genre, own, others))
    return concepts


class _Texts(NamedTuple):
    positives: dict[int, list[str]]
    """By concept_id."""
    negatives: dict[str, list[str]]
    """By genre."""
    described: dict[int, tuple[str, str]]
    """concept_id -> (description, genre), as the rows say it."""


def _axbench_texts(rows: Sequence[Mapping[str, object]], source: str) -> _Texts:
    texts = _Texts({}, {}, {})
    for i, row in enumerate(rows):
        place = f"{source}, row {i}"
        number = row["concept_id"]
        if type(number) is not int or number < -1:
            raise ValueError(f"{place}: concept_id is {short(str(number))}; it has to be a whole number from -1")
        text, genre, concept, category = (
            string(place, row, key) for key in ("output", "concept_genre", "output_concept", "category")
        )
        if number == -1:
            texts.negatives.setdefault(genre, []).append(text)
        elif category == "positive":
            if texts.described.setdefault(number, (concept, genre))[0] != concept:
                raise ValueError(
                    f"{place}: concept_id {number} is {short(concept)} here and {short(texts.described[number][0])} above: "
                    "several data sets in one; name a subfolder, as in hf:pyvene/axbench-concept500:2b/l20"
                )
            texts.positives.setdefault(number, []).append(text)
    return texts


def _unique(texts: Sequence[str], taken: Sequence[str], place: str) -> tuple[str, ...]:
    """Return `texts` without empty ones, repeats and those already `taken`; log how many are left out."""
    seen = {text_key(text) for text in taken} | {""}
    kept = []
    for text in texts:
        if text_key(text) not in seen:
            seen.add(text_key(text))
            kept.append(text)
    if len(kept) < len(texts):
        logger.warning("%s: left out %d repeated or empty of %d texts", place, len(texts) - len(kept), len(texts))
    return tuple(kept)
