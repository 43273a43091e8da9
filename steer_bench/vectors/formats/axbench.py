"""AxBench (Wu et al. 2025, arXiv 2501.17148): NAME_weight.pt (n, d_model), NAME_bias.pt (n,), ids by metadata.jsonl.

Row i of the weights is the concept with concept_id i, in whatever order metadata.jsonl lists them; rows that it does not list
are left out. AxBench adds its vectors to the output of block `layer`, counted from 0: our convention. Its files name neither model
nor layer.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from steer_bench.concepts.axbench import concept_name, read_metadata, set_name
from steer_bench.files import write_whole
from steer_bench.vectors.formats.torch_files import as_float32, load_torch, save_torch
from steer_bench.vectors.formats.vector_file import VectorFile

WEIGHT = "_weight.pt"


def bias_of(weight: Path) -> Path:
    """Return NAME_bias.pt of NAME_weight.pt. Raises ValueError for another name."""
    if not weight.name.endswith(WEIGHT):
        raise ValueError(f"{weight}: AxBench's files are called NAME{WEIGHT} and NAME_bias.pt; give the first")
    return weight.with_name(weight.name.removesuffix(WEIGHT) + "_bias.pt")


def read(path: Path, *, ids: Path | None = None, numbered: bool = False, **_: object) -> VectorFile:
    """Read weights with their biases (kept in the card). Raises ValueError where rows, biases and ids do not belong together."""
    bias_file = bias_of(path)
    if not bias_file.is_file():
        raise ValueError(f"{bias_file}: missing beside {path.name}; AxBench writes both")
    matrix = as_float32(load_torch(path), "the weight", path)
    bias = as_float32(load_torch(bias_file), f"the bias in {bias_file.name}", bias_file)
    if matrix.ndim != 2 or bias.shape != matrix.shape[:1] or not np.isfinite(bias).all():
        raise ValueError(f"weight {matrix.shape} and bias {bias.shape} are not (n, d_model) and n finite numbers")
    n, source = len(matrix), ids or path.with_name("metadata.jsonl")
    if source.is_file() and source.suffix == ".jsonl":
        described = read_metadata(source, needs=())
        beyond = next((number for number in described if number >= n), None)
        if beyond is not None:
            raise ValueError(
                f"{source}: names concept_id {beyond}, and {path.name} holds {n} rows, one for each concept_id from 0; give the "
                "file it was made with, or a text file with an id per row"
            )
        rows, prefix = sorted(described), set_name(source.parent)
        names = tuple(described[row].id or concept_name(prefix, row) for row in rows)
        left_out = {"rows_left_out": n - len(rows)} if len(rows) < n else {}
        return VectorFile("", None, names, matrix[rows], {"bias": bias[rows].tolist(), **left_out})
    if source.is_file():
        names = read_ids(source)
    elif numbered and ids is None:
        names = tuple(f"row {row}" for row in range(n))
    else:
        raise ValueError(f"{source}: no such file; rows are named by it: give AxBench's metadata.jsonl with --ids")
    if len(names) != n:
        raise ValueError(f"{source}: names {len(names)} vectors, {path.name} holds {n}; give the file it was made with")
    return VectorFile("", None, names, matrix, {"bias": bias.tolist()})


def read_ids(path: Path) -> tuple[str, ...]:
    """Read a text file with one id per line; an empty line at the end is none. Raises ValueError for ids that stand twice."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give a text file with an id a line (--ids)")
    lines = path.read_text(encoding="utf-8-sig").rstrip("\r\n").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise ValueError(f"{path}, line {number}: empty; give an id a line")
        if (first := lines.index(line) + 1) != number:
            raise ValueError(
                f"{path}, line {number}: {line!r} stands in line {first} already; give every vector its own id"
            )
    return tuple(line.strip() for line in lines)


def write(path: Path, vectors: VectorFile) -> None:
    """Write NAME_weight.pt (float32), NAME_bias.pt (the biases that were read, else zeros) and metadata.jsonl beside them.

    Raises ValueError where another metadata.jsonl stands there: it may be of other vectors.
    """
    import torch

    bias_file, metadata = bias_of(path), path.with_name("metadata.jsonl")
    lines = [
        {"concept_id": row, "concept": name, "ref": "", "concept_genres_map": {name: ["text"]}, "id": name}
        for row, name in enumerate(vectors.ids)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    if metadata.is_file() and metadata.read_text(encoding="utf-8") != text:
        raise ValueError(f"{metadata}: names other vectors; write to a folder of its own")
    bias = vectors.card.get("bias")
    bias = bias if isinstance(bias, list) and len(bias) == len(vectors.ids) else [0.0] * len(vectors.ids)
    save_torch(path, torch.from_numpy(vectors.matrix.copy()))
    save_torch(bias_file, torch.tensor(bias, dtype=torch.float32))
    write_whole(metadata, text)
