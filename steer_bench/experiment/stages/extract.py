"""Stage extract: DiffMean vectors of every concept on every model, RUN/vectors/….

One pass over the texts of a model makes all of its vectors:

- vectors/MODEL.safetensors: the model's own vectors, native where it is a target
- vectors/source/MODEL.safetensors: the vectors that are transferred; with `concepts.halves` from the other half of the texts
- vectors/few-shot/MODEL.safetensors: its own vectors from few texts, where an adapter asks for them
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from steer_bench.experiment.data import Data, Half, TextSide
from steer_bench.experiment.folder import VectorKind
from steer_bench.experiment.run import Run, start, versions
from steer_bench.files import digest
from steer_bench.harness import ranks
from steer_bench.models.activations import Mean, centred_norm, layer_means, mean_activations
from steer_bench.models.blocks import d_model, decoder_layers, resolve_layer
from steer_bench.models.load import load_model, prepare_models, revision
from steer_bench.transfer.geometry import geometry
from steer_bench.vectors.methods import diff_of_means
from steer_bench.vectors.store import VectorCard, VectorStore
from steer_bench.vectors.tensor_file import load_card, save_tensors

logger = logging.getLogger(__name__)


class Group(NamedTuple):
    """The texts behind one mean: all texts of a concept's side, a half of them, or the first few of the target's own."""

    side: TextSide
    half: Half = ""
    few: int = 0

    def __str__(self) -> str:
        return f"{self.side.sign}{self.side.concept}"


Means = Mapping[Group, Mean]


def extract(run: Run) -> list[Path]:
    """Write DiffMean vectors of every concept on every model, RUN/vectors/…; of several ranks each takes every n-th model."""
    rank, size = ranks.join()
    if rank == 0:
        begin(run)
    ranks.wait(size)
    for name in run.models[rank::size]:
        extract_model(run, name)
    ranks.wait(size)
    return [run.folder.vectors(name) for name in run.models]


def begin(run: Run) -> None:
    """Do what is done once, before any model is extracted."""
    start(run)
    prepare_models(run.models)


def extract_model(run: Run, name: str) -> Path:
    """Write all vectors of one model; return the file of its own ones, RUN/vectors/MODEL.safetensors."""
    data, path, layer = run.data, run.folder.vectors(name), run.experiment.layer(name)
    groups, neutral = text_groups(data), data.map_texts[:60]
    alike = [list(pair) for pair in run.experiment.concepts.alike]
    inputs = digest(revision(name), run.experiment.dtype, [*groups.items()], neutral, layer, alike)
    kinds: tuple[VectorKind, ...] = ("", "source", "few-shot") if data.few_shot_sizes else ("", "source")
    files = [run.folder.vectors(name, kind) for kind in kinds]
    if all(file.is_file() and load_card(file).get("inputs") == inputs for file in files):
        logger.info("%s is up to date", path)
        return path
    loaded = load_model(name, dtype=run.experiment.dtype, device=run.experiment.device)
    index = resolve_layer(layer, len(decoder_layers(loaded.model)))
    means = mean_activations(loaded, index, groups, desc=f"extract {name}")[""]
    scale = centred_norm(loaded, index, neutral)
    card = {
        "method": "diff_mean", "revision": revision(name), "dtype": str(loaded.model.dtype), "positions": "text", "inputs": inputs,
        "versions": versions(), "d_model": d_model(loaded.model), "halves": data.halves, "alike": alike,
        "texts": {key: data.texts_hash(key) for key in data.vector_and_held_out_texts},
        "reliability": reliability(means, data.splits.test, data.splits.fit),
    }  # fmt: skip
    for file, half in zip(files, (data.native_half, data.source_half), strict=False):
        vectors = {key: vector.float().numpy() for key, vector in diff_means(means, half).items()}
        tokens = {
            f"{group.side.sign}{group.side.concept}": mean.n_tokens
            for group, mean in means.items()
            if (group.half, group.few) == (half, 0)
        }
        own = VectorCard.model_validate({**card, "half": half or "all", "tokens": tokens})
        VectorStore(name, index, vectors, scale, own).save(file)
    if data.few_shot_sizes:
        shots = {
            f"{n}|{key}": vector.float().numpy()
            for n in data.few_shot_sizes
            for key, vector in diff_means(means, data.native_half, n).items()
        }
        save_tensors(files[2], shots, {"kind": "few-shot", "model": name, "layer": index, "inputs": inputs})
    return path


def text_groups(data: Data) -> dict[Group, tuple[str, ...]]:
    """Return the texts behind every mean of a model; a text in several groups is run once."""
    concepts = list(data.vector_and_held_out_texts)
    groups = {Group(side): texts for side, texts in data.texts_by_side(concepts).items()}
    for half in ("a", "b"):
        groups |= {Group(side, half): texts for side, texts in data.texts_by_side(concepts, half).items()}
    own = data.texts_by_side(data.measured, data.native_half)
    for n in data.few_shot_sizes:
        groups |= {Group(side, data.native_half, n): texts[:n] for side, texts in own.items()}
    return groups


def diff_means(means: Means, half: Half = "", few: int = 0) -> dict[str, Tensor]:
    """Return the DiffMean of each concept that has these texts: {concept: (d_model,) float64}."""
    sides = {group.side: mean.value for group, mean in means.items() if (group.half, group.few) == (half, few)}
    return {
        side.concept: diff_of_means(value, sides[TextSide(side.concept, "-")])
        for side, value in sides.items()
        if side.sign == "+"
    }


def reliability(means: Means, tested: Iterable[str], fit: Iterable[str]) -> dict[str, float] | None:
    """Compare the vectors of two disjoint halves of the texts, over the tested concepts; None where none has halves.

    What a transfer could at best reach: a cosine between models is read against sqrt(reliability * reliability).
    Centred on the mean over the `fit` concepts.
    """
    first, second = diff_means(means, "a"), diff_means(means, "b")
    tested = [key for key in tested if key in first and key in second]
    if not tested:
        return None
    about = [key for key in fit if key in second] or tested
    mean = torch.stack([torch.nn.functional.normalize(second[key], dim=0) for key in about]).mean(dim=0)
    found = geometry({key: first[key] for key in tested}, {key: second[key] for key in tested}, mean)
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
    """Number of concepts."""


def reliabilities(run: Run) -> list[LayerLine]:
    """Measure the split-half reliability of every model's vectors at every layer, each text read once.

    Over the concepts of the fit and select splits: a layer chosen on the test concepts would be chosen on what is measured.
    Raises ValueError where no such concept has two texts per side.
    """
    data = run.data
    concepts = [key for key in (*data.splits.fit, *data.splits.select) if key in data.text_halves]
    if not concepts:
        raise ValueError("no concept to fit or select on has two texts a side; give concepts more texts")
    halves: tuple[Half, ...] = ("a", "b")
    groups = {Group(side, half): texts for half in halves for side, texts in data.texts_by_side(concepts, half).items()}
    prepare_models(run.models)
    lines = []
    for name in run.models:
        loaded = load_model(name, dtype=run.experiment.dtype, device=run.experiment.device)
        n_layers = len(decoder_layers(loaded.model))
        used = resolve_layer(run.experiment.layer(name), n_layers)
        for layer, means in layer_means(loaded, range(n_layers), groups, desc=f"all layers of {name}").items():
            known = reliability(means, concepts, data.splits.fit)
            assert known is not None, "each of the concepts has halves"
            cosines = known["cosine"], known["centred_cosine"], known["retrieval"]
            lines.append(LayerLine(name, layer, layer == used, *cosines, int(known["n"])))
    return lines
