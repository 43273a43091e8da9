"""Stage extract: DiffMean vectors of every concept on every model, RUN/vectors/….

One pass over the texts of a model makes all of its vectors:

- vectors/MODEL.safetensors: the model's own vectors, native where it is a target
- vectors/source/MODEL.safetensors: the vectors that are transferred; with `concepts.halves` from the other half of the texts
- vectors/few-shot/MODEL.safetensors: its own vectors from few texts, where an adapter asks for them
"""

from __future__ import annotations

import logging
from pathlib import Path

from steer_bench.experiment.data import Data
from steer_bench.experiment.folder import VectorKind
from steer_bench.experiment.layers import choose_layers, layer_of
from steer_bench.experiment.means import Group, diff_means, reliability
from steer_bench.experiment.run import Run, start, versions
from steer_bench.files import digest
from steer_bench.harness import ranks
from steer_bench.models.activations import centred_norm, mean_activations
from steer_bench.models.blocks import d_model, decoder_layers, resolve_layer
from steer_bench.models.load import load_model, prepare_models, revision
from steer_bench.vectors.store import VectorCard, VectorStore
from steer_bench.vectors.tensor_file import load_card, save_tensors

logger = logging.getLogger(__name__)


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
    """Do what is done once, before any model is extracted: the layers that the experiment leaves open are chosen."""
    if run.experiment.repeats > 1:
        raise ValueError(
            f"repeats: each is a run of its own; steer-bench run makes them, stages take {run.folder}/repeat-0, …"
        )
    start(run)
    prepare_models(run.models)
    choose_layers(run)


def extract_model(run: Run, name: str) -> Path:
    """Write all vectors of one model; return the file of its own ones, RUN/vectors/MODEL.safetensors."""
    data, path, layer = run.data, run.folder.vectors(name), layer_of(run, name)
    groups, neutral = text_groups(data), data.map_texts[:60]
    alike = [list(pair) for pair in run.experiment.concepts.alike]
    inputs = digest(revision(name), run.experiment.dtype, [*groups.items()], neutral, layer, alike)
    kinds: tuple[VectorKind, ...] = ("", "source", "few-shot") if data.few_shot_sizes else ("", "source")
    files = [run.folder.vectors(name, kind) for kind in kinds]
    if all(file.is_file() and load_card(file).get("inputs") == inputs for file in files):
        logger.info("%s is up to date", path)
        return path
    loaded = load_model(name, dtype=run.experiment.dtype, device=run.experiment.device)
    assert layer is not None, "`begin` chose it"
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
