"""Steering vectors: one vector per concept of one model, and their files.

    mean activations -> [vectors] -> transfer -> arms of a target

Files are safetensors: tensors by name, everything known about them as JSON in the header, and a SHA-256 of the data, so that
a truncated, edited or foreign file is an error and never a number. Imports no torch: a bad file is found in milliseconds.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from steer_bench.files import write_whole
from steer_bench.names import hint

Vector = np.ndarray
"""(d_model,) float32"""
ALIKE = 0.999
"""Two vectors with a cosine above this are the same vector."""


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray], card: Mapping[str, Any]) -> None:
    """Write tensors with their card (JSON) to a safetensors file, whole or not at all.

    Raises ValueError for a tensor that is not finite: a NaN never reaches a file.
    """
    from safetensors.numpy import save

    with np.errstate(over="ignore"):  # what float32 can not hold becomes Inf, and is refused
        arrays = {name: np.ascontiguousarray(tensors[name], dtype=np.float32) for name in sorted(tensors)}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{path.name}: tensor {name!r} is not finite in float32 (NaN or Inf) and is not saved")
    known = json.loads(json.dumps(dict(card), allow_nan=False))  # as it will be read: keys are texts
    digest = _digest(arrays)
    content = {"card": known, "sha256": digest, "seal": _seal(known, digest)}
    header = {"steer_bench": json.dumps(content, sort_keys=True)}  # one key: safetensors shuffles several
    write_whole(path, save(arrays, metadata=header))


def load_tensors(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors (float32) and card of a file that `save_tensors` wrote.

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
    if _digest(arrays) != digest:
        raise ValueError(f"{path}: the tensors are not the ones that were saved (SHA-256 differs); make the file again")
    return arrays, {**card, "sha256": digest}


def load_card(path: str | Path) -> dict[str, Any]:
    """Only the card of a file that `save_tensors` wrote: reads the header, not the tensors."""
    return _read_header(Path(path))[0]


def _read_header(path: Path) -> tuple[dict[str, Any], str]:
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; a run writes it to RUN/arms/ and RUN/vectors/ (steer-bench run, or fit)"
        )
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > path.stat().st_size:
                raise ValueError("header longer than the file")
            content = json.loads(json.loads(file.read(size))["__metadata__"]["steer_bench"])
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


def _seal(card: Mapping[str, Any], digest: str) -> str:
    """Of the card and the digest of its tensors: a layer or scale that was changed is found too."""
    return hashlib.sha256(json.dumps([card, digest], sort_keys=True).encode()).hexdigest()


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name}:{arrays[name].dtype}:{arrays[name].shape}:".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def unit(vector: Vector) -> Vector:
    """The vector at norm 1. Raises ValueError for a zero vector.

    >>> unit(np.array([3.0, 4.0], dtype=np.float32)).tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    norm = float(np.linalg.norm(vector.astype(np.float64)))  # squares of float32 under- and overflow
    if norm == 0:
        raise ValueError("a zero vector has no direction")
    return (vector / norm).astype(np.float32)


@dataclass(frozen=True)
class VectorStore:
    """The steering vectors of one model at one layer, one per concept id."""

    model: str
    layer: int
    vectors: Mapping[str, Vector]
    scale: float
    """S: median centred residual norm of neutral tokens at this layer, the unit of factors."""
    card: Mapping[str, Any] = field(default_factory=dict)
    """Provenance: model revision, dtype, method, number of tokens; `texts`: hash of each concept's texts; `alike`: pairs of
    concepts that may have the same vector."""

    def __post_init__(self) -> None:
        if not self.vectors:
            raise ValueError(f"no vector of {self.model}; give at least one concept")
        for concept, vector in self.vectors.items():
            if vector.ndim != 1 or vector.shape != next(iter(self.vectors.values())).shape:
                raise ValueError(f"vector {concept!r} of {self.model}: shape {vector.shape}; all must be (d_model,)")
        check_distinct(self.vectors, self.card.get("alike", ()), f"vectors of {self.model}")

    @classmethod
    def from_rows(
        cls,
        model: str,
        layer: int,
        rows: Iterable[tuple[str, Vector]],
        scale: float,
        card: Mapping[str, Any] | None = None,
    ) -> VectorStore:
        """A store from (concept id, vector) pairs. Raises ValueError for an id that stands twice, as in a file that grew by appending."""
        vectors: dict[str, Vector] = {}
        for concept, vector in rows:
            if concept in vectors:
                raise ValueError(
                    f"the concept id {concept!r} has two vectors of {model}; was it saved by appending? keep the right one"
                )
            vectors[concept] = vector
        return cls(model, layer, vectors, scale, card or {})

    @property
    def d_model(self) -> int:
        """Width of every vector."""
        return len(next(iter(self.vectors.values())))

    def save(self, path: Path) -> None:
        """Write the store; a store of the same name is replaced, never added to."""
        own = {
            "kind": "vectors",
            "model": self.model,
            "layer": self.layer,
            "scale": self.scale,
            "d_model": self.d_model,
        }
        save_tensors(path, self.vectors, {**self.card, **own})

    @classmethod
    def load(cls, path: str | Path) -> VectorStore:
        """Read a store. Raises ValueError as `load_tensors`, and for a file of another kind."""
        vectors, card = load_tensors(path)
        if card.get("kind") != "vectors" or not vectors:
            raise ValueError(f"{path}: holds {card.get('kind', 'no')} tensors, not the vectors of a model")
        return cls(card["model"], card["layer"], vectors, card["scale"], card)


def check_distinct(
    vectors: Mapping[str, Vector], alike: Iterable[Sequence[str]] = (), what: str = "the vectors"
) -> None:
    """ValueError where two concepts have one vector (cosine above 0.999) and are not named in `alike`, pairs of ids."""
    names = sorted(vectors)
    rows = np.stack([vectors[name] for name in names]).astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    cosines = np.triu(rows @ rows.T, k=1)
    allowed = {frozenset(pair) for pair in alike}
    for i, j in np.argwhere(cosines > ALIKE):
        if frozenset((names[i], names[j])) not in allowed:
            raise ValueError(
                f"{what}: {names[i]!r} and {names[j]!r} are the same vector (cosine {cosines[i, j]:.5f}); one concept under two ids? "
                f"remove one, or allow it by name (concepts: alike: [[{names[i]}, {names[j]}]])"
            )


def check_same_texts(source: VectorStore, target: VectorStore) -> None:
    """ValueError where two models' vectors of one concept id were made from other texts: rows that pair different concepts.

    Also for a concept that only one of the two has.
    """
    apart = sorted(set(source.vectors) ^ set(target.vectors))
    if apart:
        has = source.model if apart[0] in source.vectors else target.model
        raise ValueError(
            f"only {has} has a vector of {apart[0]!r}; vectors of {source.model} and {target.model} pair by concept: extract both again"
        )
    texts, others = source.card.get("texts", {}), target.card.get("texts", {})
    for concept in sorted(source.vectors):
        if texts.get(concept) != others.get(concept):
            raise ValueError(
                f"concept {concept!r} of {source.model} and of {target.model} come from other texts ({texts.get(concept)} and "
                f"{others.get(concept)}); the two would pair different concepts: extract both from one set of concepts"
            )


UNSTEERED = "unsteered"


@dataclass(frozen=True, order=True)
class Arm:
    """One kind of steering of a target, for one concept."""

    arm: str
    """native, identity, linear, random, ..."""
    source: str
    """Model the vector was learned on; "" where the arm has none (native, random, mean)."""
    concept: str

    @property
    def key(self) -> str:
        """Name of the tensor in an arms file."""
        return f"{self.arm}|{self.source}|{self.concept}"


@dataclass(frozen=True)
class Arms:
    """Everything a target can be steered with: a vector for each arm, source and concept, and the unit of factors."""

    target: str
    layer: int
    scale: float
    vectors: Mapping[Arm, Vector]
    card: Mapping[str, Any] = field(default_factory=dict)
    """Provenance: revision, adapters with their kind and fit report, concepts."""

    def save(self, path: Path) -> None:
        """Write the arms file of a target."""
        own = {"kind": "arms", "target": self.target, "layer": self.layer, "scale": self.scale, "d_model": self.d_model}
        save_tensors(path, {arm.key: vector for arm, vector in self.vectors.items()}, {**self.card, **own})

    @classmethod
    def load(cls, path: str | Path) -> Arms:
        """Read an arms file. Raises ValueError as `load_tensors`, and for another kind of file or uneven widths."""
        tensors, card = load_tensors(path)
        if card.get("kind") != "arms" or not tensors:
            raise ValueError(f"{path}: holds {card.get('kind', 'no')} tensors, not the arms of a target")
        wrong = [key for key, vector in tensors.items() if vector.shape != (card["d_model"],)]
        if wrong:
            raise ValueError(
                f"{path}: vector {wrong[0]!r} has shape {tensors[wrong[0]].shape}, the target's d_model is {card['d_model']}; "
                "transfer it first (steer-bench fit)"
            )
        vectors = {Arm(*key.split("|", 2)): vector for key, vector in tensors.items()}
        return cls(card["target"], card["layer"], card["scale"], vectors, card)

    @property
    def d_model(self) -> int:
        """Width of every vector."""
        return len(next(iter(self.vectors.values())))

    def find(self, arm: str, source: str, concept: str) -> Vector:
        """The vector of an arm. Raises ValueError, with what there is, for an unknown arm, source or concept."""

        for given, known, what in (
            (arm, {a.arm for a in self.vectors}, "arm"),
            (source, {a.source for a in self.vectors if a.arm == arm}, f"source of arm {arm!r}"),
            (concept, {a.concept for a in self.vectors if (a.arm, a.source) == (arm, source)}, "concept"),
        ):
            if given not in known:
                raise ValueError(f"unknown {what} {given!r} in the arms of {self.target}; {hint(given, sorted(known))}")
        return self.vectors[Arm(arm, source, concept)]
