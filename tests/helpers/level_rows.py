"""Rows at levels of damage, few enough to work their statistics out by hand."""

from collections.abc import Mapping, Sequence

from steer_bench.results.rows import Row

TARGET = "t"


def scores(
    arm: str,
    values: Mapping[str, Sequence[float | None]],
    *,
    task: str = "rule_following",
    source: str = "",
    level: float = 1.3,
    factor: float = 0.2,
    role: str = "score",
) -> list[Row]:
    """Rows of one arm: concept -> a value per prompt; None is unscored. Concepts have prompts of their own under the same names."""
    level, factor = (0.0, 0.0) if arm in ("unsteered", "prompt") else (level, factor)
    return [
        Row(
            task, TARGET, source, arm, concept, factor, f"{role}-{i}", role, value, 10,
            "" if value is not None else "timeout", level=level,
        )
        for concept, of_concept in values.items()
        for i, value in enumerate(of_concept)
    ]  # fmt: skip


def texts(
    arm: str,
    concept: str,
    values: Sequence[float],
    neutral: Sequence[float] = (),
    *,
    task: str = "concept_likelihood",
    source: str = "",
    level: float = 1.3,
    factor: float = 0.2,
    tokens: Sequence[int] = (10, 10, 10, 10),
) -> list[Row]:
    """Rows of likelihoods of one arm and concept; unsteered neutral texts stand for every concept, as runs have them."""
    plain = arm == "unsteered"
    level, factor = (0.0, 0.0) if plain else (level, factor)
    mine = [
        Row(task, TARGET, source, arm, concept, factor, f"{concept}-{i}", "concept", value, 10, level=level)
        for i, value in enumerate(values)
    ]
    return mine + [
        Row(
            task, TARGET, source, arm, "" if plain else concept, factor, f"{concept}-n{i}", "neutral", value, tokens[i],
            level=level,
        )
        for i, value in enumerate(neutral)
    ]  # fmt: skip
