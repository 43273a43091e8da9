"""Stage extract: DiffMean vectors of every concept on every model, RUN/vectors/MODEL.safetensors."""

from __future__ import annotations

import logging
from pathlib import Path

from steer_bench.experiment.run import Run, digest, sides, start, versions

logger = logging.getLogger(__name__)


def extract(run: Run) -> list[Path]:
    """DiffMean vectors of every concept on every model: RUN/vectors/MODEL.safetensors."""
    from steer_bench.models import prepare_models

    start(run)
    prepare_models([config.name for config in run.experiment.models])
    return [_extract_model(run, config.name) for config in run.experiment.models]


def _extract_model(run: Run, name: str) -> Path:
    from steer_bench.models import revision
    from steer_bench.vectors import VectorStore, load_card

    path, groups = run.vectors_file(name), sides(run, list(run.divided))
    neutral = run.map_texts[:60]
    inputs = digest(
        revision(name),
        run.experiment.dtype,
        groups,
        neutral,
        [c.layer for c in run.experiment.models if c.name == name],
    )
    if path.is_file() and load_card(path).get("inputs") == inputs:
        logger.info("%s is up to date", path)
        return path
    from steer_bench.activations import centred_norm, mean_activations
    from steer_bench.models import d_model, decoder_layers, load_model

    loaded = load_model(name, dtype=run.experiment.dtype, device=run.experiment.device)
    layer = run.layer(name, len(decoder_layers(loaded.model)))
    means = mean_activations(loaded, layer, groups, desc=f"extract {name}")[""]
    vectors = {key: (means[f"+{key}"].value - means[f"-{key}"].value).float().numpy() for key in run.divided}
    card = {
        "method": "diff_mean", "revision": revision(name), "dtype": str(loaded.model.dtype), "positions": "text", "inputs": inputs,
        "tokens": {group: mean.n_tokens for group, mean in means.items()}, "versions": versions(), "d_model": d_model(loaded.model),
        "texts": {key: digest(groups[f"+{key}"], groups[f"-{key}"]) for key in run.divided},
    }  # fmt: skip
    VectorStore(name, layer, vectors, centred_norm(loaded, layer, neutral), card).save(path)
    return path
