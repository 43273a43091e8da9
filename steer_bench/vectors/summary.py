"""What is in a vector file: ids, norms, cosines, duplicates, provenance. For `steer-bench inspect`.

file of any format -> Summary -> text
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from steer_bench.names import listed
from steer_bench.vectors.arms import Arms
from steer_bench.vectors.convert import ReadOptions, format_of, read_raw, read_vectors
from steer_bench.vectors.formats.vector_file import VectorFile
from steer_bench.vectors.tensor_file import load_card, load_tensors

DUPLICATE = 0.999
"""Vectors with a larger cosine under different ids are called duplicates."""
_BLOCK = 1024
_MOST = 1000


@dataclass(frozen=True)
class Entry:
    """One vector (or, in a map file, one tensor)."""

    id: str
    norm: float
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Cosines:
    """Cosine similarity of all pairs of vectors that are not zero."""

    pairs: int
    lowest: float
    mean: float
    highest: float


@dataclass(frozen=True)
class Duplicate:
    """Two ids, one direction."""

    first: str
    second: str
    cosine: float


@dataclass(frozen=True)
class Summary:
    """A vector file at a glance."""

    path: str
    format: str
    model: str
    """"" where the file does not say."""
    layer: int | None
    entries: tuple[Entry, ...]
    cosines: Cosines | None
    """None for fewer than two vectors, and for tensors that are no vectors of one width."""
    duplicates: tuple[Duplicate, ...] = ()
    """The first of them, at most 1000."""
    n_duplicates: int = 0
    zeros: tuple[str, ...] = ()
    """Ids of vectors of norm 0: they steer nothing."""
    card: Mapping[str, Any] = field(default_factory=dict)


def describe(
    path: str | Path, *, format: str | None = None, ids: Path | None = None, allow_pickle: bool = False
) -> Summary:
    """Summarise a file: vectors, all arms, all layers, or the tensors of a map.

    Raises ValueError as `read_vectors`; rows without ids are numbered.
    """
    path = Path(path)
    if path.suffix == ".safetensors" and format in (None, "steer-bench", "arms"):
        kind = load_card(path).get("kind")
        if kind == "arms":
            return _of_arms(path)
        if kind != "vectors":
            return _of_tensors(path)
    options = ReadOptions(ids=ids, allow_pickle=allow_pickle, numbered=True)
    name = format_of(path, format)
    raw = read_raw(path, name, **options)
    if isinstance(raw, VectorFile):
        found = read_vectors(path, name, **options)
        return _of_matrix(path, name, found.model, found.layer, found.ids, found.matrix, found.card)
    layers = sorted(raw.vectors)
    widths = {vector.shape for vector in raw.vectors.values()}
    if not layers or len(widths) != 1:
        raise ValueError(f"{path}: holds {len(layers)} layers of shapes {sorted(widths)}; all must be (d_model,)")
    first = read_vectors(path, name, allow_pickle=allow_pickle, layer=layers[0])
    only, names = (layers[0], first.ids) if len(layers) == 1 else (None, tuple(f"layer {layer}" for layer in layers))
    matrix = np.stack([raw.vectors[layer] for layer in layers])
    return _of_matrix(path, name, first.model, only, names, matrix, first.card)


def _of_arms(path: Path) -> Summary:
    arms = Arms.load(path)
    keys = sorted(arms.vectors, key=lambda key: key[0].key(key[1]))
    names, matrix = tuple(arm.key(concept) for arm, concept in keys), np.stack([arms.vectors[key] for key in keys])
    return _of_matrix(path, "arms", arms.target, arms.layer, names, matrix, arms.card.to_json())


def _of_tensors(path: Path) -> Summary:
    tensors, card, _ = load_tensors(path)
    entries = tuple(
        Entry(name, float(np.linalg.norm(tensor.astype(np.float64))), tensor.shape) for name, tensor in tensors.items()
    )
    kind, target = str(card.get("kind", "tensors")), str(card.get("target", ""))
    return Summary(str(path), kind, target, card.get("layer"), entries, None, card=card)


def _of_matrix(
    path: Path, format: str, model: str, layer: int | None, ids: tuple[str, ...], matrix: np.ndarray, card: Mapping[str, Any]
) -> Summary:  # fmt: skip
    norms = np.linalg.norm(matrix.astype(np.float64), axis=1)
    entries = tuple(Entry(name, float(norm), (matrix.shape[1],)) for name, norm in zip(ids, norms, strict=True))
    kept = np.flatnonzero(norms)
    zeros = tuple(ids[row] for row in np.flatnonzero(norms == 0))
    cosines, duplicates, n_duplicates = _pairs([ids[row] for row in kept], matrix[kept] / norms[kept, None])
    return Summary(str(path), format, model, layer, entries, cosines, duplicates, n_duplicates, zeros, card)


def _pairs(ids: list[str], units: np.ndarray) -> tuple[Cosines | None, tuple[Duplicate, ...], int]:
    """Compare all pairs, block by block: 16,000 vectors need no 16,000 x 16,000 matrix. units: (n, d_model), norm 1"""
    if len(ids) < 2:
        return None, (), 0
    found: list[Duplicate] = []
    lowest, highest, total, n_found = np.inf, -np.inf, 0.0, 0
    for start in range(0, len(ids), _BLOCK):
        block = np.clip(units[start : start + _BLOCK] @ units[start:].T, -1, 1)
        rows, columns = np.triu_indices(len(block), 1, block.shape[1])  # each pair once
        if not len(rows):
            continue
        values = block[rows, columns]
        lowest, highest, total = min(lowest, values.min()), max(highest, values.max()), total + float(values.sum())
        same = np.flatnonzero(values > DUPLICATE)
        n_found += len(same)
        for i in same[: _MOST - len(found)]:
            found.append(Duplicate(ids[start + rows[i]], ids[start + columns[i]], float(values[i])))
    pairs = len(ids) * (len(ids) - 1) // 2
    return Cosines(pairs, float(lowest), total / pairs, float(highest)), tuple(found), n_found


def render(summary: Summary, most: int = 20) -> str:
    """Return the summary as text; of ids and duplicates the first `most`."""
    from tabulate import tabulate

    n, zeros = len(summary.entries), summary.zeros
    shapes = sorted({entry.shape for entry in summary.entries})
    facts = [
        ("file", summary.path),
        ("format", summary.format),
        ("model", summary.model or "not said in the file"),
        ("layer", "not said in the file, or several" if summary.layer is None else summary.layer),
        ("vectors", f"{n} of shape {' '.join(map(str, shapes))}"),
    ]
    if (found := summary.cosines) is not None:
        span = f"{found.lowest:.3f} to {found.highest:.3f}, mean {found.mean:.3f} ({found.pairs} pairs)"
        facts.append(("cosines", span))
    duplicates = f"{summary.n_duplicates} pairs with cosine > {DUPLICATE}" if summary.n_duplicates else "none"
    facts.append(("duplicates", f"{duplicates}{appended(summary)}"))
    if zeros:
        facts.append(("zero vectors", listed(zeros)))
    facts += [(key, _shown(value)) for key, value in sorted(summary.card.items())]
    parts = [tabulate(facts, tablefmt="plain", disable_numparse=True)]
    rows = [(entry.id, f"{entry.norm:.4g}") for entry in summary.entries[:most]]
    parts.append(tabulate(rows, headers=("id", "norm"), disable_numparse=True, colalign=("left", "right")))
    if n > most:
        parts.append(f"… {n - most} more")
    if summary.duplicates:
        pairs = [(pair.first, pair.second, f"{pair.cosine:.4f}") for pair in summary.duplicates[:most]]
        parts.append(tabulate(pairs, headers=("id", "has the direction of", "cosine"), disable_numparse=True))
        if summary.n_duplicates > most:
            parts.append(f"… {summary.n_duplicates - most} more")
    return "\n\n".join(parts)


def appended(summary: Summary) -> str:
    """Return the words for a run of rows that repeats another one, row by row, as in a file that was appended to; "" for none."""
    at = {entry.id: row for row, entry in enumerate(summary.entries)}
    repeated: dict[int, set[int]] = {}
    for pair in summary.duplicates:
        repeated.setdefault(at[pair.second] - at[pair.first], set()).add(at[pair.first])
    runs = [
        (next(row for row in count(first) if row + 1 not in rows) - first, first, shift)
        for shift, rows in repeated.items()
        for first in rows - {row + 1 for row in rows}
    ]
    length, first, shift = max(runs, default=(0, 0, 0))
    if not length:
        return ""
    return f": rows {first + shift}-{first + length + shift} repeat rows {first}-{first + length}; was the file appended to?"


def apart(one: Summary, other: Summary) -> str:
    """Return the words for two files whose rows are not of the same concepts, or whose widths differ; "" where they go together."""
    widths = [{entry.shape for entry in summary.entries} for summary in (one, other)]
    if widths[0] != widths[1]:
        return f"{other.path}: vectors of shape {sorted(widths[1])}, those of {one.path} of {sorted(widths[0])}"
    for row, (mine, theirs) in enumerate(zip(one.entries, other.entries, strict=False)):
        if mine.id != theirs.id:
            return f"row {row} is {mine.id!r} in {one.path} and {theirs.id!r} in {other.path}: row by row they pair different concepts"
    if len(one.entries) != len(other.entries):
        return f"{one.path} has {len(one.entries)} rows, {other.path} has {len(other.entries)}"
    return ""


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:97] + "..."
