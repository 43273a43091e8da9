"""A set of steering vectors, whatever file it came from, and what a file says of them.

    [file of any tool] -> VectorFile -> file of any tool, or arms

Knows nothing of formats. Imports no torch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from steer_bench.files import file_digest, parse_json, write_whole
from steer_bench.names import known, listed
from steer_bench.vectors.store import Vector, unit

LAYER_CONVENTION = "0-based index of the decoder block whose output it is (Hugging Face hidden_states[layer + 1])"
PROVENANCE = ("revision", "positions", "template", "method")
"""What every card says, if only that it is unknown."""


@dataclass(frozen=True, eq=False)
class VectorFile:
    """The steering vectors of one model at one layer. Raises ValueError where they make no sense."""

    model: str
    """Model the vectors steer; "" where the file does not say."""
    layer: int | None
    """0-based index of the decoder block they are added after; None where the file does not say."""
    ids: tuple[str, ...]
    matrix: np.ndarray
    """(n, d_model) float32, one row per id"""
    card: Mapping[str, Any] = field(default_factory=dict)
    """Provenance, as JSON can hold it. `scale`: S of the model, where known."""

    def __post_init__(self) -> None:
        if self.matrix.dtype != np.float32 or self.matrix.ndim != 2 or 0 in self.matrix.shape:
            raise ValueError(
                f"vectors are {self.matrix.dtype} {self.matrix.shape}; they have to be float32 (n, d_model)"
            )
        if len(self.ids) != len(self.matrix):
            raise ValueError(f"{len(self.ids)} ids for {len(self.matrix)} vectors; give one id a vector")
        seen: set[str] = set()
        for row, name in enumerate(self.ids):
            if not name.strip() or name != name.strip() or not name.isprintable():
                raise ValueError(f"id {name!r} of vector {row} is empty or not one line; give it another")
            if name in seen:
                raise ValueError(
                    f"id {name!r} stands twice (again at vector {row}); give every vector an id of its own"
                )
            seen.add(name)
        if not np.isfinite(self.matrix).all():
            bad = int(np.flatnonzero(~np.isfinite(self.matrix).all(axis=1))[0])
            raise ValueError(f"vector {self.ids[bad]!r} holds NaN or Inf; make the file again")
        if self.layer is not None and (isinstance(self.layer, bool) or self.layer < 0):
            raise ValueError(f"layer {self.layer} is not the index of a decoder block; count from 0")

    @property
    def d_model(self) -> int:
        """Width of every vector."""
        return self.matrix.shape[1]

    @property
    def scale(self) -> float | None:
        """S of the model at this layer, the unit of factors; None where the file does not say."""
        scale = self.card.get("scale")
        return None if scale is None else positive(scale)

    def vector(self, name: str) -> Vector:
        """Return the vector of an id. Raises ValueError, with what is near, for an unknown one."""
        return self.matrix[self.ids.index(known(name, self.ids, "id"))]

    def only(self, name: str | None) -> VectorFile:
        """Return the file with one vector. None will do where there is no other. Raises ValueError as `vector`."""
        if name is None and len(self.ids) > 1:
            raise ValueError(
                f"{len(self.ids)} vectors, and the format holds one; name it (--concept): {listed(self.ids)}"
            )
        name = self.ids[0] if name is None else name
        card = {}
        for key, value in self.card.items():
            if isinstance(value, Mapping) and value and all(one.lstrip("+-") in self.ids for one in value):
                value = {one: entry for one, entry in value.items() if one.lstrip("+-") == name}  # a mapping by id
            if key != "bias":  # of AxBench, one per row
                card[key] = value
        return replace(self, ids=(name,), matrix=self.vector(name)[None], card=card)

    def needed_layer(self, format: str) -> int:
        """Return the layer, for a format that cannot do without. Raises ValueError where it is unknown."""
        if self.layer is None:
            raise ValueError(
                f"format {format} says which layer the vectors steer, and the source does not: give --layer"
            )
        return self.layer


def positive(scale: Any) -> float:
    """Return `scale`, if it can be S."""
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale) or scale <= 0:
        raise ValueError(f"scale {scale!r} cannot be S, the median centred residual norm: a positive number")
    return float(scale)


def steered(vectors: VectorFile, name: str | None, factor: float) -> VectorFile:
    """Return the one vector that a tool has to add, as it is, to steer by `factor`: what this package would add, bit for bit.

    factor * S * unit vector where the file knows S, else factor * vector (`strength: raw`).
    Raises ValueError for an unknown id, factor 0 or not finite, and a zero vector.
    """
    if not math.isfinite(factor) or factor == 0:
        raise ValueError(f"factor {factor} steers nothing; give a finite number that is not 0")
    one = vectors.only(name)
    vector, scale = one.matrix[0], one.scale
    if scale is None:
        made, norm = (np.float64(factor) * vector).astype(np.float32), f"factor {factor} x vector"
    else:
        try:  # the formula of steering.VectorBank, in the same precision
            made = (np.float64(factor) * scale * unit(vector)).astype(np.float32)
        except ValueError as error:
            raise ValueError(f"vector {one.ids[0]!r}: {error}") from error
        norm = f"factor {factor} x S {scale} x unit vector"
    card = {**one.card, "factor": factor, "norm": norm}
    card.pop("scale", None)  # it is used up: the vector is added as it is
    return replace(one, matrix=made[None], card=card)


def full_card(vectors: VectorFile, path: Path, format: str) -> VectorFile:
    """Add to the card everything of `PROVENANCE`, the layer convention, the norm, and the file the vectors were read from."""
    norms = np.linalg.norm(vectors.matrix.astype(np.float64), axis=1)
    read = {"file": path.name, "format": format, "sha256": file_digest(path)}
    card = {
        **dict.fromkeys(PROVENANCE, "unknown"),
        "norm": "unit" if np.allclose(norms, 1, atol=5e-3) else "as made",  # bfloat16 keeps a norm to 0.4 %
        **vectors.card,
        "layer_convention": LAYER_CONVENTION,
        "read_from": [*vectors.card.get("read_from", []), read],
    }
    return replace(vectors, card=card)


class Label(BaseModel):
    """What we write into, or beside, a file of another tool: it has no place of its own for it."""

    model_config = ConfigDict(frozen=True, strict=True)

    model: str
    layer: int | None = None
    concept: str | None = None
    card: dict[str, Any]
    sha256: str | None = None
    """Checksum of the file, where the label stands beside it."""

    @classmethod
    def parse(cls, text: str) -> Label:
        """Read a label. Raises ValueError for anything else."""
        try:
            return cls.model_validate(parse_json(text))
        except ValidationError as error:
            raise ValueError(
                "its steer-bench card is no JSON mapping, or has a model, layer or concept of a wrong type"
            ) from error


NO_LABEL = Label(model="", card={})


def label_of(vectors: VectorFile, **more: str) -> str:
    """Return the label of a set as one line of JSON, always the same for the same set; with its id where it is one vector."""
    concept = vectors.ids[0] if len(vectors.ids) == 1 else None
    label = {"model": vectors.model, "layer": vectors.layer, "concept": concept, "card": dict(vectors.card), **more}
    return json.dumps(label, sort_keys=True, allow_nan=False)


def sidecar(path: Path) -> Path:
    """Return where the label of a file stands that cannot hold one itself."""
    return path.with_name(path.name + ".card.json")


def write_sidecar(path: Path, vectors: VectorFile) -> None:
    """Write the label of `path`, tied to its content."""
    write_whole(sidecar(path), label_of(vectors, sha256=file_digest(path)) + "\n")


def read_sidecar(path: Path) -> Label:
    """Read the label beside `path`, an empty one where there is none. Raises ValueError for the label of another file."""
    beside = sidecar(path)
    if not beside.is_file():
        return NO_LABEL
    try:
        label = Label.parse(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{beside}: not a card of steer-bench ({error}); delete it, then give --model and --layer"
        ) from error
    if label.sha256 != file_digest(path):
        raise ValueError(
            f"{beside}: the card of another {path.name} (SHA-256 differs); delete it, then give --model and --layer"
        )
    return label


@dataclass(frozen=True)
class Layered:
    """One vector per layer, without a name: control vectors, steering-vectors, lm-eval."""

    vectors: Mapping[int, Vector]
    label: Label = NO_LABEL
    """The file's label, if we wrote the file."""

    def pick(self, path: Path, *, layer: int | None = None, concept: str | None = None, **_: object) -> VectorFile:
        """Return the vector of the layer asked for; no need to ask where there is one."""
        layers = sorted(self.vectors)
        if not layers:
            raise ValueError("holds no vector")
        if layer is None and len(layers) > 1:
            raise ValueError(f"holds {len(layers)} layers; choose one (--layer): {listed(map(str, layers))}")
        layer = layers[0] if layer is None else layer
        if layer not in self.vectors:
            raise ValueError(f"holds no layer {layer}; there are: {listed(map(str, layers))}")
        card = dict(self.label.card)
        if len(layers) > 1:
            card["layers_in_file"] = layers  # the tool that made it adds them all
        name = concept or self.label.concept or id_from(path)
        return VectorFile(self.label.model, layer, (name,), self.vectors[layer][None], card)


def id_from(path: Path) -> str:
    """Make an id of a file's name.

    >>> id_from(Path("a happy mood (v2).gguf"))
    'a-happy-mood-v2'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:100] or "vector"
