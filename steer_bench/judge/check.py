"""A judge is measured before it is believed: how well it tells apart texts whose answer is known.

judge + concept texts -> [check] -> AUROC of each aspect, unscored share, cost
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from steer_bench.concepts.concept import Concept
from steer_bench.judge.judgement import Case, Judge, Question, Usage


class CheckRow(NamedTuple):
    """How well one judge tells one aspect."""

    judge: str
    aspect: str
    group: str
    """"all", or a genre."""
    auroc: float | None
    """Chance that a text that has it is rated above one that has not, ties half; None where one side has no rating."""
    n: int
    """Texts given, on both sides."""
    unscored: float
    """Share of them without a rating."""
    reasons: Mapping[str, int]
    """Why, and how often."""
    tokens: int
    cost: float | None
    """Dollars, where a price is known."""


class Known(NamedTuple):
    """A case with a known answer."""

    case: Case
    positive: bool
    group: str


def auroc(positives: Sequence[float], negatives: Sequence[float]) -> float | None:
    """Return the area under the ROC curve: the chance that a positive scores above a negative, ties half (Mann-Whitney U).

    None where a side is empty. Raises ValueError for scores that are NaN or infinite.

    >>> auroc([2.0, 1.0], [0.0, 1.0])
    0.875
    """
    if not len(positives) or not len(negatives):
        return None
    if not all(map(math.isfinite, (*positives, *negatives))):
        raise ValueError("scores hold NaN or infinity; leave unscored items out")
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(positives, negatives).statistic) / (len(positives) * len(negatives))


def check_judge(
    judge: Judge,
    concepts: Sequence[Concept],
    *,
    pairs: Sequence[tuple[str, str]] = (),
    perplexity: Callable[[Sequence[str]], Sequence[float]] | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> list[CheckRow]:
    """Check concept (over all and by genre), fluency and, where there are `pairs` (instruction, reply), instruction.

    Concept: positives against negatives of the same genre; AUROC within each concept, averaged over them. Fluency: the same texts
    against themselves with shuffled words; `perplexity` (texts -> their perplexities under the unsteered target) is needed by
    the embedding judge. Instruction: replies to their own prompt against the reply to another. `limit`: texts per side and concept
    (pairs in all). Concepts must not hold texts the judge has as references.
    """
    rng = random.Random(seed)  # noqa: S311  # no secret
    known: list[Known] = []
    for concept in concepts:
        for positive, replies in ((True, concept.positives[:limit]), (False, concept.negatives[:limit])):
            known += [Known(Case(concept.id, concept.description, "", one), positive, concept.genre) for one in replies]
    rows = _check_aspect(judge, "concept", known)
    fluent = list({one.case.reply: one.case for one in known}.values())  # each text once
    broken = [replace(case, reply=shuffle_words(case.reply, rng)) for case in fluent]
    if perplexity is not None:
        every = (*fluent, *broken)
        values = perplexity([case.reply for case in every])
        measured = [replace(case, perplexity=float(value)) for case, value in zip(every, values, strict=True)]
        fluent, broken = measured[: len(fluent)], measured[len(fluent) :]
    both = [Known(case, True, "all") for case in fluent] + [Known(case, False, "all") for case in broken]
    rows += _check_aspect(judge, "fluency", both)
    if pairs:
        rows += _check_aspect(judge, "instruction", _pairs_and_mismatches(pairs[:limit], rng))
    return rows


def shuffle_words(text: str, rng: random.Random) -> str:
    """Return the text with its words in another order."""
    words = text.split()
    rng.shuffle(words)
    return " ".join(words)


def _pairs_and_mismatches(pairs: Sequence[tuple[str, str]], rng: random.Random) -> list[Known]:
    known = []
    for instruction, reply in pairs:
        others = [other for prompt, other in pairs if prompt != instruction]
        known.append(Known(Case("", "", instruction, reply), True, "all"))
        if others:
            known.append(Known(Case("", "", instruction, rng.choice(others)), False, "all"))
    return known


def _check_aspect(judge: Judge, aspect: str, known: Sequence[Known]) -> list[CheckRow]:
    before = replace(judge.usage or Usage())
    judgements = judge.answer([Question(one.case, aspect) for one in known], lambda question, judgement: None)
    now = judge.usage or before
    tokens = now.input_tokens + now.output_tokens - before.input_tokens - before.output_tokens
    cost = None if now.cost is None or before.cost is None else now.cost - before.cost
    genres = sorted({one.group for one in known} - {"all"})
    rows = []
    for group in ("all", *(genres if len(genres) > 1 else ())):
        chosen = [pair for pair in zip(known, judgements, strict=True) if group in ("all", pair[0].group)]
        why = Counter(judgement.reason for _, judgement in chosen if aspect not in judgement.ratings)
        area = _mean_auroc([(one, judgement.ratings.get(aspect)) for one, judgement in chosen], aspect)
        unscored = why.total() / len(chosen) if chosen else math.nan
        taken = (tokens, cost) if group == "all" else (0, None)
        rows.append(CheckRow(judge.name, aspect, group, area, len(chosen), unscored, dict(sorted(why.items())), *taken))
    return rows


def _mean_auroc(rated: Sequence[tuple[Known, float | None]], aspect: str) -> float | None:
    sides: dict[str, tuple[list[float], list[float]]] = {}
    for one, rating in rated:
        if rating is not None:
            within = one.case.concept_id if aspect == "concept" else ""
            sides.setdefault(within, ([], []))[0 if one.positive else 1].append(rating)
    areas = [area for positives, negatives in sides.values() if (area := auroc(positives, negatives)) is not None]
    return sum(areas) / len(areas) if areas else None
