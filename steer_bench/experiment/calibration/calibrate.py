"""Calibrate: run the experiments whose answer is known, and check what they found."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from steer_bench import shipped
from steer_bench.concepts.load import load_texts
from steer_bench.experiment.calibration.by_hand import by_hand, logit_difference, pairs_have_read_the_same
from steer_bench.experiment.calibration.checks import Check, Twin, result_checks, simulated
from steer_bench.experiment.calibration.experiments import Sizes, write_experiments
from steer_bench.experiment.calibration.twins import random_permutation, random_rotation, save_twin
from steer_bench.experiment.engines import STAGES, order
from steer_bench.experiment.run import open_run
from steer_bench.experiment.stages.report import report
from steer_bench.models.blocks import d_model, decoder_layers, resolve_layer
from steer_bench.models.load import load_model
from steer_bench.results.file import load_results

TWINS = {"rotated": random_rotation, "permuted": random_permutation}
"""Name -> what makes Q of a width and a seed."""


def calibrate(
    model: str,
    out: Path,
    *,
    sizes: Sizes | None = None,
    layer: int | float = 0.5,
    device: str | None = None,
    seed: int = 0,
    data: Path | None = None,
    n_sims: int = 200,
    progress: Callable[[str], object] = lambda line: None,
) -> list[Check]:
    """Run every experiment and check on one model. Raises ValueError for a model of which no twin can be made.

    Everything is computed in float32, so that nothing but the method is between the twins and the model. out: folder for
    twins, data and runs; what is finished there is not computed again.
    data: folder with concepts.jsonl, neutral.jsonl and neutral_map.jsonl; the shipped one by default. n_sims: simulations behind each
    rate of errors. progress: gets a line per step.
    """
    progress("twins of the model")
    loaded = load_model(model, dtype="float32", device=device)
    width = d_model(loaded.model)
    layer = resolve_layer(layer, len(decoder_layers(loaded.model)))
    twins = [
        Twin(f"{name} twin", save_twin(loaded, draw(width, seed), out.resolve() / name), draw(width, seed))
        for name, draw in TWINS.items()
    ]
    experiments = write_experiments(
        out, loaded, [twin.folder for twin in twins], layer, data or shipped("tasks") / "data",
        sizes=sizes or Sizes(), device=device, seed=seed,
    )  # fmt: skip
    pairs = pairs_have_read_the_same(loaded, load_texts(out / "map.jsonl"))
    del loaded
    runs = {}
    for number, (name, path) in enumerate(experiments.items(), 1):
        progress(f"experiment {number} of {len(experiments)}: {name}")
        runs[name] = open_run(str(path), out / "runs" / name)
        with runs[name].folder.lock():
            for stage in order(runs[name]):
                (partial(report, figures=False) if stage == "report" else STAGES[stage])(runs[name])
    progress("checks")
    texts = load_texts(out / "neutral.jsonl")[:4]
    logits = {twin.folder: logit_difference(model, twin.folder, texts) for twin in twins}
    checks = [*result_checks(model, twins, runs, logits), pairs]
    checks += by_hand(model, runs["twins"], load_results(runs["twins"].folder.results))
    progress(f"{n_sims} simulations")
    return [*checks, *simulated(n_sims)]
