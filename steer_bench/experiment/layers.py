"""Layers: what a model's vectors are worth at each of them, and the choice of one (`layer: best`).

texts of the fit concepts -> vectors at every layer -> [reliability, largest coordinate, steering at equal damage] -> layer

Test concepts are not looked at: a layer chosen on them would be chosen on what is measured.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

from torch import Tensor
from tqdm import tqdm

from steer_bench.concepts.concept import cut
from steer_bench.experiment.config import BEST, WRONG
from steer_bench.experiment.data import Half
from steer_bench.experiment.means import Group, diff_means, reliability
from steer_bench.experiment.run import Run, resolved, write_resolved
from steer_bench.models.activations import centred_norms, layer_means
from steer_bench.models.blocks import decoder_layers, resolve_layer
from steer_bench.models.load import Loaded, load_model, prepare_models
from steer_bench.models.steered.dosing import Sought, find_doses
from steer_bench.models.steered.model import SteeredModel
from steer_bench.models.steered.scorer import Scorer
from steer_bench.models.steered.steering import Steering, VectorBank
from steer_bench.transfer.controls import wrong_concepts
from steer_bench.vectors.arms import Arm, Arms
from steer_bench.vectors.store import LargestCoordinate, largest_coordinate

logger = logging.getLogger(__name__)
DAMAGE = 1.3
"""Perplexity ratio at which layers are compared."""
CONCEPTS, TEXTS, WORDS = 6, 4, 20
"""Concepts that steering is measured on, held-out texts of each, words of a text."""
CALIBRATION, SCALE_TEXTS = 10, 20
"""Neutral texts that doses are found on, and that the unit of factors is measured on."""


class LayerLine(NamedTuple):
    """What one model's vectors are worth at one layer."""

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
    largest: LargestCoordinate
    """Of the vectors' squared norm."""
    steering: float | None
    """Log-likelihood a token that native gains over wrong concepts, at damage 1.3; None where it was not measured."""
    n: int
    """Number of concepts that reliability is a mean over."""


def layer_lines(run: Run, *, steering: bool = True) -> list[LayerLine]:
    """Measure every model's vectors at every layer, over the concepts of the fit and select splits.

    Raises ValueError where no such concept has two texts per side.
    """
    prepare_models(run.models)
    return [line for name in run.models for line in _lines(run, name, steering=steering)]


def _lines(run: Run, name: str, *, steering: bool = True) -> list[LayerLine]:
    data = run.data
    concepts = [key for key in (*data.splits.fit, *data.splits.select) if key in data.text_halves]
    if not concepts:
        raise ValueError("no concept to fit or select on has two texts a side; give concepts more texts")
    halves: dict[Half, None] = dict.fromkeys(("a", "b", data.native_half))
    groups = {Group(side, half): texts for half in halves for side, texts in data.texts_by_side(concepts, half).items()}
    loaded = load_model(name, dtype=run.experiment.dtype, device=run.experiment.device)
    layers = range(len(decoder_layers(loaded.model)))
    used = layer_of(run, name)
    index = None if used is None else resolve_layer(used, len(layers))
    means = layer_means(loaded, layers, groups, desc=f"all layers of {name}")
    native = {layer: diff_means(found, data.native_half) for layer, found in means.items()}
    effects = _effects(run, loaded, native) if steering else {}
    lines = []
    for layer, found in means.items():
        known = reliability(found, concepts, data.splits.fit)
        assert known is not None, "each of the concepts has halves"
        largest = largest_coordinate(vector.numpy() for vector in native[layer].values())
        cosines = known["cosine"], known["centred_cosine"], known["retrieval"]
        lines.append(LayerLine(name, layer, layer == index, *cosines, largest, effects.get(layer), int(known["n"])))
    return lines


def _effects(run: Run, loaded: Loaded, native: Mapping[int, Mapping[str, Tensor]]) -> dict[int, float | None]:
    """Return the steering of each layer, measured on held-out texts of a few fit concepts; {} where there are too few of these."""
    data = run.data
    chosen_on = data.splits.fit or data.splits.select
    concepts = [key for key in chosen_on if key in next(iter(native.values()))][:CONCEPTS]
    if len(concepts) < WRONG + 1:
        return {}
    texts = {
        key: [cut(text, WORDS) for text in data.vector_and_held_out_texts[key][1].positives[:TEXTS]] for key in concepts
    }
    neutral = list(data.protocol.calibration.values())[:CALIBRATION]
    scales = centred_norms(loaded, list(native), data.map_texts[:SCALE_TEXTS])
    effects = {}
    with tqdm(total=len(native), desc=f"steering at every layer of {loaded.name}", unit="layer", disable=None) as bar:
        for layer, vectors in native.items():
            rows = {(Arm("native"), key): vectors[key].float().numpy() for key in concepts}
            arms = Arms(loaded.name, layer, scales[layer], rows)
            steered = SteeredModel(loaded, VectorBank(arms), batch_size=run.experiment.batch_size)
            try:
                effects[layer] = steering_effect(
                    Scorer(steered),
                    texts,
                    neutral,
                    wrong_concepts({key: vectors[key] for key in concepts}, concepts, WRONG),
                )
            finally:
                steered.close()
            bar.update()
    return effects


def steering_effect(
    scorer: Scorer, texts: Mapping[str, Sequence[str]], neutral: Sequence[str], wrong: Mapping[str, Sequence[str]]
) -> float | None:
    """Return the log-likelihood a token that concepts' texts gain under their native vector over those of wrong concepts.

    Every vector at the factor where it does a damage of 1.3 to the neutral texts; mean over concepts. None where a vector
    does not reach it.
    """
    sought = [Sought("native", "", key, (DAMAGE,)) for key in texts]
    factors = {dose.concept: dose.factor for dose in find_doses(scorer, sought, neutral, quiet=True)}
    if any(factor is None for factor in factors.values()):
        return None
    asked = [(key, by, text) for key in texts for by, text in product((key, *wrong[key]), texts[key])]
    steerings = [Steering("native", "", by, factors[by] or 0.0) for _, by, _ in asked]
    found = scorer.score_texts([text for *_, text in asked], steerings, quiet=True)
    rates: dict[tuple[str, str], list[float]] = {}
    for (key, by, _), score in zip(asked, found, strict=True):
        rates.setdefault((key, by), []).append(score.log_likelihood / score.n_tokens)
    mean = {pair: math.fsum(values) / len(values) for pair, values in rates.items()}
    gains = [mean[key, key] - math.fsum(mean[key, by] for by in wrong[key]) / len(wrong[key]) for key in texts]
    return math.fsum(gains) / len(gains)


def choose_layers(run: Run) -> None:
    """Choose the layer of each model that the experiment gives as `best`, once: it is written into RUN/experiment.yaml."""
    for name in run.models:
        if layer_of(run, name) is not None:
            continue
        found = {line.layer: line.steering for line in _lines(run, name) if line.steering is not None}
        if not found:
            raise ValueError(
                f"models: layer best of {name}: steering was measured at no layer; it needs {WRONG + 1} concepts to fit on, with texts "
                f"held out, whose vectors reach damage {DAMAGE:g}. Give a layer"
            )
        best = max(found, key=lambda layer: found[layer])
        logger.info("%s: layer %d of %d steers most (%.3f nats a token)", name, best, len(found), found[best])
        write_resolved(run.folder, {"layers": {**chosen_layers(run), name: best}})


def chosen_layers(run: Run) -> dict[str, int]:
    """Return the layers that were chosen for models given as `best`."""
    found = resolved(run.folder).get("layers", {})
    return dict(found) if isinstance(found, dict) else {}


def layer_of(run: Run, name: str) -> int | float | None:
    """Return the layer of a model as given, or as chosen; None where it is not chosen yet."""
    given = run.experiment.layer(name)
    return chosen_layers(run).get(name) if given == BEST else given
