"""Stage fit: transfer maps of every pair and the arms of every target, RUN/maps/… and RUN/arms/TARGET.safetensors."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch

from steer_bench.concepts.splits import Splits
from steer_bench.experiment.folder import VectorKind
from steer_bench.experiment.imports import import_digests, imported_vectors
from steer_bench.experiment.run import MissingStageError, Run, start, versions
from steer_bench.files import digest
from steer_bench.harness import ranks
from steer_bench.models.load import Loaded, load_model
from steer_bench.transfer.adapters import Adapter
from steer_bench.transfer.fits import FITS, transfer
from steer_bench.transfer.maps import DirectionMap
from steer_bench.transfer.measure_pair import measure_pair, model_side
from steer_bench.transfer.pair_vectors import (
    ArmVectors,
    PairVectors,
    is_fitted,
    load_pair,
    save_map,
    save_pair,
    transfer_vectors,
    united,
)
from steer_bench.transfer.pairs import ModelSide, Pair, check_unseen
from steer_bench.transfer.relay import relay
from steer_bench.transfer.target_arms import make_arms as make_target_arms
from steer_bench.vectors.arms import Arm, ArmsCard
from steer_bench.vectors.store import VectorStore, check_same_texts
from steer_bench.vectors.tensor_file import load_card, load_tensors

logger = logging.getLogger(__name__)
FORM = 2
"""Version of the pair and arms files; files of another version are made again."""


def fit(run: Run) -> list[Path]:
    """Make the transfer maps of every pair and the arms of every target: RUN/maps/…, RUN/arms/TARGET.safetensors, RUN/protocol.json.

    On several ranks each fits every n-th pair.
    """
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
    start(run)
    kinds: tuple[VectorKind, ...] = ("", "source", "few-shot") if run.data.few_shot_sizes else ("", "source")
    missing = [name for name in run.models if not all(run.folder.vectors(name, kind).is_file() for kind in kinds)]
    if missing:
        raise MissingStageError(
            f"no vectors of {missing[0]} in {run.folder}; run steer-bench extract {run.folder} first"
        )
    run.data.protocol.save(run.folder.protocol)
    native, source = _stores(run, run.models), _stores(run, run.models, "source")
    for first, second in run.experiment.directed:
        check_same_texts(source[first], native[second])
    for number, fold in run.data.folds.items():
        check_unseen(fold.fit, run.data.measured_in(number))


def pairs(run: Run) -> list[tuple[str, str]]:
    """Return the unordered pairs of models that are to be fitted; none when no arm comes from another model or needs the map texts."""
    if all(not adapter.needs_source and adapter.method != "random-covariance" for adapter in run.data.adapters):
        return []
    return list(dict.fromkeys((min(pair), max(pair)) for pair in run.experiment.directed))


def arms_up_to_date(run: Run) -> bool:
    """Return whether every target has its arms, for the same inputs."""
    inputs, files = _inputs(run, run.models), [run.folder.arms(target) for target in run.targets]
    if all(file.is_file() and load_card(file).get("inputs") == inputs for file in files):
        logger.info("arms in %s are up to date", run.folder.path / "arms")
        return True
    return False


def fit_pair(run: Run, first: str, second: str, loaded: dict[str, Loaded] | None = None) -> None:
    """Fit every transfer adapter on a pair, in the directions asked for, fold by fold: RUN/maps/FIRST--SECOND.safetensors.

    `loaded`: models that are in memory; on return those of this pair.
    """
    loaded = {} if loaded is None else loaded
    for number, fold in run.data.folds.items():
        inputs, path = _inputs(run, [first, second], fold), run.folder.pair(first, second, number)
        if is_fitted(path, inputs):
            continue
        for name in list(loaded):
            if name not in (first, second):
                del loaded[name]
        for name in (first, second):
            if name not in loaded:
                loaded[name] = load_model(name, dtype=run.experiment.dtype, device=run.experiment.device)
        save_pair(path, inputs, *_fit_pair(run, number, loaded[first], loaded[second]))


def make_arms(run: Run) -> list[Path]:
    """Make the arms of every target from the vectors and the fitted pairs: RUN/arms/TARGET.safetensors. No model is loaded."""
    stores, inputs = _stores(run, run.models), _inputs(run, run.models)
    made: dict[int, PairVectors] = {number: {} for number in run.data.folds}
    covariances: dict[int, dict[str, torch.Tensor]] = {number: {} for number in run.data.folds}
    for number, (first, second) in product(run.data.folds, pairs(run)):
        of_pair, of_models = load_pair(run.folder.pair(first, second, number))
        made[number] |= of_pair
        covariances[number] |= of_models
    for name in run.targets:
        store = stores[name]
        card = ArmsCard(
            inputs=inputs, revision=store.card.revision, dtype=store.card.dtype, asked=run.data.prompt_templates, versions=versions(),
            positions=run.experiment.positions,
        )  # fmt: skip
        few_shot = _few_shot(run, name)
        imported = imported_vectors(run.data, name, store.layer, store.d_model)
        folds = [
            (_side(run, store, fold, covariances[number].get(name), few_shot), run.data.measured_in(number))
            for number, fold in run.data.folds.items()
        ]
        arms = make_target_arms(
            folds, stores, run.data.adapters, united(list(made.values())),
            {name: one.tensors for name, one in imported.items()},
            imported_as={name: one.method for name, one in imported.items()}, card=card, seed=run.experiment.seed,
            sources=[source for source, other in run.experiment.directed if other == name],
            test=run.data.splits.test, rules=[key for key in run.data.measured if key not in run.data.splits.test],
        )  # fmt: skip
        arms.save(run.folder.arms(name))
    return [run.folder.arms(target) for target in run.targets]


def _stores(run: Run, names: Sequence[str], kind: VectorKind = "") -> dict[str, VectorStore]:
    return {name: VectorStore.load(run.folder.vectors(name, kind)) for name in names}


def _side(
    run: Run,
    store: VectorStore,
    fold: Splits,
    covariance: torch.Tensor | None = None,
    few_shot: dict[int, dict[str, torch.Tensor]] | None = None,
) -> ModelSide:
    genres = {key: concept.genre for key, concept in run.data.concepts.items()}
    return model_side(store, fold.fit, genres, covariance, few_shot)


def _inputs(run: Run, names: Sequence[str], fold: Splits | None = None) -> str:
    """Return a hash that changes with anything that the arms of these models depend on; `fold`: those of one fold."""
    data = run.data
    if fold is None and data.experiment.splits.folds:
        return digest([_inputs(run, names, one) for one in data.folds.values()])
    fold = fold or data.splits
    native, source = _stores(run, names), _stores(run, names, "source")
    digests = {name: (native[name].sha256, source[name].sha256) for name in names}
    adapters = [(a.name, a.kind, a.method, a.options) for a in data.adapters]
    return digest(
        FORM, digests, adapters, data.fold_texts(fold), run.experiment.seed, run.experiment.map_pairs, data.measured, fold.fit,
        *([import_digests(data)] if run.experiment.vectors else []),
    )  # fmt: skip


def _few_shot(run: Run, name: str) -> dict[int, dict[str, torch.Tensor]]:
    """Read n -> vectors of the measured concepts from n texts a side; empty where no adapter asks for them."""
    vectors: dict[int, dict[str, torch.Tensor]] = {}
    if run.data.few_shot_sizes:
        for key, array in load_tensors(run.folder.vectors(name, "few-shot")).tensors.items():
            n, concept = key.split("|", 1)
            vectors.setdefault(int(n), {})[concept] = torch.from_numpy(array).double()
    return dict(sorted(vectors.items()))


def _fit_pair(run: Run, number: int, first: Loaded, second: Loaded) -> tuple[PairVectors, dict[str, torch.Tensor]]:
    """Fit every transfer adapter of one fold on a pair; one pass over the texts serves both directions of two models.

    Also the covariance of each model's activations on the map corpus, where a control is drawn from it.
    """
    loaded = {first.name: first, second.name: second}
    native, source = _stores(run, list(loaded)), _stores(run, list(loaded), "source")
    texts, fold = run.data.vector_and_held_out_texts, run.data.folds[number]
    made: PairVectors = {}
    covariances: dict[str, torch.Tensor] = {}
    forward = measure_pair(
        first, second, (native[first.name].layer, native[second.name].layer),
        (_side(run, source[first.name], fold), _side(run, native[second.name], fold)), run.data.fold_texts(fold),
        methods={adapter.method for adapter in run.data.adapters}, concepts=[texts[key][0] for key in fold.fit],
        samples=run.experiment.map_pairs, seed=run.experiment.seed,
    )  # fmt: skip
    if any(adapter.method == "random-covariance" for adapter in run.data.adapters):
        covariances[first.name] = forward.train.source_source / forward.train.n
        covariances[second.name] = forward.train.target_target / forward.train.n
    backward = forward.swap(_side(run, source[second.name], fold), _side(run, native[first.name], fold))
    for pair in (forward, backward):
        one, other = pair.source.model, pair.target.model
        if (one, other) not in run.experiment.directed:
            continue
        for adapter in (adapter for adapter in run.data.adapters if adapter.needs_source):
            try:
                if adapter.method == "text-relay":
                    read, fewest = relay(
                        loaded[one], source[one], loaded[other], native[other].layer, run.data.measured_in(number),
                        seed=run.experiment.seed, kept=run.folder.relay(one, number),
                        **adapter.options,  # type: ignore[arg-type]  # the adapter has checked them
                    )  # fmt: skip
                    made[Arm(adapter.name, source=one), other] = ArmVectors(read, {"fewest_texts": fewest})
                else:
                    made |= _fit_one(run, number, adapter, pair, loaded[one], source[one].layer)
            except ValueError as error:  # too few concepts, say: a row with the reason, not the end of the run
                logger.warning("adapter %s refused for %s -> %s: %s", adapter.name, one, other, error)
                made[Arm(adapter.name, source=one), other] = ArmVectors({}, refused=str(error))
    return made, covariances


def _fit_one(run: Run, number: int, adapter: Adapter, pair: Pair, source: Loaded, layer: int) -> PairVectors:
    """Fit one adapter on one pair: the map's file, and the vectors through it, imported ones too where it takes directions."""
    fitted, (one, other) = FITS[adapter.method](pair, **adapter.options), (pair.source.model, pair.target.model)
    save_map(run.folder.map(one, other, adapter.name, number), fitted, adapter.name, one, other)
    texts = run.data.text_halves if run.data.halves else run.data.vector_and_held_out_texts
    concepts = [texts[key][0] for key in run.data.measured_in(number)]  # as the source's vectors are made of them
    desc = f"push {source.name} through {adapter.name}"
    pushed = transfer_vectors(fitted, pair.source.vectors, source, layer, concepts, desc=desc)
    made = {(Arm(adapter.name, source=one), other): pushed}
    if isinstance(fitted.map, DirectionMap):
        for name, given in imported_vectors(run.data, one, layer, pair.source.d_model).items():
            own = {key: vector for key, vector in given.tensors.items() if key in run.data.measured_in(number)}
            made[Arm(adapter.name, name, one), other] = ArmVectors(transfer(fitted.map, own, None))
    return made
