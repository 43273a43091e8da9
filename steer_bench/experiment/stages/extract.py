"""Stage extract: DiffMean vectors of every concept on every model, RUN/vectors/….

One pass over the texts of a model makes all of its vectors:

- vectors/MODEL.safetensors: the model's own vectors, native where it is a target
- vectors/source/MODEL.safetensors: the vectors that are transferred; with `concepts.halves` from the other half of the texts
- vectors/few-shot/MODEL.safetensors: its own vectors from few texts, where an adapter asks for them
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from steer_bench.experiment.run import Run, few_shot_sizes, sides, start, versions
from steer_bench.files import digest

if TYPE_CHECKING:
    from torch import Tensor

    from steer_bench.models.activations import Mean

logger = logging.getLogger(__name__)


def extract(run: Run) -> list[Path]:
    """DiffMean vectors of every concept on every model: RUN/vectors/…. On several ranks each takes every n-th model."""
    from steer_bench.harness import ranks

    rank, size = ranks.join()
    if rank == 0:
        begin(run)
    ranks.wait(size)
    for config in run.experiment.models[rank::size]:
        extract_model(run, config.name)
    ranks.wait(size)
    return [run.vectors_file(config.name) for config in run.experiment.models]


def begin(run: Run) -> None:
    """What is done once, before any model is extracted."""
    from steer_bench.models.load import prepare_models

    start(run)
    prepare_models([config.name for config in run.experiment.models])


def extract_model(run: Run, name: str) -> Path:
    """The vectors of one model."""
    from steer_bench.models.load import revision
    from steer_bench.vectors.store import VectorStore, load_card, save_tensors

    path, few = run.vectors_file(name), few_shot_sizes(run)
    files = [path, run.vectors_file(name, "source"), *([run.vectors_file(name, "few-shot")] if few else [])]
    groups, concepts = _groups(run, few), list(run.divided)
    neutral = run.map_texts[:60]
    layers = [c.layer for c in run.experiment.models if c.name == name]
    alike = [list(pair) for pair in run.experiment.concepts.alike]
    inputs = digest(revision(name), run.experiment.dtype, groups, neutral, layers, alike)
    if all(file.is_file() and load_card(file).get("inputs") == inputs for file in files):
        logger.info("%s is up to date", path)
        return path
    from steer_bench.models.activations import centred_norm, mean_activations
    from steer_bench.models.blocks import d_model, decoder_layers
    from steer_bench.models.load import load_model

    loaded = load_model(name, dtype=run.experiment.dtype, device=run.experiment.device)
    layer = run.layer(name, len(decoder_layers(loaded.model)))
    means = mean_activations(loaded, layer, groups, desc=f"extract {name}")[""]
    scale = centred_norm(loaded, layer, neutral)
    native, source = ("other", "one") if run.halves else ("all", "all")
    card = {
        "method": "diff_mean", "revision": revision(name), "dtype": str(loaded.model.dtype), "positions": "text", "inputs": inputs,
        "versions": versions(), "d_model": d_model(loaded.model), "halves": run.halves, "alike": alike,
        "texts": {key: run.texts_hash(key) for key in concepts},
        "reliability": _reliability(run, means, concepts, run.splits.test),
    }  # fmt: skip
    for file, part in zip(files, (native, source), strict=False):
        vectors = {key: vector.float().numpy() for key, vector in _vectors(means, concepts, part).items()}
        tokens = {f"{sign}{key}": means[f"{part}{sign}{key}"].n_tokens for key in concepts for sign in "+-"}
        VectorStore(name, layer, vectors, scale, {**card, "part": part, "tokens": tokens}).save(file)
    if few:
        shots = {
            f"{n}|{key}": vector.float().numpy()
            for n in few
            for key, vector in _vectors(means, run.measured, f"{n}").items()
        }
        save_tensors(files[2], shots, {"kind": "few-shot", "model": name, "layer": layer, "inputs": inputs})
    return path


def _groups(run: Run, few: Sequence[int]) -> dict[str, tuple[str, ...]]:
    """Texts by part, side and concept: "all+sea", "one-sea", "4+sea", ...; a text in several is run once."""
    groups = {f"all{side}": texts for side, texts in sides(run, list(run.divided)).items()}
    for part in ("one", "other"):
        groups |= {f"{part}{side}": texts for side, texts in sides(run, list(run.divided), part).items()}
    own = sides(run, run.measured, "other" if run.halves else "all")
    for n in few:
        groups |= {f"{n}{side}": texts[:n] for side, texts in own.items()}
    return groups


def _vectors(means: Mapping[str, Mean], concepts: Sequence[str], part: str) -> dict[str, Tensor]:
    """DiffMean of each concept whose texts have that part."""
    return {
        key: means[f"{part}+{key}"].value - means[f"{part}-{key}"].value for key in concepts if f"{part}+{key}" in means
    }


def _reliability(
    run: Run, means: Mapping[str, Mean], concepts: Sequence[str], tested: Sequence[str]
) -> dict[str, Any] | None:
    """Split-half: how near the vectors of two disjoint halves of the texts are, over the tested concepts; None without halves.

    What a transfer could at best reach: a cosine between models is read against sqrt(reliability * reliability).
    """
    import torch

    from steer_bench.transfer.geometry import geometry

    one, other = (_vectors(means, concepts, part) for part in ("one", "other"))
    tested = [key for key in tested if key in one and key in other]
    if not tested:
        return None
    about = [key for key in run.splits.fit if key in other] or tested
    mean = torch.stack([torch.nn.functional.normalize(other[key], dim=0) for key in about]).mean(dim=0)
    found = geometry({key: one[key] for key in tested}, {key: other[key] for key in tested}, mean)
    return {**found._asdict(), "n": len(tested)}


class LayerLine(NamedTuple):
    """How reliable one model's vectors are at one layer."""

    model: str
    layer: int
    used: bool
    """Whether it is the experiment's."""
    cosine: float
    """Between the vectors of two halves of a concept's texts, mean over concepts."""
    centred_cosine: float
    """The same without what all concepts share."""
    retrieval: float
    """Share of concepts whose other half is the nearest of all."""
    n: int
    """Concepts."""


def reliabilities(run: Run) -> list[LayerLine]:
    """Split-half reliability of every model's vectors at every layer, each text read once.

    Over the concepts of the fit and select splits: a layer chosen on the test concepts would be chosen on what is measured.
    Raises ValueError where no such concept has two texts a side.
    """
    from steer_bench.models.activations import layer_means
    from steer_bench.models.blocks import decoder_layers
    from steer_bench.models.load import load_model, prepare_models

    concepts = [key for key in (*run.splits.fit, *run.splits.select) if key in run.halved]
    if not concepts:
        raise ValueError("no concept to fit or select on has two texts a side; give concepts more texts")
    groups = {f"{part}{side}": texts for part in ("one", "other") for side, texts in sides(run, concepts, part).items()}
    names = [config.name for config in run.experiment.models]
    prepare_models(names)
    lines = []
    for name in names:
        loaded = load_model(name, dtype=run.experiment.dtype, device=run.experiment.device)
        n_layers = len(decoder_layers(loaded.model))
        found = layer_means(loaded, range(n_layers), groups, desc=f"all layers of {name}")
        for layer, means in found.items():
            known = _reliability(run, means, concepts, concepts)
            assert known is not None, "each of the concepts has halves"
            lines.append(LayerLine(name, layer, layer == run.layer(name, n_layers), **known))
    return lines
