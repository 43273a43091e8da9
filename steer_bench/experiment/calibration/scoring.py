"""Scoring: likelihood rows of every arm, by the scorer that runs in the benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from steer_bench.experiment.calibration.bench import DEAD, NATIVE, NULL, RANDOM, SAME, WRONG, Bench, Vectors, dead
from steer_bench.models.load import Loaded
from steer_bench.models.steered.model import SteeredModel
from steer_bench.models.steered.scorer import Scorer
from steer_bench.models.steered.steering import Steering, VectorBank
from steer_bench.results.measures import LIKELIHOOD
from steer_bench.results.rows import Row
from steer_bench.results.stats.grid import ArmKey
from steer_bench.transfer.controls import random as random_directions
from steer_bench.transfer.controls import wrong_concept
from steer_bench.transfer.fits import transfer
from steer_bench.transfer.maps import truncate_or_pad
from steer_bench.vectors.arms import UNSTEERED, Arm, Arms

ROWS = 32
"""Rows of a batch."""


class Job(NamedTuple):
    """A text to score under an arm."""

    arm: ArmKey
    concept: str
    factor: float
    role: str
    number: int
    text: str


def own_arms(bench: Bench) -> dict[ArmKey, Vectors]:
    """Arms that need no other model: native, controls, null arms, and identity from the model itself."""
    side = bench.side(bench.loaded.name, bench.vectors)
    native = {concept: bench.vectors[concept] for concept in (*bench.test, *map(dead, bench.test))}
    arms: dict[ArmKey, Vectors] = {
        NATIVE: native,
        RANDOM: random_directions(side, bench.test, bench.seed),
        WRONG: wrong_concept(side, bench.test, bench.seed),
        ArmKey(SAME, "identity"): transfer(truncate_or_pad(bench.width, bench.width), native, None),
    }
    for null in range(bench.sizes.nulls):
        arms[ArmKey("", f"{NULL}{null + 1}")] = random_directions(side, bench.test, bench.seed + 1000 + null)
    return arms


def measure(bench: Bench, arms: Mapping[ArmKey, Vectors]) -> list[Row]:
    """Likelihood of every steered concept's held-out texts and of neutral texts under every arm, and unsteered."""
    return score(bench, bench.steered, arms, list(_jobs(bench, arms)))


def _jobs(bench: Bench, arms: Mapping[ArmKey, Vectors]) -> Iterator[Job]:
    unsteered, sizes = ArmKey("", UNSTEERED), bench.sizes
    for concept, texts in bench.scored.items():
        for index, text in enumerate(texts):
            yield Job(unsteered, concept, 0.0, "concept" if concept else "neutral", index, text)
    for arm, vectors in arms.items():
        is_null = arm.name.startswith(NULL)
        for concept in vectors:
            for factor in sizes.factors[-1:] if is_null else sizes.factors:
                for role, texts in (("concept", bench.scored[concept]), ("neutral", bench.scored[""])):
                    for index, text in enumerate(texts[: sizes.null_texts] if is_null else texts):
                        yield Job(arm, concept, factor, role, index, text)


def score(bench: Bench, loaded: Loaded, arms: Mapping[ArmKey, Vectors], jobs: Sequence[Job]) -> list[Row]:
    """Return rows as the task concept_likelihood makes them."""
    named = {
        (Arm(arm.name, source=arm.source), concept): vector.float().numpy()
        for arm, vectors in arms.items()
        for concept, vector in vectors.items()
    }
    bank = VectorBank(Arms(loaded.name, bench.layer, bench.scale, named))
    steered = SteeredModel(loaded, bank, batch_size=ROWS)
    steerings = [Steering(job.arm.name, job.arm.source, job.concept, job.factor) for job in jobs]
    try:
        scores = Scorer(steered).score([("", job.text) for job in jobs], steerings)
    finally:
        steered.close()
    return [
        Row(
            task=LIKELIHOOD, target=bench.loaded.name, source=job.arm.source, arm=job.arm.name, concept=job.concept,
            factor=job.factor, item=f"{job.role}-{job.number}", role=job.role, value=score.log_likelihood / score.n_tokens,
            tokens=score.n_tokens,
        )
        for job, score in zip(jobs, scores, strict=True)
    ]  # fmt: skip


def is_dead(row: Row) -> bool:
    """Whether it is of a dead concept."""
    return row.concept.startswith(DEAD)


def is_null(row: Row) -> bool:
    """Whether it is of a null arm."""
    return row.arm.startswith(NULL)
