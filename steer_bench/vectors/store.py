"""Steering vectors: one vector per concept of one model, and their file.

mean activations -> [vectors] -> transfer -> arms of a target
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from pydantic import ConfigDict, Field, ValidationError

from steer_bench.files import Checked
from steer_bench.names import known
from steer_bench.vectors.tensor_file import Card, load_card, load_tensors, save_tensors

Vector = np.ndarray
"""(d_model,) float32"""
ALIKE = 0.999
"""Two vectors with a cosine above this are the same vector."""
MASSIVE = 0.1
"""A coordinate with a greater share of the squared norm stands out: equal factors are then unequal doses."""
C = TypeVar("C", bound="FileCard")


class FileCard(Checked):
    """What a file of ours says of its tensors; keys that it does not know are kept."""

    model_config = ConfigDict(extra="allow")

    inputs: str = ""
    """Changes with anything that the file was made from."""
    revision: str = ""
    """Revision of the model."""
    dtype: str = ""
    """Data type of the model's weights."""
    versions: dict[str, str] = {}

    @classmethod
    def of(cls: type[C], card: Mapping[str, object], path: str | Path) -> C:
        """Return the card of a file, typed. Raises ValueError, naming the file, for a value of another type."""
        try:
            return cls.model_validate(card)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"{path}: its card is not one of steer-bench ({where}: {first['msg']})") from error

    @classmethod
    def read(cls: type[C], path: str | Path) -> C:
        """Read only the card of a file. Raises ValueError as `load_card` and `of`."""
        return cls.of(load_card(path), path)

    def to_json(self) -> Card:
        """Return the keys that were given."""
        return self.model_dump(mode="json", exclude_unset=True)


class Reliability(Checked):
    """How near the vectors of two disjoint halves of a concept's texts are, over `n` concepts."""

    model_config = ConfigDict(extra="ignore")

    cosine: float
    centred_cosine: float
    retrieval: float
    n: int


class Place(Checked):
    """Where vectors are added, and how much of them."""

    model_config = ConfigDict(extra="allow")

    layer: int = Field(strict=True, ge=0)
    """0-based index of a decoder block."""
    scale: float = Field(strict=True, gt=0, allow_inf_nan=False)
    """S, the unit of factors."""
    d_model: int = Field(strict=True, gt=0)


class VectorCard(FileCard):
    """Where the vectors of a model come from."""

    method: str = ""
    """diff_mean"""
    positions: str = ""
    halves: bool = False
    """Whether source and native vectors come from disjoint halves of a concept's texts."""
    half: str = ""
    """Which texts these vectors are from: all, or half a or b."""
    alike: tuple[tuple[str, str], ...] = ()
    """Pairs of concepts that may have the same vector."""
    texts: dict[str, str] = {}
    """Hash of each concept's texts."""
    tokens: dict[str, int] = {}
    """Number of tokens behind each mean, +concept and -concept."""
    reliability: Reliability | None = None


class StoreCard(FileCard, Place):
    """What a vectors file says of the model and of where its vectors are added."""

    model: str


def unit(vector: Vector) -> Vector:
    """Return the vector at norm 1. Raises ValueError for a zero vector.

    >>> unit(np.array([3.0, 4.0], dtype=np.float32)).tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    norm = float(np.linalg.norm(vector.astype(np.float64)))  # squares of float32 under- and overflow
    if norm == 0:
        raise ValueError("a zero vector has no direction")
    return (vector / norm).astype(np.float32)


class LargestCoordinate(NamedTuple):
    """The coordinate that holds most of some vectors' squared norm."""

    coordinate: int
    share: float
    """Of the squared norm, mean over the vectors."""

    @property
    def meaning(self) -> str:
        """What it means for factors."""
        if self.share < MASSIVE:
            return "no coordinate stands out"
        return "massive: no factor compares across arms here, only damage does (damage: levels, not factors:)"


def largest_coordinate(vectors: Iterable[Vector]) -> LargestCoordinate:
    """Return which coordinate holds most of the vectors' squared norm, and how much of it.

    >>> largest_coordinate([np.array([3.0, 4.0]), np.array([0.0, 2.0])])
    LargestCoordinate(coordinate=1, share=0.82)
    """
    rows = np.stack(list(vectors)).astype(np.float64) ** 2
    shares = (rows / np.maximum(rows.sum(axis=1, keepdims=True), 1e-300)).mean(axis=0)
    coordinate = int(shares.argmax())
    return LargestCoordinate(coordinate, round(float(shares[coordinate]), 6))


@dataclass(frozen=True)
class SteeringVector:
    """A vector at one layer of one model, with the unit of its factors."""

    model: str
    layer: int
    scale: float
    """S"""
    vector: Vector


@dataclass(frozen=True)
class VectorStore:
    """The steering vectors of one model at one layer, one per concept id."""

    model: str
    layer: int
    vectors: Mapping[str, Vector]
    scale: float
    """S: median centred residual norm of neutral tokens at this layer, the unit of factors."""
    card: VectorCard = field(default_factory=VectorCard)
    sha256: str = ""
    """Checksum of the tensors of the file it was read from."""

    def __post_init__(self) -> None:
        if not self.vectors:
            raise ValueError(f"no vector of {self.model}; give at least one concept")
        for concept, vector in self.vectors.items():
            if vector.ndim != 1 or vector.shape != next(iter(self.vectors.values())).shape:
                raise ValueError(f"vector {concept!r} of {self.model}: shape {vector.shape}; all must be (d_model,)")
        check_distinct(self.vectors, self.card.alike, f"vectors of {self.model}")

    @classmethod
    def from_rows(
        cls, model: str, layer: int, rows: Iterable[tuple[str, Vector]], scale: float, card: VectorCard | None = None
    ) -> VectorStore:
        """Make a store of (concept id, vector) pairs. Raises ValueError for an id given twice, as in a file that grew by appending."""
        vectors: dict[str, Vector] = {}
        for concept, vector in rows:
            if concept in vectors:
                raise ValueError(
                    f"the concept id {concept!r} has two vectors of {model}; was it saved by appending? keep the right one"
                )
            vectors[concept] = vector
        return cls(model, layer, vectors, scale, card or VectorCard())

    @property
    def d_model(self) -> int:
        """Width of every vector."""
        return len(next(iter(self.vectors.values())))

    def __getitem__(self, concept: str) -> SteeringVector:
        vector = self.vectors[known(concept, self.vectors, f"concept of {self.model}")]
        return SteeringVector(self.model, self.layer, self.scale, vector)

    def save(self, path: Path) -> None:
        """Write the store; a store of the same name is replaced, never added to."""
        own = {
            "kind": "vectors", "model": self.model, "layer": self.layer, "scale": self.scale, "d_model": self.d_model,
        }  # fmt: skip
        save_tensors(path, self.vectors, {**self.card.to_json(), **own})

    @classmethod
    def load(cls, path: str | Path) -> VectorStore:
        """Read a store. Raises ValueError as `load_tensors`, and for a file of another kind."""
        vectors, card, sha256 = load_tensors(path)
        if card.get("kind") != "vectors" or not vectors:
            raise ValueError(f"{path}: holds {card.get('kind', 'no')} tensors, not the vectors of a model")
        place = StoreCard.of(card, path)
        return cls(place.model, place.layer, vectors, place.scale, VectorCard.of(card, path), sha256)


def check_distinct(
    vectors: Mapping[str, Vector], alike: Iterable[Sequence[str]] = (), what: str = "the vectors"
) -> None:
    """Raise ValueError where two concepts have one vector (cosine above 0.999) and are not named in `alike`, pairs of ids."""
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
    """Raise ValueError where two models' vectors of one concept were made from different texts: rows would pair different concepts.

    Also for a concept that only one of the two has.
    """
    apart = sorted(set(source.vectors) ^ set(target.vectors))
    if apart:
        has = source.model if apart[0] in source.vectors else target.model
        raise ValueError(
            f"only {has} has a vector of {apart[0]!r}; vectors of {source.model} and {target.model} pair by concept: extract both again"
        )
    texts, others = source.card.texts, target.card.texts
    for concept in sorted(source.vectors):
        if texts.get(concept) != others.get(concept):
            raise ValueError(
                f"concept {concept!r} of {source.model} and of {target.model} come from other texts ({texts.get(concept)} and "
                f"{others.get(concept)}); the two would pair different concepts: extract both from one set of concepts"
            )
