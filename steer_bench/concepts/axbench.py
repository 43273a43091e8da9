"""AxBench's data sets (Wu et al. 2025, arXiv 2501.17148): a table of texts, and metadata.jsonl, which describes its concepts.

    rows of a table, metadata -> concepts

A concept_id is the row of the concept in AxBench's weights too (`vectors.formats.axbench`), so ids are made here for both.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from steer_bench.concepts.concept import Concept, short, text_key
from steer_bench.concepts.lines import SeenAt, at, check_keys, read_lines, string

logger = logging.getLogger(__name__)

COLUMNS = ("output", "output_concept", "concept_genre", "category", "concept_id")
_STEPS = ("generate", "train", "inference", "evaluate")
"""Folders that AxBench makes for every set alike."""


class Described(NamedTuple):
    """What metadata.jsonl says of a concept."""

    description: str
    genres: tuple[str, ...]
    """The first is the one that it is steered in."""
    id: str
    """Its key `id`, which we write; else ""."""


def set_name(folder: Path) -> str:
    """Return the name of a data set: its folder's; of a folder that every set has (generate, train), the name of the one above."""
    folder = folder.resolve()
    return folder.parent.name if folder.name in _STEPS and folder.parent.name else folder.name


def concept_name(set_name: str, number: int) -> str:
    """Return the id of a concept: SET-concept_id."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', set_name)[:90].strip('._-') or 'axbench'}-{number}"


def read_metadata(path: Path, *, needs: Sequence[str] = ("concept", "concept_genres_map")) -> dict[int, Described]:
    """Return {concept_id: what is said of it}. `needs`: the keys that each line has to have beside concept_id.

    Raises ValueError, naming the lines, for a concept_id or an id that stands twice.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; an AxBench folder needs {path.name}")
    described: dict[int, Described] = {}
    numbers, ids = SeenAt("concept_id"), SeenAt("id")
    for place, value in read_lines(path):
        check_keys(place, value, tuple(value), required=("concept_id", *needs))
        number, concept = value["concept_id"], string(place, value, "concept") if "concept" in needs else ""
        if type(number) is not int or number < 0:
            raise ValueError(f"{place}: concept_id is {short(str(number))}; it has to be a whole number from 0")
        given = value.get("concept_genres_map")
        genres = given.get(concept) if isinstance(given, dict) else None
        if not (isinstance(genres, list) and genres and all(isinstance(genre, str) for genre in genres)):
            genres = []
        if "concept_genres_map" in needs and not genres:
            raise ValueError(f"{place}: concept_genres_map gives no genre for {short(concept)}")
        numbers.add(str(number), place, key=number)
        name = string(place, value, "id") if "id" in value else ""
        if name:
            ids.add(name, place, key=name)
        described[number] = Described(concept, tuple(genres), name)
    return described


def concepts_of(
    rows: Sequence[Mapping[str, object]],
    source: str,
    set_name: str,
    described: Mapping[int, Described] | None = None,
) -> list[Concept]:
    """Return the concepts of a table with AxBench's columns.

    Positives are the `output` of a concept_id's rows of category positive; negatives are the `output` of the rows with concept_id
    -1 and the same genre. `described`: what the metadata says; without it the rows themselves say it. Raises ValueError where
    table and metadata are of different sets: they know other concepts, or another concept or genre under a number.
    """
    columns = set(rows[0]) if rows else set()
    if missing := [name for name in COLUMNS if name not in columns]:
        raise ValueError(f"{source}: the column {missing[0]!r} is missing; AxBench's are {', '.join(COLUMNS)}")
    texts = _texts_of(rows, source)
    described = texts.described if described is None else described
    if unknown := sorted(texts.positives.keys() ^ described.keys()):
        here, there = ("the table", "metadata.jsonl")[:: 1 if unknown[0] in texts.positives else -1]
        raise ValueError(
            f"{source}: concept_id {unknown[0]} is in {here} but not in {there}; the two files do not belong together"
        )
    concepts = []
    for number, (description, genres, _) in sorted(described.items()):
        theirs, genre = texts.described[number], genres[0]
        with at(f"{source}, concept_id {number}"):
            if theirs.description != description or theirs.genres[0] not in genres:
                raise ValueError(
                    f"the rows say {short(theirs.description)} ({theirs.genres[0]}), metadata.jsonl says {short(description)} "
                    f"({', '.join(genres)}); the two files do not belong together"
                )
            if genre not in texts.negatives:
                raise ValueError(f"no negatives (rows with concept_id -1) of its genre {genre!r}")
            own = _unique(texts.positives[number], (), f"{source}, concept_id {number}, positives")
            others = _unique(texts.negatives[genre], own, f"{source}, concept_id {number}, negatives")
            concepts.append(Concept(concept_name(set_name, number), description, genre, own, others))
    return concepts


class _Texts(NamedTuple):
    positives: dict[int, list[str]]
    """By concept_id."""
    negatives: dict[str, list[str]]
    """By genre."""
    described: dict[int, Described]
    """By concept_id, as the rows say it."""


def _texts_of(rows: Sequence[Mapping[str, object]], source: str) -> _Texts:
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
            known = texts.described.setdefault(number, Described(concept, (genre,), "")).description
            if known != concept:
                raise ValueError(
                    f"{place}: concept_id {number} is {short(concept)} here and {short(known)} above: "
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
