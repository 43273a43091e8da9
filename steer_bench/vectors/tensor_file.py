"""Tensor files: named tensors with a card that says what they are, as safetensors.

    {name: array}, card <-> FILE.safetensors

The card is JSON in the header, beside a SHA-256 of the data, so that a truncated, edited or foreign file is an error and never a
number. Imports no torch: a bad file is found in milliseconds.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from steer_bench.files import parse_json, write_whole

Card = dict[str, Any]
"""A JSON object: what a file says of its tensors."""


class TensorFile(NamedTuple):
    """What a tensor file holds."""

    tensors: dict[str, np.ndarray]
    """float32, by name in sorted order"""
    card: Card
    sha256: str
    """Checksum of the tensors, without the card."""


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray], card: Mapping[str, object]) -> None:
    """Write tensors with their card (JSON) to a safetensors file, whole or not at all.

    Raises ValueError for a tensor that is not finite: a NaN never reaches a file.
    """
    from safetensors.numpy import save

    with np.errstate(over="ignore"):  # what float32 cannot hold becomes Inf, and is refused
        arrays = {name: np.ascontiguousarray(tensors[name], dtype=np.float32) for name in sorted(tensors)}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{path.name}: tensor {name!r} is not finite in float32 (NaN or Inf) and is not saved")
    known = json.loads(json.dumps(dict(card), allow_nan=False))  # as it will be read: keys are texts
    digest = checksum(arrays)
    content = {"card": known, "sha256": digest, "seal": _seal(known, digest)}
    header = {"steer_bench": json.dumps(content, sort_keys=True)}  # one key: safetensors shuffles several
    write_whole(path, save(arrays, metadata=header))


def load_tensors(path: str | Path) -> TensorFile:
    """Read the tensors and the card of a file that `save_tensors` wrote.

    Raises ValueError, naming the file and what to do, for a file that is missing, truncated, foreign, changed or not finite.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    card, digest = _read_header(Path(path))
    try:
        arrays = dict(sorted(load(Path(path).read_bytes()).items()))  # safetensors gives any order
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged safetensors file ({error}); make it again") from error
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise ValueError(f"{path}: tensor {bad[0]!r} holds NaN or Inf; make the file again")
    if checksum(arrays) != digest:
        raise ValueError(f"{path}: the tensors are not the ones that were saved (SHA-256 differs); make the file again")
    return TensorFile(arrays, card, digest)


def load_card(path: str | Path) -> Card:
    """Read only the card of a file that `save_tensors` wrote: the header, not the tensors. Raises ValueError as `load_tensors`."""
    return _read_header(Path(path))[0]


def _read_header(path: Path) -> tuple[Card, str]:
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; a run writes it to RUN/arms/ and RUN/vectors/ (steer-bench run, or fit)"
        )
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > path.stat().st_size:
                raise ValueError("header longer than the file")
            content = parse_json(parse_json(file.read(size).decode())["__metadata__"]["steer_bench"])
            card, digest, seal = content["card"], content["sha256"], content["seal"]
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise ValueError(
            f"{path}: not a safetensors file written by steer-bench ({error}); other formats: steer-bench convert"
        ) from error
    if not isinstance(card, dict):
        raise ValueError(f"{path}: not a safetensors file written by steer-bench (its card is not a mapping)")
    if _seal(card, digest) != seal:
        raise ValueError(f"{path}: the card is not the one that was saved (SHA-256 differs); make the file again")
    return card, digest


def _seal(card: Mapping[str, object], digest: str) -> str:
    """Return the checksum of the card and of the tensors: a changed layer or scale is found too."""
    return hashlib.sha256(json.dumps([card, digest], sort_keys=True).encode()).hexdigest()


def checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of names, dtypes, shapes and data, whatever the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name}:{arrays[name].dtype}:{arrays[name].shape}:".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
