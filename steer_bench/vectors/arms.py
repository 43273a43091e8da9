"""Arms: everything a target can be steered with, and the file of it.

vectors of a target, transferred vectors, controls -> [Arms] -> VectorBank
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field

from steer_bench.files import Checked
from steer_bench.names import hint
from steer_bench.vectors.store import FileCard, Place, SteeringVector, Vector
from steer_bench.vectors.tensor_file import load_tensors, save_tensors

UNSTEERED = "unsteered"
"""Name of the arm without a vector."""
Kind = Literal["baseline", "transfer", "control", "ceiling"]
"""What an arm is for: what a transfer is measured against, a claim, what a claim must beat, what a vector could at best reach."""


@dataclass(frozen=True, order=True)
class Arm:
    """One way of steering a target.

    >>> Arm("linear", source="gemma-3-270m").name, Arm("random", "3").name
    ('linear', 'random-3')
    """

    adapter: str
    """native, identity, linear, random, …"""
    variant: str = ""
    """Which of the arms that one adapter makes: the number of a seed, of texts, the name of imported vectors."""
    source: str = ""
    """Model the vector was learned on; "" where the arm has none (native, random, mean)."""

    @property
    def name(self) -> str:
        """How tables, rows and the command line call the arm."""
        return f"{self.adapter}-{self.variant}" if self.variant else self.adapter

    def key(self, concept: str) -> str:
        """Return the name of the arm's tensor for a concept in an arms file."""
        return f"{self.name}|{self.source}|{concept}"


class ArmEntry(Checked):
    """What an arms file says of one arm."""

    adapter: str
    variant: str = ""
    source: str = ""
    kind: Kind = "transfer"
    method: str = ""
    """Method of the adapter."""
    concepts: tuple[str, ...] = ()
    """Concepts that the arm has a vector for; none where it asks for the concept instead."""

    @classmethod
    def of(cls, arm: Arm, kind: Kind = "transfer", method: str = "", concepts: Iterable[str] = ()) -> ArmEntry:
        """Make the entry of an arm."""
        return cls(
            adapter=arm.adapter, variant=arm.variant, source=arm.source, kind=kind, method=method, concepts=tuple(concepts)
        )  # fmt: skip

    @property
    def arm(self) -> Arm:
        """The arm itself."""
        return Arm(self.adapter, self.variant, self.source)


class FitLine(Checked):
    """What the fit of one transfer arm found out: held-out R2, the strength or rank that was chosen, …"""

    model_config = ConfigDict(extra="allow")

    arm: str
    source: str
    r2: float | None = None


class GeometryLine(Checked):
    """How near an arm's vectors lie to the target's own, over the test concepts (see `transfer.geometry`)."""

    source: str
    target: str
    arm: str
    r2: float | None = None
    """Held-out R2 of the arm's map on activations."""
    cosine: float
    centred_cosine: float
    retrieval: float
    ceiling: float | None = None
    """What `cosine` could at best reach, given how reliable the vectors of both models are."""
    centred_ceiling: float | None = None


class Refused(Checked):
    """An arm that could not be made, and why."""

    arm: str
    source: str
    target: str
    reason: str


class Dose(Checked):
    """The factor at which an arm does a stated damage to neutral text, under the vector of one concept."""

    arm: str
    source: str
    concept: str
    level: float
    """Damage that was asked for: perplexity of neutral text, steered over unsteered."""
    factor: float | None
    """None where the arm does not reach the level."""
    damage: float | None = None
    """Perplexity ratio on the calibration texts at that factor."""
    reason: str = ""
    """Why there is no factor."""


class ArmsCard(FileCard):
    """What an arms file says of its arms and where they come from."""

    arms: tuple[ArmEntry, ...] = ()
    fits: tuple[FitLine, ...] = ()
    geometry: tuple[GeometryLine, ...] = ()
    refused: tuple[Refused, ...] = ()
    asked: dict[str, dict[str, str]] = Field(default={})
    """Arms that ask for the concept instead of steering: name -> template by kind of concept."""
    positions: str = ""
    doses: tuple[Dose, ...] = ()
    doses_inputs: str = ""
    """Changes with anything that the doses depend on."""
    yardstick: tuple[tuple[str, str, float | None], ...] = ()
    """(instruction, unsteered reply, its perplexity) on prompts that nothing is scored on: what a judge is set by."""

    @classmethod
    def of(cls, card: Mapping[str, object], path: str | Path) -> ArmsCard:
        """Return the card of an arms file, typed. Raises ValueError for another kind of file, and one of an older form."""
        if card.get("kind") != "arms":
            raise ValueError(f"{path}: holds {card.get('kind', 'no')} tensors, not the arms of a target")
        if "arms" not in card:
            raise ValueError(
                f"{path}: made by an older steer-bench; steer-bench fit RUN makes it again (converted vectors: steer-bench convert)"
            )
        return super().of(card, path)


class TargetCard(ArmsCard, Place):
    """The card of an arms file with what it says of the target."""

    target: str


@dataclass(frozen=True)
class Arms:
    """Everything a target can be steered with: a vector for each arm and concept, and the unit of factors."""

    target: str
    layer: int
    scale: float
    """S: median centred residual norm of neutral tokens at this layer."""
    vectors: Mapping[tuple[Arm, str], Vector]
    """(arm, concept) -> (d_model,) float32"""
    card: ArmsCard = field(default_factory=ArmsCard)
    """Provenance; an arm that it does not list is a transfer."""
    sha256: str = ""
    """Checksum of the tensors of the file it was read from."""

    @property
    def entries(self) -> tuple[ArmEntry, ...]:
        """Every arm with its kind and concepts: those of the card, then those that it does not list."""
        concepts: dict[Arm, list[str]] = {}
        for arm, concept in self.vectors:
            concepts.setdefault(arm, []).append(concept)
        listed = {entry.arm for entry in self.card.arms}
        return self.card.arms + tuple(
            ArmEntry.of(arm, concepts=sorted(found)) for arm, found in concepts.items() if arm not in listed
        )

    def save(self, path: Path) -> None:
        """Write the arms file of a target."""
        own = {
            "kind": "arms", "target": self.target, "layer": self.layer, "scale": self.scale, "d_model": self.d_model,
            "arms": [entry.model_dump(mode="json") for entry in self.entries],
        }  # fmt: skip
        tensors = {arm.key(concept): vector for (arm, concept), vector in self.vectors.items()}
        if len(tensors) < len(self.vectors):
            names = [arm.key(concept) for arm, concept in self.vectors]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{path}: two arms are called {twice!r}; give one of their adapters another name")
        save_tensors(path, tensors, {**self.card.to_json(), **own})

    @classmethod
    def load(cls, path: str | Path) -> Arms:
        """Read an arms file. Raises ValueError as `load_tensors`, and for another kind of file, an older form or uneven widths."""
        tensors, content, sha256 = load_tensors(path)
        card = TargetCard.of({} if not tensors else content, path)
        assert isinstance(card, TargetCard)
        wrong = [key for key, vector in tensors.items() if vector.shape != (card.d_model,)]
        if wrong:
            raise ValueError(
                f"{path}: vector {wrong[0]!r} has shape {tensors[wrong[0]].shape}, the target's d_model is {card.d_model}; "
                "transfer it first (steer-bench fit)"
            )
        places = {entry.arm.key(concept): (entry.arm, concept) for entry in card.arms for concept in entry.concepts}
        apart = sorted(places.keys() ^ tensors.keys())
        if apart:
            raise ValueError(
                f"{path}: vector {apart[0]!r} stands only in its card or only in its data; make the file again"
            )
        vectors = {places[key]: vector for key, vector in tensors.items()}
        return cls(card.target, card.layer, card.scale, vectors, card, sha256)

    @property
    def d_model(self) -> int:
        """Width of every vector."""
        return len(next(iter(self.vectors.values())))

    def find(self, arm: str, source: str, concept: str) -> Vector:
        """Return the vector of an arm, by the arm's name. Raises ValueError, with what there is, for anything unknown."""
        by_name = self._by_name
        if (arm, source, concept) in by_name:
            return by_name[arm, source, concept]
        for given, known, what in (
            (arm, {name for name, _, _ in by_name}, "arm"),
            (source, {other for name, other, _ in by_name if name == arm}, f"source of arm {arm!r}"),
            (concept, {key for name, other, key in by_name if (name, other) == (arm, source)}, "concept"),
        ):
            if given not in known:
                raise ValueError(f"unknown {what} {given!r} in the arms of {self.target}; {hint(given, sorted(known))}")
        raise AssertionError("an arm that is known has been found")

    def dose(self, arm: str, source: str, concept: str, level: float) -> float:
        """Return the factor at which an arm does a level of damage. Raises ValueError where it is not known, with the reason."""
        self.find(arm, source, concept)
        mine = [one for one in self.card.doses if (one.arm, one.source, one.concept) == (arm, source, concept)]
        found = next((one for one in mine if one.level == level), None)
        if found is None:
            known = ", ".join(f"{one.level:g}" for one in mine) or "none; steer-bench dose RUN finds them"
            raise ValueError(
                f"the arms of {self.target} have no dose of {arm!r} for damage {level:g}; there are: {known}"
            )
        if found.factor is None:
            raise ValueError(f"arm {arm!r} does not reach damage {level:g} for concept {concept!r}: {found.reason}")
        return found.factor

    @cached_property
    def _by_name(self) -> dict[tuple[str, str, str], Vector]:
        return {(arm.name, arm.source, concept): vector for (arm, concept), vector in self.vectors.items()}

    def __getitem__(self, concept: str) -> SteeringVector:
        """Return a concept's vector, where there is one arm. Raises ValueError for several, and for an unknown concept."""
        arms = sorted({arm for arm, _ in self.vectors})
        if len(arms) > 1:
            names = ", ".join(f"({arm.name!r}, {arm.source!r})" for arm in arms)
            raise ValueError(
                f"several arms of {self.target} have vectors: {names}; choose one with .find(arm, source, concept)"
            )
        vector = self.find(arms[0].name, arms[0].source, concept)
        return SteeringVector(self.target, self.layer, self.scale, vector)
