"""Stage fit: transfer maps of every pair and the arms of every target, RUN/maps/… and RUN/arms/TARGET.safetensors."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steer_bench.concepts import safe_name
from steer_bench.experiment.run import MissingStageError, Run, digest, model_file_name, protocol, sides, start, versions
from steer_bench.transfer.adapters import Adapter

if TYPE_CHECKING:
    from torch import Tensor

    from steer_bench.models import Loaded
    from steer_bench.vectors import VectorStore

logger = logging.getLogger(__name__)


def fit(run: Run) -> list[Path]:
    """Transfer maps of every pair and the arms of every target: RUN/maps/…, RUN/arms/TARGET.safetensors, RUN/protocol.json."""
    from steer_bench.vectors import VectorStore, load_card

    start(run)
    missing = [config.name for config in run.experiment.models if not run.vectors_file(config.name).is_file()]
    if missing:
        raise MissingStageError(
            f"no vectors of {missing[0]} in {run.folder}; run steer-bench extract {run.folder} first"
        )
    protocol(run).save(run.folder / "protocol.json")
    stores = {config.name: VectorStore.load(run.vectors_file(config.name)) for config in run.experiment.models}
    digests = {name: store.card["sha256"] for name, store in stores.items()}
    adapters = [(a.name, a.kind, a.method, dict(a.options)) for a in run.adapters]
    inputs = digest(
        digests, adapters, run.map_texts, run.experiment.seed, run.experiment.map_pairs, run.measured, run.splits.fit
    )
    files = [run.arms_file(target) for target in run.targets]
    if all(file.is_file() and load_card(file).get("inputs") == inputs for file in files):
        logger.info("arms in %s are up to date", run.folder / "arms")
        return files
    transferred, covariances = _fit_pairs(run, stores)
    sides = {name: _side(run, store, covariances.get(name)) for name, store in stores.items()}
    return [_save_arms(run, sides[target], stores[target], transferred, inputs) for target in run.targets]


@dataclass(frozen=True)
class _Transferred:
    """What one adapter made of one (source, target) pair."""

    vectors: Mapping[str, Tensor]
    """Concept -> (d_target,); empty when the adapter was refused for this pair."""
    report: Mapping[str, Any]


Transferred = dict[tuple[str, str, str], _Transferred]
"""(adapter, source, target) -> what it made."""


def _side(run: Run, store: VectorStore, covariance: Tensor | None = None) -> Any:
    import torch

    from steer_bench.transfer.fits import Side

    vectors = {key: torch.from_numpy(vector).double() for key, vector in store.vectors.items()}
    return Side(store.model, vectors, run.splits.fit, store.d_model, covariance)


def _fit_pairs(run: Run, stores: Mapping[str, VectorStore]) -> tuple[Transferred, dict[str, Tensor]]:
    """Fit every transfer adapter on every pair; one pass over the texts serves both directions of two models.

    Also the covariance of each model's activations on the map corpus, for the control that is drawn from it.
    """
    from steer_bench.models import load_model

    recipes = [adapter for adapter in run.adapters if _needs_source(adapter)]
    made: Transferred = {}
    covariances: dict[str, Tensor] = {}
    if not recipes and all(adapter.method != "random-covariance" for adapter in run.adapters):
        return made, covariances
    unordered = list(dict.fromkeys(tuple(sorted(pair)) for pair in run.experiment.directed))
    loaded: dict[str, Loaded] = {}
    for first, second in unordered:
        for name in list(loaded):
            if name not in (first, second):
                del loaded[name]
        for name in (first, second):
            if name not in loaded:
                loaded[name] = load_model(name, dtype=run.experiment.dtype, device=run.experiment.device)
        forward = _pair(run, loaded[first], loaded[second], stores)
        covariances[first] = forward.train.source_source / forward.train.n
        covariances[second] = forward.train.target_target / forward.train.n
        for pair in (forward, _reversed(forward)):
            source, target = pair.source.model, pair.target.model
            if (source, target) in run.experiment.directed:
                for adapter in recipes:
                    made[adapter.name, source, target] = _fit_one(
                        run, adapter, pair, loaded[source], stores[source].layer
                    )
    return made, covariances


def _needs_source(adapter: Adapter) -> bool:
    from steer_bench.transfer.rows import ROWS

    return adapter.method not in ROWS


def _pair(run: Run, source: Loaded, target: Loaded, stores: Mapping[str, VectorStore]) -> Any:
    """Paired activations of the map corpus, every tenth document held out."""
    import torch

    from steer_bench.activations import MomentAccumulator, paired
    from steer_bench.transfer.fits import Pair

    layers = stores[source.name].layer, stores[target.name].layer
    moments, samples = (MomentAccumulator(), MomentAccumulator()), ([], [])  # type: ignore[var-annotated]
    desc = f"pair {source.name} and {target.name}"
    for index, x, y in paired(source, layers[0], target, layers[1], run.map_texts, desc=desc):
        held = int(index % 10 == 9)
        moments[held].add(x, y)
        if sum(len(part) for part, _ in samples[held]) < run.experiment.map_pairs:
            samples[held].append((x.cpu(), y.cpu()))
    kept = [(torch.cat([x for x, _ in part]), torch.cat([y for _, y in part])) for part in samples]
    sides = _side(run, stores[source.name]), _side(run, stores[target.name])
    return Pair(*sides, moments[0].moments(), moments[1].moments(), kept[0], kept[1], run.experiment.seed)


def _reversed(pair: Any) -> Any:
    from steer_bench.transfer.fits import Pair

    samples = pair.train_samples[::-1], pair.held_out_samples[::-1]
    return Pair(pair.target, pair.source, pair.train.reversed(), pair.held_out.reversed(), *samples, pair.seed)


def _fit_one(run: Run, adapter: Adapter, pair: Any, source: Loaded, layer: int) -> _Transferred:
    """One adapter on one pair: the map's file, and the vectors of the measured concepts through it."""
    from steer_bench.activations import mean_activations
    from steer_bench.transfer.fits import FITS, transfer
    from steer_bench.vectors import save_tensors

    try:
        fitted = FITS[adapter.method](pair, **adapter.options)
    except ValueError as error:  # too few concepts, say: a row with the reason, not the end of the run
        logger.warning("adapter %s refused for %s -> %s: %s", adapter.name, pair.source.model, pair.target.model, error)
        return _Transferred({}, {"refused": str(error)})
    card = {
        "kind": "map",
        "adapter": adapter.name,
        "source": pair.source.model,
        "target": pair.target.model,
        "report": dict(fitted.report),
    }
    folder = run.folder / "maps" / f"{model_file_name(pair.source.model)}--{model_file_name(pair.target.model)}"
    save_tensors(folder / f"{safe_name(adapter.name)}.safetensors", fitted.map.tensors(), card)
    pushed = None
    if not fitted.map.is_linear:
        groups = sides(run, run.measured)
        means = mean_activations(
            source, layer, groups, maps={"f": fitted.map}, desc=f"push {source.name} through {adapter.name}"
        )["f"]
        pushed = {key: means[f"+{key}"].value - means[f"-{key}"].value for key in run.measured}
    vectors = {key: pair.source.vectors[key] for key in run.measured}
    return _Transferred(transfer(fitted.map, vectors, pushed), fitted.report)


def _save_arms(run: Run, side: Any, store: VectorStore, made: Transferred, inputs: str) -> Path:
    """RUN/arms/TARGET.safetensors: every arm x concept of a target, and S. `side`: the target, as the controls need it."""
    import torch

    from steer_bench.transfer.geometry import geometry
    from steer_bench.vectors import Arm, Arms

    target = store.model
    by_arm: dict[tuple[str, str], Mapping[str, Tensor]] = {}
    refused: list[dict[str, str]] = []
    reports: list[dict[str, Any]] = []
    for adapter in run.adapters:
        if not _needs_source(adapter):
            own, reasons = _row_vectors(run, adapter, side)
            refused.extend({"arm": adapter.name, "source": "", "reason": reason} for reason in reasons)
            if own:
                by_arm[adapter.name, ""] = own
            continue
        for source in (source for source, other in run.experiment.directed if other == target):
            transferred = made[adapter.name, source, target]
            if transferred.vectors:
                by_arm[adapter.name, source] = transferred.vectors
                reports.append({"arm": adapter.name, "source": source, **transferred.report})
            else:
                refused.append({"arm": adapter.name, "source": source, "reason": transferred.report["refused"]})
    native = {key: side.vectors[key] for key in run.splits.test}
    native_mean = torch.stack(
        [torch.nn.functional.normalize(side.vectors[key], dim=0) for key in run.splits.fit or run.splits.test]
    ).mean(0)
    measured = [
        {"source": source, "target": target, "arm": arm, "r2": _report(reports, arm, source).get("r2"),
         **geometry({key: vectors[key] for key in run.splits.test}, native, native_mean)._asdict()}
        for (arm, source), vectors in by_arm.items()
    ]  # fmt: skip
    card = {
        "inputs": inputs, "revision": store.card["revision"], "dtype": store.card["dtype"], "geometry": measured, "fits": reports,
        "asked": {adapter.name: dict(adapter.options) for adapter in run.adapters if adapter.method == "prompt"},
        "refused": refused, "versions": versions(), "positions": run.experiment.positions,
        "entries": [[arm, source, sorted(vectors)] for (arm, source), vectors in by_arm.items()],
    }  # fmt: skip
    vectors = {
        Arm(arm, source, concept): vector.float().numpy()
        for (arm, source), of_arm in by_arm.items()
        for concept, vector in of_arm.items()
    }
    Arms(target, store.layer, store.scale, vectors, card).save(run.arms_file(target))
    return run.arms_file(target)


def _row_vectors(run: Run, adapter: Adapter, side: Any) -> tuple[dict[str, Tensor], list[str]]:
    """Vectors of an arm without a source, topics and rules each among themselves, and why it was refused for either."""
    from steer_bench.transfer.rows import ROWS

    vectors: dict[str, Tensor] = {}
    reasons: list[str] = []
    for concepts in (run.splits.test, [key for key in run.measured if key not in run.splits.test]):
        try:
            vectors |= ROWS[adapter.method](side, concepts, run.experiment.seed) if concepts else {}
        except ValueError as error:  # a single rule has no other rule's vector, say
            logger.warning("arm %s refused for %s: %s", adapter.name, side.model, error)
            reasons.append(str(error))
    return vectors, reasons


def _report(reports: Sequence[Mapping[str, Any]], arm: str, source: str) -> Mapping[str, Any]:
    return next((report for report in reports if (report["arm"], report["source"]) == (arm, source)), {})
