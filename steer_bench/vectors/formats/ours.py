"""Our own files: the vectors of a model (RUN/vectors/) and the arms of a target (RUN/arms/)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from steer_bench.files import check_id
from steer_bench.names import known
from steer_bench.vectors.arms import Arm, ArmEntry, Arms, ArmsCard, Kind
from steer_bench.vectors.formats.vector_file import VectorFile, positive
from steer_bench.vectors.store import Vector, VectorCard, VectorStore
from steer_bench.vectors.tensor_file import load_card


def read(
    path: Path, *, model: str | None = None, layer: int | None = None, arm: str | None = None, source_model: str | None = None,
    **_: object,
) -> VectorFile:  # fmt: skip
    """Read a vectors file, or one arm of an arms file. Raises ValueError where the arm has to be named."""
    card = load_card(path)
    theirs = card.get("target", card.get("model")), card.get("layer")
    if (model or theirs[0], theirs[1] if layer is None else layer) != theirs:
        raise ValueError(f"{path}: is of {theirs[0]}, layer {theirs[1]}; leave out --model and --layer")
    if card.get("kind") == "arms":
        return _one_arm(Arms.load(path), arm, source_model)
    if arm or source_model:
        raise ValueError(f"{path}: holds the vectors of a model, no arms; leave out the arm and its source")
    store = VectorStore.load(path)
    return _stacked(store.model, store.layer, store.vectors, {**store.card.to_json(), "scale": store.scale})


def _one_arm(arms: Arms, arm: str | None, source: str | None) -> VectorFile:
    names = sorted({one.name for one, _ in arms.vectors})
    if arm is None and len(names) > 1:
        raise ValueError(f"arms of {arms.target}: name one of its arms (--arm): {', '.join(names)}")
    name = names[0] if arm is None else known(arm, names, "arm")
    sources = sorted({one.source for one, _ in arms.vectors if one.name == name})
    if source is None and len(sources) > 1:
        raise ValueError(
            f"arm {name!r} of {arms.target} has several sources, name one (--source): {', '.join(sources)}"
        )
    source = sources[0] if source is None else known(source, sources, f"source of arm {name!r}")
    vectors = {key: vector for (one, key), vector in arms.vectors.items() if (one.name, one.source) == (name, source)}
    card = _without(arms.card.to_json(), "arms", "geometry", "refused")
    card["fits"] = [fit for fit in card.get("fits", []) if (fit.get("arm"), fit.get("source")) == (name, source)]
    card |= {"scale": arms.scale, "arm": name, "source": source}
    return _stacked(arms.target, arms.layer, vectors, card)


def _stacked(model: str, layer: int, vectors: Mapping[str, Vector], card: Mapping[str, Any]) -> VectorFile:
    ids = tuple(sorted(vectors))
    return VectorFile(model, layer, ids, np.stack([vectors[name] for name in ids]), _without(card))


def _without(card: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Return a card without some keys, and without those that say what other fields say."""
    left_out = {"kind", "model", "target", "layer", "d_model", "sha256", *keys}
    return {key: value for key, value in card.items() if key not in left_out}


def _placed(vectors: VectorFile, format: str) -> tuple[str, int, float, dict[str, Vector]]:
    """Return model, layer, S and rows. Raises ValueError where one is unknown, and for ids that cannot be file names."""
    if not vectors.model:
        raise ValueError(f"format {format} says which model the vectors steer, and the source does not: give --model")
    layer = vectors.needed_layer(format)
    if vectors.scale is None:
        raise ValueError(
            "the source does not say S, the unit of factors: give --scale, or --like FILE of the same model"
        )
    rows = {check_id(name): row for name, row in zip(vectors.ids, vectors.matrix, strict=True)}
    return vectors.model, layer, vectors.scale, rows


def write_store(path: Path, vectors: VectorFile) -> None:
    """Write a vectors file. Raises ValueError where model, layer or S are unknown, and for ids that cannot be file names."""
    model, layer, scale, rows = _placed(vectors, "steer-bench")
    VectorStore(model, layer, rows, scale, VectorCard.of(_without(vectors.card), path)).save(path)


def write_arms(path: Path, vectors: VectorFile) -> None:
    """Write an arms file with one arm, to steer with like any other: the one the vectors were read from, or "native".

    Raises ValueError as `write_store`, and for an arm or source that cannot be one.
    """
    model, layer, scale, rows = _placed(vectors, "arms")
    arm = Arm(check_id(vectors.card.get("arm") or "native"), source=vectors.card.get("source") or "")
    if "|" in arm.source:
        raise ValueError(f"source {arm.source!r} of arm {arm.name!r}: a model name has no '|'; give another")
    kind: Kind = "baseline" if arm.name == "native" else "transfer"
    card = {**_without(vectors.card, "scale", "bias"), "arms": (ArmEntry.of(arm, kind, "imported", sorted(rows)),)}
    named = {(arm, name): row for name, row in rows.items()}
    Arms(model, layer, scale, named, ArmsCard.model_validate(card)).save(path)


def scale_like(path: Path, model: str, layer: int | None, d_model: int) -> float:
    """Return S of a vectors or arms file of the same model and layer. Raises ValueError where they differ."""
    card = load_card(path)
    theirs = card.get("target", card.get("model"))
    if (theirs, card.get("layer"), card.get("d_model")) != (model, layer, d_model):
        raise ValueError(
            f"{path}: is of {theirs}, layer {card.get('layer')}, d_model {card.get('d_model')}; "
            f"the vectors are of {model}, layer {layer}, d_model {d_model}: give a file of the same, or --scale"
        )
    return positive(card.get("scale"))
