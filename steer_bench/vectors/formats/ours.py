"""Our own files: the vectors of a model (RUN/vectors/) and the arms of a target (RUN/arms/)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from steer_bench.files import check_id
from steer_bench.names import known
from steer_bench.vectors.arms import Arm, ArmEntry, Arms, ArmsCard
from steer_bench.vectors.formats.vector_file import ReadOptions, VectorFile, needed, positive
from steer_bench.vectors.store import VectorCard, VectorStore
from steer_bench.vectors.tensor_file import load_card

_OWN = ("kind", "model", "target", "layer", "d_model", "sha256")
"""Keys of a card that say what other fields say."""


def read_ours(path: Path, options: ReadOptions) -> VectorFile:
    """A vectors file, or one arm of an arms file. Raises ValueError where the arm has to be named."""
    card = load_card(path)
    theirs = card.get("target", card.get("model")), card.get("layer")
    if (options.model or theirs[0], theirs[1] if options.layer is None else options.layer) != theirs:
        raise ValueError(f"{path}: is of {theirs[0]}, layer {theirs[1]}; leave out --model and --layer")
    if card.get("kind") == "arms":
        return _one_arm(Arms.load(path), options)
    if options.arm or options.source:
        raise ValueError(f"{path}: holds the vectors of a model, no arms; leave out the arm and its source")
    store = VectorStore.load(path)
    ids, matrix = _stacked(store.vectors)
    return VectorFile(store.model, store.layer, ids, matrix, {**_rest(store.card.to_json()), "scale": store.scale})


def _one_arm(arms: Arms, options: ReadOptions) -> VectorFile:
    names = sorted({arm.name for arm, _ in arms.vectors})
    if options.arm is None and len(names) > 1:
        raise ValueError(f"arms of {arms.target}: name one of its arms (--arm): {', '.join(names)}")
    name = names[0] if options.arm is None else known(options.arm, names, "arm")
    sources = sorted({arm.source for arm, _ in arms.vectors if arm.name == name})
    if options.source is None and len(sources) > 1:
        raise ValueError(
            f"arm {name!r} of {arms.target} has several sources, name one (--source): {', '.join(sources)}"
        )
    source = sources[0] if options.source is None else known(options.source, sources, f"source of arm {name!r}")
    vectors = {key: vector for (arm, key), vector in arms.vectors.items() if (arm.name, arm.source) == (name, source)}
    ids, matrix = _stacked(vectors)
    card = {
        key: value for key, value in _rest(arms.card.to_json()).items() if key not in ("arms", "geometry", "refused")
    }
    card["fits"] = [fit for fit in card.get("fits", []) if (fit.get("arm"), fit.get("source")) == (name, source)]
    card |= {"scale": arms.scale, "arm": name, "source": source}
    return VectorFile(arms.target, arms.layer, ids, matrix, card)


def _stacked(vectors: Mapping[str, np.ndarray]) -> tuple[tuple[str, ...], np.ndarray]:
    ids = tuple(sorted(vectors))
    return ids, np.stack([vectors[name] for name in ids])


def _rest(card: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in card.items() if key not in _OWN}


def write_store(path: Path, vectors: VectorFile) -> None:
    """A vectors file. Raises ValueError where model, layer or S are unknown, and for ids that cannot be file names."""
    model, layer = needed(vectors, "steer-bench")
    if vectors.scale is None:
        raise ValueError(
            "the source does not say S, the unit of factors: give --scale, or --like FILE of the same model"
        )
    rows = {check_id(name): row for name, row in zip(vectors.ids, vectors.matrix, strict=True)}
    VectorStore(model, layer, rows, vectors.scale, VectorCard.of(_rest(vectors.card), path)).save(path)


def write_arms(path: Path, vectors: VectorFile) -> None:
    """An arms file with one arm: the one the vectors were read from, or "native". Raises ValueError as `to_arms`."""
    card = vectors.card
    to_arms(vectors, arm=card.get("arm") or "native", source=card.get("source") or "").save(path)


def to_arms(
    vectors: VectorFile,
    target: str | None = None,
    scale: float | str | Path | None = None,
    *,
    arm: str = "native",
    source: str = "",
) -> Arms:
    """The vectors as one arm of a target, to steer with like any other.

    target: left out, the model of the vectors. scale: S, or an arms or vectors file of the target to take it from; left out,
    the S that the vectors came with. Raises ValueError where model, layer or S are unknown or the file is of another
    model, layer or width, and for ids that cannot be file names.
    """
    model, layer = needed(vectors, "arms")
    target = target or model
    check_id(arm)
    if "|" in source:
        raise ValueError(f"source {source!r} of arm {arm!r}: a model name has no '|'; give another")
    if isinstance(scale, str | Path):
        scale = scale_like(scale, target, layer, vectors.d_model)
    elif scale is None and target == vectors.model:
        scale = vectors.scale
    if scale is None:
        raise ValueError(
            f"S of {target}, the unit of factors, is not known: give --scale, or --like FILE of the same model"
        )
    one = Arm(arm, source=source)
    rows = {(one, check_id(name)): row for name, row in zip(vectors.ids, vectors.matrix, strict=True)}
    kept = {key: value for key, value in _rest(vectors.card).items() if key not in ("scale", "bias")}
    entry = ArmEntry.of(one, "baseline" if arm == "native" else "transfer", "imported", sorted(vectors.ids))
    card = ArmsCard.model_validate({**kept, "arms": (entry,)})
    return Arms(target, layer, positive(scale), rows, card)


def scale_like(path: str | Path, model: str, layer: int | None, d_model: int) -> float:
    """S of a vectors or arms file of the same model and layer. Raises ValueError where they differ."""
    card = load_card(path)
    theirs = card.get("target", card.get("model"))
    if (theirs, card.get("layer"), card.get("d_model")) != (model, layer, d_model):
        raise ValueError(
            f"{path}: is of {theirs}, layer {card.get('layer')}, d_model {card.get('d_model')}; "
            f"the vectors are of {model}, layer {layer}, d_model {d_model}: give a file of the same, or --scale"
        )
    return positive(card.get("scale"))
