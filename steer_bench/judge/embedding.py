"""The embedding judge: the offline default, a proxy made of sentence embeddings and perplexity.

    cases + reference texts + yardstick -> [embedding judge] -> judgements

Each aspect is a similarity (or a log perplexity) put on 0..2 by quantiles of texts whose answer is known; `calibration()` gives
all of them, so that a run can write them down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

import numpy as np

from steer_bench.judge.embedder import WHEEL_MODEL, Embedder, model_folder, weights_digest
from steer_bench.judge.judgement import ASPECTS, MAX_RATING, Judgement, Keep, Question, digest, distinct_2
from steer_bench.models.load import check_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

DESCRIPTION_WEIGHT = 0.25
"""Weight of similarity to the description, beside 1 for the reference direction."""
INSTRUCTION_QUANTILES = (0.05, 0.78)
"""Median similarity of (instruction, reply) mismatched and matched, on AxBench's unsteered replies; for a judge without a yardstick."""
UNSTEERED_PERPLEXITY = 2.3
"""Median perplexity of greedy unsteered replies of SmolLM2-135M (2.5) and Gemma-3-270M (2.1); for a judge without a yardstick."""
PERPLEXITY_SPAN = 100.0
"""Fluency reaches 0 at this many times the unsteered median perplexity: between prose of other authors (20 to 40 times the perplexity
of greedy replies, on SmolLM2-135M and Gemma-3-270M) and the same prose with its words shuffled (500 to 1000 times)."""
DISTINCT_2_SPAN = (0.1, 0.5)
"""Repetition penalty: 0 at or below the first, 1 at or above the second. 99 % of AxBench's replies lie above 0.47 (code, mathematics)."""
SCHEME = 4
"""Changes whenever the same texts get other ratings."""
UNSTEERED_QUANTILE = 0.9
"""A concept's rating begins at this quantile of the unsteered replies' similarities to it."""
_DIGITS = 4
"""Ratings are rounded, so that the last bits of a batched matrix product do not show."""


@dataclass(frozen=True)
class Reference:
    """Texts of one concept with a known answer; none of them may have been used for its vector."""

    description: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    """Texts of the same genre without the concept."""


class Unsteered(NamedTuple):
    """One mark of a yardstick: what the target says unsteered to a prompt that nothing is scored on."""

    instruction: str
    reply: str
    perplexity: float | None
    """Of the reply under the target itself; None where it was not measured."""


class Scale(NamedTuple):
    """Puts a number on 0..2: linear between the two, constant outside."""

    zero: float
    two: float

    def rate(self, value: float) -> float:
        """Rate a value: 0 at or below `zero`, 2 at or above `two`.

        >>> Scale(0.25, 0.75).rate(0.5), Scale(0.25, 0.75).rate(9.0)
        (1.0, 2.0)
        """
        if self.two <= self.zero:  # references that cannot be told apart: a step halfway
            return MAX_RATING if value >= (self.zero + self.two) / 2 else 0.0
        return float(MAX_RATING * min(1.0, max(0.0, (value - self.zero) / (self.two - self.zero))))


@dataclass(frozen=True)
class Calibration:
    """Every threshold of an embedding judge."""

    model: str
    concepts: Mapping[str, Mapping[str, float]]
    """zero and two of each concept: where its rating begins and is full."""
    instruction: Mapping[str, float]
    """zero and two."""
    unsteered_perplexity: float
    """Median of the yardstick."""
    yardstick: int
    """Number of unsteered replies in it; 0 where the scales are those of the reference texts alone."""
    description_weight: float = DESCRIPTION_WEIGHT
    perplexity_span: float = PERPLEXITY_SPAN
    distinct_2_span: tuple[float, float] = DISTINCT_2_SPAN


def fluency_rating(perplexity: float, unsteered: float, distinct: float) -> float:
    """Rate fluency, linear in log perplexity from 2 (at most the unsteered median) to 0 (at 100 times it), times the repetition penalty.

    >>> fluency_rating(10.0, 10.0, 1.0), round(fluency_rating(100.0, 10.0, 1.0), 6), fluency_rating(1.0, 10.0, 0.1)
    (2.0, 1.0, 0.0)
    """
    low, high = DISTINCT_2_SPAN
    penalty = min(1.0, max(0.0, (distinct - low) / (high - low)))
    excess = math.log(perplexity / unsteered) / math.log(PERPLEXITY_SPAN)
    return MAX_RATING * min(1.0, max(0.0, 1.0 - excess)) * penalty


class EmbeddingJudge:
    """Rates by sentence embeddings and the unsteered target's perplexity. A proxy, quick, free and the same every time.

    Concept: similarity of the reply to the centroid of the concept's positives minus that of its negatives, plus a quarter of its
    similarity to the description; 0 at the median of the negatives or, where it is higher, at the 0.9 quantile of the yardstick's replies
    (`above_unsteered`), 2 at the median of the positives (each reference is left out of its own centroid). Instruction: similarity of
    reply and instruction; 0 at the median of mismatched, 2 at that of matched pairs of the yardstick. Fluency: `fluency_rating`, from
    the yardstick's median perplexity. What it cannot see: irony, negation, facts, grammar that the target finds likely.

    A yardstick is fixed before it measures: its replies are to prompts that nothing is scored on, so that one text has one rating
    whatever is rated beside it.
    """

    def __init__(
        self,
        model_path: str | Path = WHEEL_MODEL,
        references: Mapping[str, Reference] | None = None,
        *,
        yardstick: Iterable[tuple[str, str, float | None]] = (),
        batch_size: int = 64,
        device: str = "cpu",
    ) -> None:
        """`yardstick`: (instruction, reply, perplexity) of the target, unsteered; two instructions with a reply set the scales."""
        self.yardstick = tuple(
            sorted({Unsteered(*mark) for mark in yardstick if all(map(str.strip, mark[:2]))}, key=repr)
        )
        if len({mark.instruction for mark in self.yardstick}) < 2:
            self.yardstick = ()
        self.references = dict(references or {})
        for concept_id, reference in self.references.items():
            positives, negatives = len(reference.positives), len(reference.negatives)
            if min(positives, negatives) < 2:
                raise ValueError(
                    f"concept {concept_id!r}: {positives} positive and {negatives} negative reference texts; the embedding "
                    "judge needs at least two of each"
                )
        self.model_path = model_folder(model_path)
        self.embedder = Embedder(self.model_path, batch_size=batch_size, device=device)
        self.usage = None
        shipped = str(model_path) == WHEEL_MODEL or "minilm-l6-v2" in self.model_path.lower().replace("_", "-")
        self.name = f"embedding ({'all-MiniLM-L6-v2' if shipped else Path(self.model_path).name}): a proxy"
        self._concepts: dict[str, tuple[NDArray[np.float32], Scale]] = {}

    @cached_property
    def _instruction(self) -> Scale:
        """Where the rating of an instruction begins and is full: from the pairs of the yardstick."""
        if not self.yardstick:
            return Scale(*INSTRUCTION_QUANTILES)
        names = np.array([mark.instruction for mark in self.yardstick], dtype=object)
        asked = self.embedder.embed(list(names))  # (n_pairs, width)
        similarity = self.embedder.embed([mark.reply for mark in self.yardstick]) @ asked.T
        others = similarity[names[:, None] != names[None, :]]
        return Scale(*(round(float(np.median(some)), 6) for some in (others, np.diag(similarity))))

    @cached_property
    def _unsteered_perplexity(self) -> float:
        finite = [mark.perplexity for mark in self.yardstick if is_perplexity(mark.perplexity)]
        return round(float(np.median(finite)), 6) if finite else UNSTEERED_PERPLEXITY

    def calibration(self) -> Calibration:
        """Return every threshold in use, for the run's files."""
        texts = [text for one in self.references.values() for text in (one.description, *one.positives, *one.negatives)]
        self.embedder.embed(texts)  # all at once: full batches
        concepts = {}
        for concept_id in sorted(self.references):
            zero, two = (round(end, 6) for end in self._concept(concept_id)[1])
            concepts[concept_id] = {"zero": zero, "two": two}
        model = Path(self.model_path).name if Path(self.model_path).exists() else self.model_path
        instruction = self._instruction._asdict()
        return Calibration(model, concepts, instruction, self._unsteered_perplexity, len(self.yardstick))

    def probe(self) -> None:
        """Raise ValueError where there is no such model; load nothing."""
        try:
            if not Path(self.model_path).is_dir():
                check_model(self.model_path)
        except ValueError as error:
            raise ValueError(f"judge.model: {error}") from error

    def fingerprint(self) -> str:
        """Hash the embedding model, the references and the yardstick."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return digest(["embedding", SCHEME, weights_digest(self.model_path), self.references, self.yardstick])

    def key(self, question: Question) -> str:
        """See Judge."""
        case, aspect = question
        seen = {
            "concept": [case.concept_id],
            "instruction": [case.instruction],
            "fluency": [case.perplexity if is_perplexity(case.perplexity) else None],
        }[aspect]
        return digest([self.fingerprint(), aspect, seen, case.reply])

    def answer(self, questions: Sequence[Question], keep: Keep) -> list[Judgement]:
        """See Judge. Raises ValueError where a concept has no reference texts."""
        concepts = {case.concept_id for case, aspect in questions if aspect == "concept"}
        if unknown := sorted(concepts - self.references.keys()):
            raise ValueError(
                f"the embedding judge has no reference texts of {', '.join(unknown[:5])}; it has them of "
                f"{', '.join(sorted(self.references)[:5]) or 'no concept'}: give it references of every concept it is to rate"
            )
        texts = [case.reply for case, aspect in questions if aspect != "fluency"]
        texts += [case.instruction for case, aspect in questions if aspect == "instruction"]
        self.embedder.embed([text for text in texts if text.strip()])  # all at once: full batches
        judgements = []
        for question in questions:
            judgements.append(self._answer(question))
            if not judgements[-1].reason:
                keep(question, judgements[-1])
        return judgements

    def _answer(self, question: Question) -> Judgement:
        case, aspect = question
        assert aspect in ASPECTS, aspect
        if not case.reply.strip():  # no concept, no answer, no language; left out it would flatter a broken arm
            return Judgement({aspect: 0.0}, flags=("empty_reply",))
        if aspect == "concept":
            direction, scale = self._concept(case.concept_id)
            rating = scale.rate(float(self.embedder.embed([case.reply])[0] @ direction))
        elif aspect == "instruction" and not case.instruction.strip():
            rating = MAX_RATING  # nothing asked, nothing missed
        elif aspect == "instruction":
            reply, instruction = self.embedder.embed([case.reply, case.instruction])
            rating = self._instruction.rate(float(reply @ instruction))
        else:
            if not is_perplexity(case.perplexity):
                return Judgement(reason="no_perplexity")
            rating = fluency_rating(case.perplexity, self._unsteered_perplexity, distinct_2(case.reply))
        return Judgement({aspect: round(rating, _DIGITS)})

    def _concept(self, concept_id: str) -> tuple[NDArray[np.float32], Scale]:
        if concept_id not in self._concepts:
            reference = self.references[concept_id]
            texts = reference.positives, reference.negatives, [reference.description]
            positives, negatives, described = (self.embedder.embed(some) for some in texts)
            direction, scale = concept_scale(positives, negatives, described[0])
            if self.yardstick:
                replies = sorted({mark.reply for mark in self.yardstick})
                scale = above_unsteered(scale, self.embedder.embed(replies) @ direction)
            self._concepts[concept_id] = direction, scale
        return self._concepts[concept_id]


def above_unsteered(scale: Scale, unsteered: NDArray[np.float32]) -> Scale:
    """Return the scale with its zero where nine of ten unsteered replies lie below it, for (n,) similarities of those.

    Replies lie nearer to any concept than the reference negatives do, so what no steering has would count as some of it. At most half
    of the way to the positives, so that a concept the model speaks of unasked still has a scale.

    >>> above_unsteered(Scale(0.0, 1.0), np.array([-1.0, 0.25], dtype=np.float32))
    Scale(zero=0.125, two=1.0)
    >>> above_unsteered(Scale(0.0, 1.0), np.array([0.75, 0.75], dtype=np.float32))
    Scale(zero=0.5, two=1.0)
    """
    most = float(np.quantile(unsteered, UNSTEERED_QUANTILE))
    return Scale(round(min(max(scale.zero, most), max(scale.zero, (scale.zero + scale.two) / 2)), 6), scale.two)


def concept_scale(
    positives: NDArray[np.float32], negatives: NDArray[np.float32], description: NDArray[np.float32]
) -> tuple[NDArray[np.float32], Scale]:
    """Return the direction and 0..2 scale of a concept; each reference text is measured by a direction it had no part in.

    (n_positive, width), (n_negative, width), (width,) -> direction (width,)
    """

    def direction(positive_mean: NDArray[np.float32], negative_mean: NDArray[np.float32]) -> NDArray[np.float32]:
        difference = positive_mean - negative_mean
        length = float(np.linalg.norm(difference)) or 1.0
        return difference / length + np.float32(DESCRIPTION_WEIGHT) * description

    positive_mean, negative_mean = positives.mean(axis=0), negatives.mean(axis=0)
    own = [float(text @ direction(rest, negative_mean)) for text, rest in _left_out(positives)]
    others = [float(text @ direction(positive_mean, rest)) for text, rest in _left_out(negatives)]
    return direction(positive_mean, negative_mean), Scale(float(np.median(others)), float(np.median(own)))


def _left_out(rows: NDArray[np.float32]) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Yield each row beside the mean of the others: (n, width) -> n times (width,), (width,)."""
    for row in rows:
        yield row, (rows.sum(axis=0) - row) / np.float32(len(rows) - 1)


def is_perplexity(value: float | None) -> TypeGuard[float]:
    """Tell whether a number can be a perplexity: finite and above 0."""
    return value is not None and math.isfinite(value) and value > 0
