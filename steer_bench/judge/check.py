"""A judge is measured before it is believed: how well it tells apart texts whose answer is known.

judge + concept texts -> [check] -> AUROC of each aspect, unscored share, cost
"""

import math
import random
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

    None where a side is empty. Raises ValueError for scores that are no numbers.

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
    texts: dict[str, None] = {}
    known: list[Known] = []
    for concept in concepts:
        for positive, replies in ((True, concept.positives[:limit]), (False, concept.negatives[:limit])):
            texts |= dict.fromkeys(replies)
            known += [Known(Case(concept.id, concept.description, "", one), positive, concept.genre) for one in replies]
    rows = _check_aspect(judge, "concept", known)
    owner = {one.case.reply: one.case for one in known}
    fluent = [owner[text] for text in texts]
    broken = [replace(case, reply=shuffle_words(case.reply, rng)) for case in fluent]
    if perplexity is not None:
        values = list(perplexity([case.reply for case in (*fluent, *broken)]))
        measured = [
            replace(case, perplexity=float(value)) for case, value in zip((*fluent, *broken), values, strict=True)
        ]
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
    tokens_before, cost_before = _spent(judge.usage)
    ratings, reasons = _rate_aspect(judge, aspect, [one.case for one in known])
    tokens, cost = _spent(judge.usage)
    groups = ["all"]
    genres = sorted({one.group for one in known} - {"all"})
    if len(genres) > 1:
        groups += genres
    rows = []
    for group in groups:
        chosen = [i for i, one in enumerate(known) if group in ("all", one.group)]
        why = [reasons[i] for i in chosen if ratings[i] is None]
        rows.append(
            CheckRow(
                judge=judge.name,
                aspect=aspect,
                group=group,
                auroc=_mean_auroc(
                    [known[i] for i in chosen], [ratings[i] for i in chosen], by_concept=aspect == "concept"
                ),
                n=len(chosen),
                unscored=len(why) / len(chosen) if chosen else math.nan,
                reasons={reason: why.count(reason) for reason in sorted(set(why))},
                tokens=tokens - tokens_before if group == "all" else 0,
                cost=cost - cost_before if group == "all" and cost is not None and cost_before is not None else None,
            )
        )
    return rows


def _spent(usage: Usage | None) -> tuple[int, float | None]:
    return (0, None) if usage is None else (usage.input_tokens + usage.output_tokens, usage.cost)


def _rate_aspect(judge: Judge, aspect: str, cases: Sequence[Case]) -> tuple[list[float | None], list[str]]:
    """Return the rating (or None) and the reason of one aspect of each case; ask for nothing else."""
    judgements = judge.answer([Question(case, aspect) for case in cases], lambda question, judgement: None)
    return [one.ratings.get(aspect) for one in judgements], [one.reason for one in judgements]


def _mean_auroc(known: Sequence[Known], ratings: Sequence[float | None], *, by_concept: bool) -> float | None:
    sides: dict[str, tuple[list[float], list[float]]] = {}
    for one, rating in zip(known, ratings, strict=True):
        if rating is not None:
            sides.setdefault(one.case.concept_id if by_concept else "", ([], []))[0 if one.positive else 1].append(
                rating
            )
    areas = [area for positives, negatives in sides.values() if (area := auroc(positives, negatives)) is not None]
    return sum(areas) / len(areas) if areas else None
