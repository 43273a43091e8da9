"""Calibrate: run the experiments whose answer is known, and check what they found."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from steer_bench import shipped
from steer_bench.experiment.calibration.checks import Check, Twin, all_checks
from steer_bench.experiment.calibration.experiments import Sizes, write_experiments
from steer_bench.experiment.calibration.twins import random_permutation, random_rotation, save_twin
from steer_bench.experiment.run import open_run
from steer_bench.experiment.stages.evaluate import evaluate
from steer_bench.experiment.stages.extract import extract
from steer_bench.experiment.stages.fit import fit
from steer_bench.experiment.stages.report import report
from steer_bench.models.blocks import d_model, decoder_layers, resolve_layer
from steer_bench.models.load import load_model

TWINS = {"rotated": random_rotation, "permuted": random_permutation}
"""Name -> what makes Q of a width and a seed."""


def calibrate(
    model: str = "smollm2-135m-instruct",
    out: Path | None = None,
    *,
    sizes: Sizes | None = None,
    layer: int | float = 0.5,
    device: str | None = None,
    seed: int = 0,
    data: Path | None = None,
    progress: Callable[[str], object] = lambda line: None,
) -> list[Check]:
    """Run every experiment and check on one model. Raises ValueError for a model of which no twin can be made.

    Everything is computed in float32, so that nothing but the method is between the twins and the model. out: folder for
    twins, data and runs (default: a scratch folder that is removed); what is finished there is not computed again.
    data: folder with concepts.jsonl, neutral.jsonl and neutral_map.jsonl; the shipped one by default. progress: gets a line
    per step.
    """
    if out is None:
        with tempfile.TemporaryDirectory(prefix="steer-bench-") as scratch:
            return calibrate(
                model, Path(scratch), sizes=sizes, layer=layer, device=device, seed=seed, data=data, progress=progress
            )
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
    del loaded
    runs = {}
    for number, (name, path) in enumerate(experiments.items(), 1):
        progress(f"experiment {number} of {len(experiments)}: {name}")
        runs[name] = open_run(str(path), out / "runs" / name)
        with runs[name].folder.lock():
            extract(runs[name])
            fit(runs[name])
            evaluate(runs[name])
            report(runs[name], figures=False)
    progress("checks")
    return all_checks(model, twins, runs)
