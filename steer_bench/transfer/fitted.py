"""Fit a transfer map between two loaded models and take vectors through it, for a notebook.

fit("linear", source, target, texts) -> FittedMap;  transfer(fitted, vectors) -> Arms
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from steer_bench.concepts.concept import Concept
from steer_bench.models.activations import centred_norm
from steer_bench.models.blocks import d_model, decoder_layers, resolve_layer
from steer_bench.models.extract import NEUTRAL_TEXTS, extract
from steer_bench.models.load import Loaded
from steer_bench.transfer.adapters import Adapter, load_adapter
from steer_bench.transfer.fits import FITS
from steer_bench.transfer.fits import transfer as take_through
from steer_bench.transfer.maps import DirectionMap
from steer_bench.transfer.measure_pair import measure_pair, model_side
from steer_bench.transfer.pair_vectors import push
from steer_bench.transfer.pairs import Fit, ModelSide, check_unseen
from steer_bench.vectors.arms import Arm, ArmEntry, Arms, ArmsCard, FitLine
from steer_bench.vectors.store import VectorStore


@dataclass(frozen=True)
class FittedMap:
    """A transfer map between two models, each at one layer."""

    adapter: Adapter
    fit: Fit
    source: Loaded
    target: str
    layers: tuple[int, int]
    """Layer of the source, layer of the target."""
    scale: float
    """S of the target at its layer."""
    concepts: tuple[str, ...]
    """Concepts that the fit has seen; none of them may be transferred."""


def fit(
    adapter: str,
    source: Loaded,
    target: Loaded,
    texts: Sequence[str],
    *,
    layers: tuple[int | float, int | float] = (0.5, 0.5),
    concepts: Sequence[Concept] = (),
    options: Mapping[str, object] | None = None,
    seed: int = 0,
) -> FittedMap:
    """Fit an adapter (shipped name or YAML path) on the activations of the same texts in both models.

    layers: of source and target, indices or depths in (0, 1). concepts: for adapters that learn from concepts (contrast,
    concept-ridge, nearest-concept). Raises ValueError for an adapter without a map, and for a pair that it cannot be fitted on.
    """
    recipe = load_adapter(adapter, options=options)
    if recipe.method not in FITS:
        raise ValueError(f"adapter {adapter!r} fits no map; its method is {recipe.method}")
    models = source, target
    at = tuple(resolve_layer(layer, len(decoder_layers(one.model))) for one, layer in zip(models, layers, strict=True))
    pair = measure_pair(
        source, target, (at[0], at[1]), (_side(source, at[0], concepts, texts), _side(target, at[1], concepts, texts)), texts,
        methods=(recipe.method,), concepts=concepts, seed=seed,
    )  # fmt: skip
    scale = centred_norm(target, at[1], texts[:NEUTRAL_TEXTS])
    seen = tuple(one.id for one in concepts)
    return FittedMap(
        recipe, FITS[recipe.method](pair, **recipe.options), source, target.name, (at[0], at[1]), scale, seen
    )


def _side(loaded: Loaded, layer: int, concepts: Sequence[Concept], texts: Sequence[str]) -> ModelSide:
    if not concepts:
        return ModelSide(loaded.name, {}, (), d_model(loaded.model))
    store = extract(loaded, concepts, layer=layer, neutral=texts)
    return model_side(store, [one.id for one in concepts], {one.id: one.genre for one in concepts})


def transfer(fitted: FittedMap, vectors: VectorStore, *, concepts: Sequence[Concept] = ()) -> Arms:
    """Take a source's vectors through a map: arms of the target with one vector per concept, `arms["sea"]`.

    concepts: their texts, which a map that is not linear needs. Raises ValueError for vectors of another model or layer, and
    for a concept that the map was fitted on.
    """
    if (vectors.model, vectors.layer) != (fitted.source.name, fitted.layers[0]):
        raise ValueError(
            f"the vectors are of {vectors.model}, layer {vectors.layer}; the map takes those of {fitted.source.name}, layer "
            f"{fitted.layers[0]}: extract them there, or fit a map at their layer"
        )
    check_unseen(fitted.concepts, vectors.vectors)
    plain = {key: torch.from_numpy(vector).double() for key, vector in vectors.vectors.items()}
    pushed = None
    if not isinstance(fitted.fit.map, DirectionMap) and concepts:
        known = [one for one in concepts if one.id in plain]
        pushed = push(fitted.source, fitted.layers[0], fitted.fit.map, known)
    arm = Arm(fitted.adapter.name, source=vectors.model)
    found = take_through(fitted.fit.map, plain, pushed)
    card = ArmsCard(
        arms=(ArmEntry.of(arm, fitted.adapter.kind, fitted.adapter.method, sorted(found)),),
        fits=(FitLine.model_validate({"arm": arm.name, "source": arm.source, **fitted.fit.report}),),
    )
    rows = {(arm, key): vector.float().numpy() for key, vector in found.items()}
    return Arms(fitted.target, fitted.layers[1], fitted.scale, rows, card)
