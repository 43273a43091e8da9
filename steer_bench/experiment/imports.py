"""Imported vectors: arms made elsewhere, of a model of the experiment and, through its linear maps, of its targets.

vectors: [{file, model, name}] -> {concept: vector} -> an arm of that model, an arm of every target it is a source for
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from steer_bench.experiment.config import BEST, ImportConfig
from steer_bench.experiment.data import Data
from steer_bench.files import file_digest
from steer_bench.models.blocks import resolve_layer
from steer_bench.models.load import read_config
from steer_bench.vectors.convert import read_vectors
from steer_bench.vectors.store import Vector, check_distinct

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)


class Imported(NamedTuple):
    """The vectors of one file that are measured."""

    vectors: dict[str, Vector]
    """Concept -> (d_model,) float32"""
    method: str
    """How they were made, as far as it matters: which share of a file of many layers they are."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Concept -> (d_model,) float64."""
        import torch

        return {concept: torch.from_numpy(vector).double() for concept, vector in self.vectors.items()}


def import_digests(data: Data) -> list[tuple[str, str]]:
    """Hash the imported files, which are part of what arms are made from."""
    return [(entry.model_dump_json(), file_digest(data.path(entry.file))) for entry in data.experiment.vectors]


def check_import(data: Data, entry: ImportConfig) -> None:
    """Read an imported file as the run will. Raises ValueError as `imported_vectors`; what only the loaded model knows is left open."""
    config = next(one for one in data.experiment.models if one.name == entry.model)
    shape = read_config(config.name)
    depth, d_model = shape.get("num_hidden_layers"), shape.get("hidden_size")
    layer = None if depth is None or config.layer in (None, BEST) else resolve_layer(config.layer, depth)
    _read(data, entry, layer, d_model)


def imported_vectors(data: Data, model: str, layer: int, d_model: int) -> dict[str, Imported]:
    """Read the imported vectors of a model, for concepts that are measured, by the name of their arm.

    Raises ValueError for another model, layer or width than the experiment's, for one vector under two concepts, and where no id is
    a measured concept.
    """
    return {entry.name: _read(data, entry, layer, d_model) for entry in data.experiment.vectors if entry.model == model}


def _read(data: Data, entry: ImportConfig, layer: int | None, d_model: int | None) -> Imported:
    vectors = read_vectors(
        data.path(entry.file), ids=Path(data.path(entry.ids)) if entry.ids else None, concept=entry.concept,
        layer=entry.layer, allow_pickle=entry.allow_pickle,
    )  # fmt: skip
    where = f"vectors: {entry.file}"
    if vectors.model not in ("", entry.model):
        raise ValueError(f"{where}: is of {vectors.model}, not of {entry.model}; name its own model")
    if vectors.layer is None:
        raise ValueError(f"{where}: does not say its layer; give layer: in the experiment")
    layer, d_model = vectors.layer if layer is None else layer, d_model or vectors.d_model
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
    found = {concept: vectors.vector(name) for concept, name in measured.items()}
    check_distinct(found, data.experiment.concepts.alike, where)
    layers = vectors.card.get("layers_in_file", ())
    if layers:
        logger.warning(
            "%s: layer %d is used, 1 of %d layers; the tool that made it adds them all", where, layer, len(layers)
        )
    return Imported(found, f"imported, 1 of {len(layers)} layers" if layers else "imported")
