"""Stage fit: transfer maps of every pair and the arms of every target, RUN/maps/… and RUN/arms/TARGET.safetensors."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steer_bench.experiment.data import TextSide
from steer_bench.experiment.folder import VectorKind
from steer_bench.experiment.imports import import_digests, imported_vectors
from steer_bench.experiment.pair_files import Made, Transferred, is_fitted, load_pair, save_pair
from steer_bench.experiment.run import MissingStageError, Run, start, versions
from steer_bench.files import digest
from steer_bench.transfer.adapters import Adapter

if TYPE_CHECKING:
    from torch import Tensor

    from steer_bench.experiment.pairing import Stores
    from steer_bench.models.load import Loaded
    from steer_bench.transfer.pairs import Side

logger = logging.getLogger(__name__)


def fit(run: Run) -> list[Path]:
    """Transfer maps of every pair and the arms of every target: RUN/maps/…, RUN/arms/TARGET.safetensors, RUN/protocol.json.

    On several ranks each fits every n-th pair.
    """
    from steer_bench.harness import ranks

    rank, size = ranks.join()
    if rank == 0:
        check_vectors(run)
    ranks.wait(size)
    if not arms_up_to_date(run):
        loaded: dict[str, Loaded] = {}
        for first, second in pairs(run)[rank::size]:
            fit_pair(run, first, second, loaded)
        ranks.wait(size)
        if rank == 0:
            make_arms(run)
        ranks.wait(size)
    return [run.folder.arms(target) for target in run.targets]


def check_vectors(run: Run) -> None:
    """Begin the stage. Raises MissingStageError where a model has no vectors, ValueError where those of two do not go together."""
    from steer_bench.transfer.pairs import check_unseen
    from steer_bench.vectors.store import check_same_texts

    start(run)
    kinds: tuple[VectorKind, ...] = ("", "source", "few-shot") if run.data.few_shot_sizes else ("", "source")
    missing = [name for name in run.models if not all(run.folder.vectors(name, kind).is_file() for kind in kinds)]
    if missing:
        raise MissingStageError(
            f"no vectors of {missing[0]} in {run.folder}; run steer-bench extract {run.folder} first"
        )
    run.data.protocol.save(run.folder.protocol)
    stores = _stores(run, run.models)
    for first, second in run.experiment.directed:
        check_same_texts(stores.source[first], stores.native[second])
    check_unseen(run.data.splits.fit, run.data.measured)


def pairs(run: Run) -> list[tuple[str, str]]:
    """Unordered pairs of models that are to be fitted; none when no arm comes from another model or needs the map texts."""
    if all(not _needs_source(adapter) and adapter.method != "random-covariance" for adapter in run.data.adapters):
        return []
    return list(dict.fromkeys((min(pair), max(pair)) for pair in run.experiment.directed))


def arms_up_to_date(run: Run) -> bool:
    """Whether every target has its arms, for the same inputs."""
    from steer_bench.vectors.store import load_card

    inputs, files = _inputs(run, run.models), [run.folder.arms(target) for target in run.targets]
    if all(file.is_file() and load_card(file).get("inputs") == inputs for file in files):
        logger.info("arms in %s are up to date", run.folder.path / "arms")
        return True
    return False


def fit_pair(run: Run, first: str, second: str, loaded: dict[str, Loaded] | None = None) -> Path:
    """Fit every transfer adapter on a pair, in the directions asked for: RUN/maps/FIRST--SECOND.safetensors.

    `loaded`: models that are in memory; on return those of this pair.
    """
    from steer_bench.models.load import load_model

    loaded = {} if loaded is None else loaded
    inputs = _inputs(run, [first, second])
    if is_fitted(run.folder.pair(first, second), inputs):
        return run.folder.pair(first, second)
    for name in list(loaded):
        if name not in (first, second):
            del loaded[name]
    for name in (first, second):
        if name not in loaded:
            loaded[name] = load_model(name, dtype=run.experiment.dtype, device=run.experiment.device)
    made, covariances = _fit_pair(run, loaded[first], loaded[second], _stores(run, [first, second]))
    save_pair(run.folder.pair(first, second), inputs, made, covariances)
    return run.folder.pair(first, second)


def make_arms(run: Run) -> list[Path]:
    """The arms of every target, from the vectors and the fitted pairs: RUN/arms/TARGET.safetensors. No model is loaded."""
    from steer_bench.experiment.pairing import side

    stores, inputs = _stores(run, run.models), _inputs(run, run.models)
    made: Made = {}
    covariances: dict[str, Tensor] = {}
    for first, second in pairs(run):
        of_pair, of_models = load_pair(run.folder.pair(first, second))
        made |= of_pair
        covariances |= of_models
    few = {name: _few_shot(run, name) for name in run.targets}
    targets = {name: side(run, stores.native[name], covariances.get(name), few[name]) for name in run.targets}
    return [_save_arms(run, targets[target], stores, made, inputs) for target in run.targets]


def _stores(run: Run, names: Sequence[str]) -> Stores:
    from steer_bench.experiment.pairing import Stores
    from steer_bench.vectors.store import VectorStore

    native, source = (
        {name: VectorStore.load(run.folder.vectors(name, part)) for name in names} for part in ("", "source")
    )
    return Stores(native, source)


def _inputs(run: Run, names: Sequence[str]) -> str:
    """Changes with anything that the arms of these models depend on."""
    stores = _stores(run, names)
    digests = {name: (stores.native[name].card["sha256"], stores.source[name].card["sha256"]) for name in names}
    adapters = [(a.name, a.kind, a.method, dict(a.options)) for a in run.data.adapters]
    return digest(
        digests, adapters, run.data.map_texts, run.experiment.seed, run.experiment.map_pairs, run.data.measured, run.data.splits.fit,
        *([import_digests(run)] if run.experiment.vectors else []),
    )  # fmt: skip


def _few_shot(run: Run, name: str) -> dict[int, dict[str, Tensor]]:
    """n -> vectors of the measured concepts from n texts a side; empty where no adapter asks for them."""
    import torch

    from steer_bench.vectors.store import load_tensors

    vectors: dict[int, dict[str, Tensor]] = {}
    if run.data.few_shot_sizes:
        for key, array in load_tensors(run.folder.vectors(name, "few-shot"))[0].items():
            n, concept = key.split("|", 1)
            vectors.setdefault(int(n), {})[concept] = torch.from_numpy(array).double()
    return dict(sorted(vectors.items()))


def _fit_pair(run: Run, first: Loaded, second: Loaded, stores: Stores) -> tuple[Made, dict[str, Tensor]]:
    """Fit every transfer adapter on a pair; one pass over the texts serves both directions of two models.

    Also the covariance of each model's activations on the map corpus, where a control is drawn from it.
    """
    from steer_bench.experiment.pairing import pair_of, turned

    recipes = [adapter for adapter in run.data.adapters if _needs_source(adapter)]
    loaded = {first.name: first, second.name: second}
    made: Made = {}
    covariances: dict[str, Tensor] = {}
    forward = pair_of(run, first, second, stores)
    if any(adapter.method == "random-covariance" for adapter in run.data.adapters):
        covariances[first.name] = forward.train.source_source / forward.train.n
        covariances[second.name] = forward.train.target_target / forward.train.n
    for pair in (forward, turned(run, forward, stores)):
        source, target = pair.source.model, pair.target.model
        if (source, target) not in run.experiment.directed:
            continue
        for adapter in recipes:
            try:
                found = (
                    {adapter.name: _relayed(run, adapter, loaded[source], loaded[target], stores)}
                    if adapter.method == "text-relay"
                    else _fit_one(run, adapter, pair, loaded[source], stores.source[source].layer)
                )
                made |= {(arm, source, target): one for arm, one in found.items()}
            except ValueError as error:  # too few concepts, say: a row with the reason, not the end of the run
                logger.warning("adapter %s refused for %s -> %s: %s", adapter.name, source, target, error)
                made[adapter.name, source, target] = Transferred({}, {"refused": str(error)})
    return made, covariances


def _needs_source(adapter: Adapter) -> bool:
    from steer_bench.transfer.controls import ROWS

    return adapter.method not in (*ROWS, "few-shot")


def _fit_one(run: Run, adapter: Adapter, pair: Any, source: Loaded, layer: int) -> dict[str, Transferred]:
    """One adapter on one pair: the map's file, and by arm the vectors through it, imported ones too where it takes directions."""
    from steer_bench.models.activations import mean_activations
    from steer_bench.transfer.fits import FITS, transfer
    from steer_bench.transfer.maps import DirectionMap
    from steer_bench.vectors.store import save_tensors

    fitted = FITS[adapter.method](pair, **adapter.options)
    card = {
        "kind": "map",
        "adapter": adapter.name,
        "source": pair.source.model,
        "target": pair.target.model,
        "report": dict(fitted.report),
    }
    save_tensors(run.folder.map(pair.source.model, pair.target.model, adapter.name), fitted.map.tensors(), card)
    pushed, imported = None, {}
    if isinstance(fitted.map, DirectionMap):
        mine = imported_vectors(run, pair.source.model, layer, pair.source.d_model)
        imported = {
            f"{adapter.name}-{name}": Transferred(transfer(fitted.map, of_arm, None), {})
            for name, of_arm in mine.items()
        }
    else:
        groups = run.data.texts_by_side(run.data.measured, run.data.source_half)
        means = mean_activations(
            source, layer, groups, maps={"f": fitted.map}, desc=f"push {source.name} through {adapter.name}"
        )["f"]
        pushed = {key: means[TextSide(key, "+")].value - means[TextSide(key, "-")].value for key in run.data.measured}
    vectors = {key: pair.source.vectors[key] for key in run.data.measured}
    return {adapter.name: Transferred(transfer(fitted.map, vectors, pushed), fitted.report), **imported}


def _relayed(run: Run, adapter: Adapter, source: Loaded, target: Loaded, stores: Stores) -> Transferred:
    """Vectors of texts that the source wrote."""
    from steer_bench.experiment.relay import relay

    vectors, fewest = relay(
        source, stores.source[source.name], target, stores.native[target.name].layer, run.data.measured, seed=run.experiment.seed,
        kept=run.folder.relay(source.name), **adapter.options,
    )  # fmt: skip
    return Transferred(vectors, {"fewest_texts": fewest})


def _save_arms(run: Run, side: Side, stores: Stores, made: Made, inputs: str) -> Path:
    """RUN/arms/TARGET.safetensors: every arm x concept of a target, and S. `side`: the target, as the controls need it."""
    import torch

    from steer_bench.transfer.geometry import geometry
    from steer_bench.vectors.store import Arm, Arms

    target, store = side.model, stores.native[side.model]
    by_arm: dict[tuple[str, str], Mapping[str, Tensor]] = {}
    refused: list[dict[str, str]] = []
    reports: list[dict[str, Any]] = []
    for adapter in run.data.adapters:
        if not _needs_source(adapter):
            own, reasons = _row_vectors(run, adapter, side)
            refused.extend(
                {"arm": adapter.name, "source": "", "target": target, "reason": reason} for reason in reasons
            )
            by_arm |= {(arm, ""): vectors for arm, vectors in own.items()}
            continue
        for source in (source for source, other in run.experiment.directed if other == target):
            transferred = made[adapter.name, source, target]
            if transferred.vectors:
                by_arm[adapter.name, source] = transferred.vectors
                named = [f"{adapter.name}-{entry.name}" for entry in run.experiment.vectors]
                by_arm |= {(n, source): made[n, source, target].vectors for n in named if (n, source, target) in made}
                reports.append({"arm": adapter.name, "source": source, **transferred.report})
            else:
                refused.append(
                    {"arm": adapter.name, "source": source, "target": target, "reason": transferred.report["refused"]}
                )
    by_arm |= {(name, ""): own for name, own in imported_vectors(run, target, store.layer, store.d_model).items()}
    native = {key: side.vectors[key] for key in run.data.splits.test}
    native_mean = torch.stack(
        [torch.nn.functional.normalize(side.vectors[key], dim=0) for key in run.data.splits.fit or run.data.splits.test]
    ).mean(0)
    measured = [
        {"source": source, "target": target, "arm": arm, "r2": _report(reports, arm, source).get("r2"),
         **geometry({key: vectors[key] for key in run.data.splits.test}, native, native_mean)._asdict(),
         **_ceiling(stores, source, target)}
        for (arm, source), vectors in by_arm.items()
        if all(key in vectors for key in run.data.splits.test)
    ]  # fmt: skip
    card = {
        "inputs": inputs, "revision": store.card["revision"], "dtype": store.card["dtype"], "geometry": measured, "fits": reports,
        "asked": run.data.prompt_templates,
        "refused": refused, "versions": versions(), "positions": run.experiment.positions,
        "entries": [[arm, source, sorted(vectors)] for (arm, source), vectors in by_arm.items()],
    }  # fmt: skip
    vectors = {
        Arm(arm, source, concept): vector.float().numpy()
        for (arm, source), of_arm in by_arm.items()
        for concept, vector in of_arm.items()
    }
    Arms(target, store.layer, store.scale, vectors, card).save(run.folder.arms(target))
    return run.folder.arms(target)


def _ceiling(stores: Stores, source: str, target: str) -> dict[str, float | None]:
    """sqrt(reliability * reliability): what the cosines of a transfer between disjoint halves of the texts could at best reach."""
    cards = [stores.native[name].card for name in (source, target) if name]
    if len(cards) < 2 or not all(card.get("halves") and card.get("reliability") for card in cards):
        return {"ceiling": None, "centred_ceiling": None}
    of = [math.prod(max(card["reliability"][key], 0.0) for card in cards) for key in ("cosine", "centred_cosine")]
    return {"ceiling": math.sqrt(of[0]), "centred_ceiling": math.sqrt(of[1])}


def _row_vectors(run: Run, adapter: Adapter, side: Side) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """Vectors of the arms without a source, topics and rules each among themselves, and why an adapter was refused for either."""
    from steer_bench.transfer.controls import arms_of

    vectors: dict[str, dict[str, Tensor]] = {}
    reasons: list[str] = []
    for concepts in (run.data.splits.test, [key for key in run.data.measured if key not in run.data.splits.test]):
        if not concepts:
            continue
        try:
            made = arms_of(adapter.name, adapter.method, adapter.options, side, concepts, run.experiment.seed)
        except ValueError as error:  # a single rule has no other rule's vector, say
            logger.warning("arm %s refused for %s: %s", adapter.name, side.model, error)
            reasons.append(str(error))
            continue
        for arm, of_arm in made.items():
            vectors.setdefault(arm, {}).update(of_arm)
    return vectors, reasons


def _report(reports: Sequence[Mapping[str, Any]], arm: str, source: str) -> Mapping[str, Any]:
    return next((report for report in reports if (report["arm"], report["source"]) == (arm, source)), {})
