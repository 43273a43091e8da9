"""Calibration: the whole measurement on cases whose answer is known.

    model -> [rotated twin, permuted twin, shuffled pairs, dead concepts, random arms] -> checks

A twin (see `twins`) computes the same as the model in other coordinates, so the right transfer map is known, every vector
through it must be native's and the recovered fraction 1. Where pairs are shuffled, concepts are dead or arms are random, there
is nothing to find, and no verdict may say that there is. Everything runs through the code that runs a benchmark.
"""

from __future__ import annotations

from pathlib import Path

from steer_bench import shipped
from steer_bench.experiment.calibration.bench import PERMUTED, ROTATED, Bench, Sizes
from steer_bench.experiment.calibration.checks import (
    Check,
    bootstrap,
    dead_concepts,
    false_positives,
    like_native,
    native_steers,
    same_model,
    shuffled_pairs,
)
from steer_bench.experiment.calibration.scoring import is_dead, is_null, measure, own_arms
from steer_bench.experiment.calibration.twin import make_twin
from steer_bench.experiment.calibration.twins import random_permutation, random_rotation
from steer_bench.models.blocks import decoder_layers, resolve_layer
from steer_bench.models.device import resolve_dtype
from steer_bench.models.load import load_model

__all__ = ["Check", "Sizes", "calibrate"]

SHUFFLED = ("linear", "low-rank", "procrustes", "mlp", "concept-ridge", "anchors")
"""Adapters that learn from pairs."""


def calibrate(
    model_name: str = "smollm2-135m-instruct",
    *,
    sizes: Sizes | None = None,
    layer: int | float = 0.5,
    device: str | None = None,
    dtype: str = "auto",
    seed: int = 0,
    data: Path | None = None,
) -> list[Check]:
    """All checks on one model. Raises ValueError for a model of which no twin can be made.

    Twins are made and mapped in float32, so that nothing but the method is between them and the model; steering is measured
    in `dtype`, as a benchmark does. `data`: a folder with concepts.jsonl and neutral.jsonl; the shipped one by default.
    """
    loaded = load_model(model_name, dtype="float32", device=device)
    layer = resolve_layer(layer, len(decoder_layers(loaded.model)))
    bench = Bench(
        loaded, layer, sizes or Sizes(), seed, resolve_dtype(dtype, device), data or shipped("tasks") / "data"
    )
    width = bench.width
    rotated = make_twin(bench, ROTATED, random_rotation(width, seed), ("identity", "linear", "procrustes"), SHUFFLED)
    permuted = make_twin(bench, PERMUTED, random_permutation(width, seed), ("identity", "linear"))
    rows = measure(bench, {**own_arms(bench), **rotated.arms, **permuted.arms})
    results = bootstrap(bench, [row for row in rows if not (is_dead(row) or is_null(row))])
    return [
        native_steers(results),
        *same_model(bench, results),
        *like_native(bench, results, rotated),
        *like_native(bench, results, permuted),
        shuffled_pairs(results, rotated),
        dead_concepts(bench, rows),
        false_positives(bench, rows),
    ]
