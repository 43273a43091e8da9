"""A matrix and nothing else: `.npy`, or `.pt` with one tensor or a mapping of id to tensor; ids in a text file.

ids: one per line, in NAME.ids.txt beside NAME.npy, or in the file named by `ids`.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from steer_bench.files import write_whole, written_whole
from steer_bench.vectors.formats.axbench import read_ids
from steer_bench.vectors.formats.torch_files import as_float32, load_torch, save_torch
from steer_bench.vectors.formats.vector_file import Layered, VectorFile, id_from

_LAYER = re.compile(r"(?:[\w.-]*(?:layers?|h|blocks?)[._-]?)?(\d{1,4})(?:\.hook_resid_post)?", re.IGNORECASE)
"""A key that names a layer: 15, layer_15, model.layers.15, blocks.15.hook_resid_post."""


def ids_file(path: Path) -> Path:
    """NAME.npy -> NAME.ids.txt"""
    return path.with_suffix(".ids.txt")


def read_npy(
    path: Path, *, ids: Path | None = None, concept: str | None = None, numbered: bool = False, **_: object
) -> VectorFile:
    """Read (n, d_model) or (d_model,) of float16, float32 or float64. Raises ValueError for objects: they are pickles."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a header cannot claim memory the file has not
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        raise ValueError("not an array of floating numbers")
    with np.errstate(over="ignore"):  # too big for float32 becomes Inf, which is refused by name
        return _named(path, np.array(array, dtype=np.float32), ids, concept, numbered)


def read_pt(
    path: Path, *, ids: Path | None = None, concept: str | None = None, numbered: bool = False, **_: object
) -> VectorFile | Layered:
    """Read a tensor, or a mapping of id to tensor, which needs no ids file; of layer to tensor, where all keys name layers."""
    content = load_torch(path)
    if not isinstance(content, dict):
        return _named(path, as_float32(content, "the content", path), ids, concept, numbered)
    if not content or not all(isinstance(name, str) for name in content):
        raise ValueError("neither a tensor nor a mapping of id to tensor")
    places = {name: found for name in content if (found := _LAYER.fullmatch(name))}
    if len(places) == len(content) and ids is None:
        vectors = {
            int(found[1]): as_float32(content[name], f"layer {name!r}", path, vector=True)
            for name, found in places.items()
        }
        if len(vectors) != len(content):
            raise ValueError(f"two of its keys name one layer: {', '.join(sorted(content))[:200]}")
        return Layered(vectors)
    rows = [as_float32(tensor, f"vector {name!r}", path, vector=True) for name, tensor in content.items()]
    if len({row.shape for row in rows}) != 1 or rows[0].ndim != 1:
        raise ValueError(f"its tensors have shapes {sorted({row.shape for row in rows})}; all must be (d_model,)")
    return VectorFile("", None, tuple(content), np.stack(rows))


def _named(path: Path, matrix: np.ndarray, ids: Path | None, concept: str | None, numbered: bool) -> VectorFile:
    matrix = matrix[None] if matrix.ndim == 1 else matrix
    if matrix.ndim != 2:
        raise ValueError(f"has shape {matrix.shape}; it has to be (n, d_model)")
    file = ids or ids_file(path)
    if file.is_file() or ids:
        names = read_ids(file)
        if len(names) != len(matrix):
            raise ValueError(
                f"{file}: names {len(names)} vectors, {path.name} holds {len(matrix)}; give an id a vector"
            )
    elif len(matrix) == 1:
        names = (concept or id_from(path),)
    elif numbered:
        names = tuple(f"row {row}" for row in range(len(matrix)))
    else:
        raise ValueError(f"{path}: {len(matrix)} vectors without ids; give a text file with an id a line (--ids)")
    return VectorFile("", None, names, matrix)


def write_npy(path: Path, vectors: VectorFile) -> None:
    """Write NAME.npy (float32) and NAME.ids.txt."""
    with written_whole(path) as part, part.open("wb") as file:
        np.save(file, np.ascontiguousarray(vectors.matrix), allow_pickle=False)
    _write_ids(path, vectors)


def write_pt(path: Path, vectors: VectorFile) -> None:
    """Write NAME.pt (one float32 tensor) and NAME.ids.txt."""
    import torch

    save_torch(path, torch.from_numpy(vectors.matrix.copy()))
    _write_ids(path, vectors)


def _write_ids(path: Path, vectors: VectorFile) -> None:
    write_whole(ids_file(path), "".join(f"{name}\n" for name in vectors.ids))
