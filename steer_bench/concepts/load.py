"""Loaders: JSON Lines, AxBench folders, parquet files and Hugging Face data sets become concepts.

pyarrow and datasets are imported only where such a source is read.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from steer_bench.concepts import axbench
from steer_bench.concepts.concept import Concept, Prompt
from steer_bench.concepts.lines import Record, SeenAt, at, check_keys, read_lines, read_unique, string, strings

_CONCEPT_KEYS = ("id", "description", "genre", "positives", "negatives", "kind", "rule")


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
        table, metadata = path / "train_data.parquet", path / "metadata.jsonl"
        if not table.is_file():
            raise ValueError(f"{path}: an AxBench folder needs {table.name}; give such a folder or a .jsonl file")
        concepts = axbench.concepts_of(
            _read_parquet(table), str(table), axbench.set_name(path), axbench.read_metadata(metadata)
        )
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
    return _from_rows(
        loaded[split].to_list(), source, "-".join(filter(None, (name.rstrip("/").split("/")[-1], config)))
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _from_rows(rows: Sequence[Mapping[str, object]], source: str, name: str) -> list[Concept]:
    """Return the concepts of a table with AxBench's columns, or with ours where there is a column "positives"."""
    if rows and "positives" in rows[0]:
        given = ({key: value for key, value in row.items() if value is not None} for row in rows)
        return from_records([Record(f"{source}, row {i}", row) for i, row in enumerate(given)])
    return axbench.concepts_of(rows, source, name)
