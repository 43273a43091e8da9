"""The arms of one target: its own vectors, controls, transferred and imported vectors, with how near they lie to native.

vectors, PairVectors, imported vectors -> [Arms]
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import torch

from steer_bench.transfer.adapters import Adapter
from steer_bench.transfer.controls import control_arms
from steer_bench.transfer.geometry import geometry
from steer_bench.transfer.pair_vectors import PairVectors, Vectors
from steer_bench.transfer.pairs import ModelSide
from steer_bench.vectors.arms import Arm, ArmEntry, Arms, ArmsCard, FitLine, GeometryLine, Kind, Refused
from steer_bench.vectors.store import VectorCard, VectorStore

logger = logging.getLogger(__name__)


def make_arms(
    folds: Sequence[tuple[ModelSide, Sequence[str]]],
    stores: Mapping[str, VectorStore],
    adapters: Sequence[Adapter],
    made: PairVectors,
    imported: Mapping[str, Vectors],
    *,
    imported_as: Mapping[str, str] = MappingProxyType({}),
    sources: Sequence[str],
    test: Sequence[str],
    rules: Sequence[str] = (),
    seed: int = 0,
    card: ArmsCard | None = None,
) -> Arms:
    """Make every arm of a target.

    folds: the target with the concepts that a fold's fits may use, and those that are measured through them; geometry is over all.
    stores: each model's own vectors. made: what the adapters made of the pairs (source, target). imported: name of an arm -> its
    vectors; imported_as: how they were made, where there is more to say. test, rules: the concepts that are measured; controls choose
    among the concepts of one of the two. card: provenance.
    """
    arms: dict[ArmEntry, Vectors] = {}
    refused: list[Refused] = []
    fits: list[FitLine] = []
    target = folds[0][0] if len(folds) == 1 else replace(folds[0][0], fit=())
    name = target.model

    def add(arm: Arm, kind: Kind, method: str, vectors: Vectors) -> None:
        concepts = tuple(sorted(vectors))
        arms[ArmEntry.of(arm, kind, method, concepts)] = vectors

    for adapter in adapters:
        if not adapter.needs_source:
            own, reasons = _controls(adapter, folds, (test, rules), seed)
            refused += [Refused(arm=adapter.name, source="", target=name, reason=reason) for reason in reasons]
            for arm, mine in own.items():
                add(arm, adapter.kind, adapter.method, mine)
            continue
        for source in sources:
            one = made[Arm(adapter.name, source=source), name]
            if one.refused:
                refused.append(Refused(arm=adapter.name, source=source, target=name, reason=one.refused))
                continue
            fits.append(FitLine.model_validate({"arm": adapter.name, "source": source, **one.report}))
            for (arm, of), found in made.items():
                if (arm.adapter, arm.source, of) == (adapter.name, source, name):
                    add(arm, adapter.kind, adapter.method, found.vectors)
    for arm_name, vectors in imported.items():
        add(Arm(arm_name), "transfer", imported_as.get(arm_name, "imported"), vectors)
    whole = {entry.arm: vectors for entry, vectors in arms.items() if all(key in vectors for key in test)}
    filled = (card or ArmsCard()).model_copy(
        update={
            "arms": tuple(arms), "fits": tuple(fits), "refused": tuple(refused),
            "geometry": _geometry(whole, target, test, fits, {key: store.card for key, store in stores.items()}),
        }
    )  # fmt: skip
    rows = {(entry.arm, key): vector.float().numpy() for entry, found in arms.items() for key, vector in found.items()}
    return Arms(name, stores[name].layer, stores[name].scale, rows, filled)


def _controls(
    adapter: Adapter, folds: Sequence[tuple[ModelSide, Sequence[str]]], groups: Sequence[Sequence[str]], seed: int
) -> tuple[dict[Arm, dict[str, torch.Tensor]], list[str]]:
    """Make the arms without a source, of each group of concepts by itself; also why the adapter was refused for a group."""
    vectors: dict[Arm, dict[str, torch.Tensor]] = {}
    reasons: list[str] = []
    for concepts in groups:
        made: dict[Arm, dict[str, torch.Tensor]] = {}
        try:
            for target, measured in folds:
                if not set(measured).isdisjoint(concepts):
                    for arm, found in control_arms(adapter, target, concepts, seed).items():
                        made.setdefault(arm, {}).update({key: found[key] for key in found if key in measured})
        except ValueError as error:  # a single rule has no other rule's vector, say
            logger.warning("arm %s refused for %s: %s", adapter.name, folds[0][0].model, error)
            reasons.append(str(error))
            continue
        for arm, own in made.items():
            vectors.setdefault(arm, {}).update(own)
    return vectors, reasons


def _geometry(
    arms: Mapping[Arm, Vectors],
    target: ModelSide,
    test: Sequence[str],
    fits: Sequence[FitLine],
    cards: Mapping[str, VectorCard],
) -> tuple[GeometryLine, ...]:
    """Compare each arm's vectors of the test concepts with the target's own."""
    native = {key: target.vectors[key] for key in test}
    units = [torch.nn.functional.normalize(target.vectors[key], dim=0) for key in target.fit or test]
    native_mean = torch.stack(units).mean(0)
    r2 = {(line.arm, line.source): line.r2 for line in fits}
    lines = []
    for arm, vectors in arms.items():
        found = geometry({key: vectors[key] for key in test}, native, native_mean)
        ceiling, centred = _ceilings(cards, arm.source, target.model)
        lines.append(
            GeometryLine(
                source=arm.source, target=target.model, arm=arm.name, r2=r2.get((arm.name, arm.source)), **found._asdict(),
                ceiling=ceiling, centred_ceiling=centred,
            )
        )  # fmt: skip
    return tuple(lines)


def _ceilings(cards: Mapping[str, VectorCard], source: str, target: str) -> tuple[float | None, float | None]:
    """Return sqrt(reliability * reliability): what the cosines of a transfer between disjoint halves could at best reach."""
    both = [cards[name] for name in (source, target) if name]
    found = [card.reliability for card in both if card.halves and card.reliability is not None]
    if len(found) < 2:
        return None, None
    cosine = math.prod(max(one.cosine, 0.0) for one in found)
    centred = math.prod(max(one.centred_cosine, 0.0) for one in found)
    return math.sqrt(cosine), math.sqrt(centred)
