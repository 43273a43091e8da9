"""Imported vectors: arms made elsewhere, of a model of the experiment and, through its linear maps, of its targets.

vectors: [{file, model, name}] -> {concept: vector} -> an arm of that model, an arm of every target it is a source for
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from steer_bench.experiment.config import ImportConfig
from steer_bench.experiment.data import Data
from steer_bench.files import file_digest
from steer_bench.vectors.convert import read_vectors


def import_digests(data: Data) -> list[tuple[str, str]]:
    """Hash the imported files, which are part of what arms are made from."""
    return [(entry.model_dump_json(), file_digest(data.path(entry.file))) for entry in data.experiment.vectors]


def imported_vectors(data: Data, model: str, layer: int, d_model: int) -> dict[str, dict[str, Tensor]]:
    """Read the imported vectors of a model, for concepts that are measured: name of the arm -> concept -> (d_model,) float64.

    Raises ValueError for another model, layer or width than the experiment's, and where no id is a measured concept.
    """
    return {entry.name: _read(data, entry, layer, d_model) for entry in data.experiment.vectors if entry.model == model}


def _read(data: Data, entry: ImportConfig, layer: int, d_model: int) -> dict[str, Tensor]:
    ids = Path(data.path(entry.ids)) if entry.ids else None
    vectors = read_vectors(data.path(entry.file), ids=ids, concept=entry.concept, layer=entry.layer)
    where = f"vectors: {entry.file}"
    if vectors.model not in ("", entry.model):
        raise ValueError(f"{where}: is of {vectors.model}, not of {entry.model}; name its own model")
    if vectors.layer is None:
        raise ValueError(f"{where}: does not say its layer; give layer: in the experiment")
    if (vectors.layer, vectors.d_model) != (layer, d_model):
        raise ValueError(
            f"{where}: is of layer {vectors.layer}, d_model {vectors.d_model}; the experiment steers {entry.model} at layer "
            f"{layer}, d_model {d_model}: set the model's layer to the file's"
        )
    named = entry.concepts or {name: name for name in vectors.ids}
    unknown = [name for name in named if name not in vectors.ids]
    if unknown:
        raise ValueError(f"{where}: concepts: no vector {unknown[0]!r}; there are: {', '.join(vectors.ids[:20])}")
    measured = {concept: name for name, concept in named.items() if concept in data.measured}
    if not measured:
        raise ValueError(
            f"{where}: none of its ids ({', '.join(list(named)[:5])}) is a measured concept ({', '.join(data.measured[:5])}, …); "
            "say with concepts: {id: concept}"
        )
    return {concept: torch.from_numpy(vectors.vector(name)).double() for concept, name in measured.items()}
