"""Effects: what each arm did to each concept and item, at the factor where arms are compared.

    rows -> [factor curves, matched or selected factor, per-item effects] -> bootstrap

Likelihood arms meet at matched damage, generation arms at the factor chosen on the selection prompts.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steer_bench.results import Row

Array = NDArray[np.float64]

LIKELIHOOD = "concept_likelihood"
PERPLEXITY = "steered_perplexity"
UNSTEERED = "unsteered"
SEEDED = ("random", "random-covariance")
"""Controls that may have several seeds, an arm each."""
SAMPLE_MARK = "#"
"""Between a prompt's id and the number of one of several sampled replies to it, in a row's item."""
DAMAGE_LIMIT = 1.3
"""Arms are compared at the largest factor whose perplexity ratio on neutral text is at most this."""


Selection = Mapping[float, Sequence[float | None]]
"""Factor -> values on the selection prompts."""


class Arm(NamedTuple):
    """What steers: an arm, and the model its vectors were learned on ("" where there is none)."""

    source: str
    name: str


def pooled_name(arm: str) -> str:
    """The arm that a seed of a random control belongs to: statistics take the mean over seeds, item by item.

    >>> pooled_name("random-3"), pooled_name("random-covariance-2"), pooled_name("few-shot-4"), pooled_name("random-covariance")
    ('random', 'random-covariance', 'few-shot-4', 'random-covariance')
    """
    name, _, seed = arm.rpartition("-")
    return name if name in SEEDED and seed.isdigit() else arm


class Matched(NamedTuple):
    """The factor at which an arm does the allowed damage."""

    factor: float
    reached: bool
    """Whether the grid crosses the limit; else `factor` is the grid's largest."""


def matched_factor(factors: Sequence[float], ratios: Sequence[float], limit: float = DAMAGE_LIMIT) -> Matched:
    """The largest factor, walking up from 0, whose perplexity ratio is at most `limit`.

    The first crossing counts; between grid points the log ratio is taken as linear, and factor 0 has ratio 1.

    >>> matched_factor([1.0, 2.0], [1.1, 1.21], limit=1.1 * 1.1**0.5)
    Matched(factor=1.5, reached=True)
    >>> matched_factor([1.0, 2.0], [1.1, 1.2])
    Matched(factor=2.0, reached=False)
    """
    if len(factors) != len(ratios) or not len(factors):
        raise ValueError(f"{len(factors)} factors and {len(ratios)} ratios; give one ratio a factor, at least one")
    if any(not math.isfinite(x) or x <= 0 for x in (*factors, *ratios)) or limit <= 1:
        raise ValueError("factors and ratios are finite and above 0, the limit above 1; leave unmeasured factors out")
    below, log_below = 0.0, 0.0
    for factor, ratio in sorted(zip(map(float, factors), map(float, ratios), strict=True)):
        if ratio > limit:
            share = (math.log(limit) - log_below) / (math.log(ratio) - log_below)
            return Matched(round(below + share * (factor - below), 12), True)
        below, log_below = factor, math.log(ratio)
    return Matched(below, False)


def selected_factor(values: Selection) -> float | None:
    """The factor with the best mean on the selection prompts; of equals the smaller one.

    Unscored values (None) are left out; a factor with less than half of its prompts scored can not be selected.
    With one factor there is nothing to select. None where no factor can be selected.

    >>> selected_factor({0.2: [1.0, 0.0], 0.4: [0.0, 1.0], 0.6: [2.0, None, None]})
    0.2
    """
    if len(values) == 1:
        return next(iter(values))
    best: tuple[float, float] | None = None
    for factor in sorted(values):
        scored = [value for value in values[factor] if value is not None]
        if scored and 2 * len(scored) >= len(values[factor]):
            mean = math.fsum(scored) / len(scored)
            if best is None or mean > best[1] + 1e-12:
                best = (factor, mean)
    return None if best is None else best[0]


@dataclass(frozen=True)
class Curve:
    """What one arm does to the likelihood of one concept's texts and of neutral texts, over its factors.

    Changes are log-likelihood a token, steered minus unsteered, nats; NaN where unmeasured.
    """

    factors: Array
    """(n_factors,), ascending."""
    concept: Array
    """(n_factors, n_texts): change on the concept's texts."""
    neutral: Array
    """(n_factors, n_neutral): change on neutral texts."""
    tokens: Array
    """(n_neutral,): tokens of the neutral texts, the weights of the perplexity ratio."""

    @cached_property
    def lifts(self) -> Array:
        """(n_factors,): mean change on concept texts minus mean change on neutral texts, nats a token."""
        return nan_mean(self.concept) - nan_mean(self.neutral)

    @cached_property
    def ratios(self) -> Array:
        """(n_factors,): perplexity of the neutral texts, steered over unsteered."""
        known = np.isfinite(self.neutral)
        weights = np.where(known, self.tokens, 0.0)
        total = weights.sum(axis=-1)
        change = (np.where(known, self.neutral, 0.0) * weights).sum(axis=-1)
        return np.exp(-np.divide(change, total, out=np.full(len(total), np.nan), where=total > 0))

    def matched(self, limit: float = DAMAGE_LIMIT) -> Matched | None:
        """`matched_factor` over the factors whose ratio is known; None where none is."""
        if not self.factors.any():  # an arm without a factor, such as a prompt: it does what it does
            return Matched(0.0, False)
        ratios = self.ratios
        known = np.isfinite(ratios)
        return matched_factor(list(self.factors[known]), list(ratios[known]), limit) if known.any() else None

    def at(self, factor: float) -> "Curve":
        """The curve at one factor, linear between its factors and 0 at factor 0."""
        exact = self.factors == factor
        if exact.any():
            return Curve(self.factors[exact], self.concept[exact], self.neutral[exact], self.tokens)
        grid = np.concatenate([[0.0], self.factors])
        upper = int(np.clip(np.searchsorted(grid, factor), 1, len(grid) - 1))
        share = min(1.0, (factor - grid[upper - 1]) / (grid[upper] - grid[upper - 1]))

        def between(changes: Array) -> Array:
            low = changes[upper - 2] if upper > 1 else np.zeros(changes.shape[1])
            return ((1 - share) * low + share * changes[upper - 1])[None]

        return Curve(np.array([factor]), between(self.concept), between(self.neutral), self.tokens)


def within(selection: Selection, cost: Curve | None, limit: float) -> Selection | None:
    """Of the factors to select from, those up to the one at which the arm does the allowed damage.

    None where the arm does more at the smallest of them: what is allowed is not to steer. A factor whose cost is not known, for it
    lies above the cost's grid or there is no cost, can not be selected. An arm without factors costs nothing on neutral text.
    """
    if math.isinf(limit):
        return selection
    matched = None if cost is None else cost.matched(limit)
    largest = 0.0 if matched is None else matched.factor
    kept = {factor: values for factor, values in selection.items() if factor <= largest}
    return None if matched is not None and matched.reached and not kept else kept


@dataclass(frozen=True)
class Measured:
    """What one task measured on one target: per-item values of every arm at its factor; NaN where unmeasured."""

    concepts: tuple[str, ...]
    effects: Mapping[Arm, Array]
    """(n_concepts, n_items): arm minus unsteered, on the same items (likelihood: change on the concept's texts)."""
    neutral: Mapping[Arm, Array]
    """(n_concepts, n_neutral): change on neutral texts, to be taken off; no columns for generation tasks."""
    scores: Mapping[Arm, Array]
    """(n_concepts, n_items): the score itself; the effects again for likelihood."""
    factors: Mapping[Arm, Array]
    """(n_concepts,): the matched or selected factor."""
    ratios: Mapping[Arm, Array]
    """(n_concepts,): perplexity ratio on neutral text at that factor."""
    scored: Mapping[Arm, int]
    """Values there are."""
    totals: Mapping[Arm, int]
    """Values there should be: of several samples of a prompt, and seeds of a random arm, each is one."""
    gate: NDArray[np.bool_] | None = None
    """(n_concepts,): concepts that native moves on the selection prompts; None where the task has no such prompts."""


def likelihood_curves(rows: Iterable[Row], target: str, task: str = LIKELIHOOD) -> dict[Arm, dict[str, Curve]]:
    """Factor curves of every arm and concept, paired by item with the unsteered rows."""
    table = _group(rows, task, target)
    texts = {concept: table.items(concept, "concept") for concept in table.concepts}
    neutral = table.items(None, "neutral")
    curves: dict[Arm, dict[str, Curve]] = defaultdict(dict)
    for arm in table.steered:
        for concept in table.concepts:
            measured = table.factors(arm, concept)
            factors = [factor for factor in measured if factor] or measured
            if not factors:
                continue
            changes = {
                role: _stack([table.changes(arm, concept, factor, role, items) for factor in factors], len(items))
                for role, items in (("concept", texts[concept]), ("neutral", neutral))
            }
            tokens = np.array([table.tokens(concept, item) for item in neutral], dtype=float)
            tokens = tokens if tokens.any() else np.ones(len(neutral))
            curves[arm][concept] = Curve(np.array(factors), changes["concept"], changes["neutral"], tokens)
    return dict(curves)


def measure_likelihood(
    rows: Sequence[Row],
    target: str,
    limit: float = DAMAGE_LIMIT,
    *,
    curves: Mapping[Arm, Mapping[str, Curve]] | None = None,
) -> Measured:
    """Likelihood lift of every arm and concept at matched damage; the unsteered arm is 0 by definition."""
    curves = likelihood_curves(rows, target) if curves is None else curves
    concepts = tuple(sorted({concept for by_concept in curves.values() for concept in by_concept}))
    widths = {c: by[c].concept.shape[1] for by in curves.values() for c in by}
    n_items, n_neutral = max(widths.values(), default=0), max((c.neutral.shape[1] for c in _all(curves)), default=0)
    effects, neutral, factors, ratios, totals = {}, {}, {}, {}, {}
    for arm, by_concept in curves.items():
        effects[arm], neutral[arm] = _missing(len(concepts), n_items), _missing(len(concepts), n_neutral)
        factors[arm], ratios[arm] = _missing(len(concepts)), _missing(len(concepts))
        totals[arm] = sum(widths.values()) + len(concepts) * n_neutral
        for index, concept in enumerate(concepts):
            matched = by_concept[concept].matched(limit) if concept in by_concept else None
            if matched is None:
                continue
            point = by_concept[concept].at(matched.factor)
            effects[arm][index, : point.concept.shape[1]] = point.concept[0]
            neutral[arm][index] = point.neutral[0]
            factors[arm][index], ratios[arm][index] = matched.factor, point.ratios[0]
    scored = {arm: int(np.isfinite(effects[arm]).sum() + np.isfinite(neutral[arm]).sum()) for arm in effects}
    return Measured(concepts, effects, neutral, effects, factors, ratios, scored, totals)


def measure_generation(
    rows: Sequence[Row],
    task: str,
    target: str,
    *,
    costs: Mapping[Arm, Mapping[str, Curve]] | None = None,
    limit: float = math.inf,
) -> Measured:
    """Scores and effects on role "score" at the factor selected on role "select", per arm and concept.

    `costs`: likelihood curves that give the perplexity ratio at the selected factor. With a `limit` only factors up to the matched
    one can be selected (see `within`). The unsteered arm has effect 0.
    """
    table, replies, unsteered = (
        _group(one_a_prompt(rows), task, target),
        _replies(rows, task, target),
        Arm("", UNSTEERED),
    )
    items = {concept: table.items(concept, "score") for concept in table.concepts}
    shape = (len(table.concepts), max(map(len, items.values()), default=0))
    effects, scores, factors, ratios, scored, totals = {}, {}, {}, {}, {}, {}
    for arm in (unsteered, *table.steered):
        effects[arm], scores[arm] = _missing(*shape), _missing(*shape)
        factors[arm], ratios[arm] = _missing(shape[0]), _missing(shape[0])
        scored[arm], totals[arm] = 0, sum(map(len, items.values()))
        for index, concept in enumerate(table.concepts):
            cost = (costs or {}).get(arm, {}).get(concept)
            selection = None if arm == unsteered else within(table.selection(arm, concept), cost, limit)
            base = table.base(concept, items[concept])
            who, factor, values = unsteered, 0.0, base
            if selection is not None:
                chosen = selected_factor(selection)
                if chosen is None:
                    continue
                who, factor, values = arm, chosen, table.values(arm, concept, chosen, "score", items[concept])
            scores[arm][index, : len(values)] = values
            effects[arm][index, : len(values)] = values - base
            factors[arm][index], ratios[arm][index] = factor, cost_at(cost, factor)
            rated, asked = replies.get((who, concept, factor)) or replies.get((who, "", factor)) or (0, 0)
            scored[arm] += rated
            totals[arm] += max(0, asked - len(items[concept]))
    neutral = {arm: np.empty((shape[0], 0)) for arm in effects}
    return Measured(table.concepts, effects, neutral, scores, factors, ratios, scored, totals, _gate(table))


def _replies(rows: Iterable[Row], task: str, target: str) -> dict[tuple[Arm, str, float], tuple[int, int]]:
    """(arm, concept, factor) -> replies that have a value, and replies, of role "score"; every sample and seed is one."""
    counts: dict[tuple[Arm, str, float], tuple[int, int]] = defaultdict(lambda: (0, 0))
    for row in rows:
        if (row.task, row.target, row.role) == (task, target, "score"):
            where = (Arm(row.source, pooled_name(row.arm)), row.concept, row.factor)
            scored, asked = counts[where]
            counts[where] = (scored + (row.value is not None), asked + 1)
    return dict(counts)


def _gate(table: "_Table") -> NDArray[np.bool_] | None:
    """Concepts whose selection prompts native moves upwards, at the factor selected on them; None without such prompts."""
    native = Arm("", "native")
    if native not in table.steered or not any(table.items(concept, "select") for concept in table.concepts):
        return None
    passed = np.zeros(len(table.concepts), dtype=bool)
    for index, concept in enumerate(table.concepts):
        items = table.items(concept, "select")
        factor = selected_factor(table.selection(native, concept)) if items else None
        if factor is not None:
            passed[index] = float(nan_mean(table.changes(native, concept, factor, "select", items))) > 0
    return passed


def one_a_prompt(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows with the samples of a prompt averaged, scored ones only: they share the prompt and are no items of their own."""
    samples: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in rows:
        prompt, mark, _ = row.item.partition(SAMPLE_MARK)
        if mark:
            samples[*row.key[:6], prompt, row.role].append(row)
        else:
            yield row
    for several in samples.values():
        values = [row.value for row in several if row.value is not None]
        mean = math.fsum(values) / len(values) if values else None
        yield replace(several[0], item=several[0].item.partition(SAMPLE_MARK)[0], value=mean)


def nan_mean(values: Array, axis: int = -1) -> Array:
    """Mean over what is measured; NaN, without a warning, where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def cost_at(cost: Curve | None, factor: float) -> float:
    """Perplexity ratio at a factor within the curve's grid, NaN where it was not measured; 1 at factor 0."""
    if factor == 0:
        return 1.0
    return math.nan if cost is None or factor > cost.factors[-1] else float(cost.at(factor).ratios[0])


def _all(curves: Mapping[Arm, Mapping[str, Curve]]) -> list[Curve]:
    return [curve for by_concept in curves.values() for curve in by_concept.values()]


def _missing(*shape: int) -> Array:
    return np.full(shape, np.nan)


def _stack(lines: Sequence[Array], width: int) -> Array:
    return np.stack(lines) if lines else np.empty((0, width))


Values = dict[str, dict[float, dict[str, dict[str, float | None]]]]
"""concept -> factor -> role -> item -> value."""


@dataclass(frozen=True)
class _Table:
    """The rows of one task and target, by arm, concept, factor, role and item."""

    steered: Mapping[Arm, Values]
    unsteered: Mapping[tuple[str, str], Row]
    concepts: tuple[str, ...]
    names: Mapping[tuple[str, str], set[str]]

    def items(self, concept: str | None, role: str) -> list[str]:
        """The items of a concept (None: of all) in that role, whichever arm they were measured on, sorted."""
        if concept is None:
            return sorted(set().union(*(names for (_, r), names in self.names.items() if r == role)))
        return sorted(self.names.get((concept, role), set()) | self.names.get(("", role), set()))

    def _of(self, arm: Arm, concept: str) -> Mapping[float, dict[str, dict[str, float | None]]]:
        by_concept = self.steered[arm]
        return by_concept.get(concept) or by_concept.get("") or {}

    def factors(self, arm: Arm, concept: str) -> list[float]:
        return sorted(self._of(arm, concept))

    def values(self, arm: Arm, concept: str, factor: float, role: str, items: Sequence[str]) -> Array:
        """(n_items,): NaN where unscored or not measured."""
        by_item = self._of(arm, concept).get(factor, {}).get(role, {})
        return np.array([by_item.get(item) for item in items], dtype=float)

    def base(self, concept: str, items: Sequence[str]) -> Array:
        """(n_items,): unsteered values."""
        rows = [self.unsteered.get((concept, item)) or self.unsteered.get(("", item)) for item in items]
        return np.array([None if row is None else row.value for row in rows], dtype=float)

    def changes(self, arm: Arm, concept: str, factor: float, role: str, items: Sequence[str]) -> Array:
        return self.values(arm, concept, factor, role, items) - self.base(concept, items)

    def tokens(self, concept: str, item: str) -> int:
        row = self.unsteered.get((concept, item)) or self.unsteered.get(("", item))
        return 0 if row is None else row.tokens

    def selection(self, arm: Arm, concept: str) -> dict[float, list[float | None]]:
        return {f: list(roles.get("select", {}).values()) for f, roles in self._of(arm, concept).items()}


def _group(rows: Iterable[Row], task: str, target: str) -> _Table:
    steered: dict[Arm, Values] = {}
    unsteered: dict[tuple[str, str], Row] = {}
    seeds: dict[tuple[Arm, str, float, str, str], list[float]] = defaultdict(list)
    pooled = cache(pooled_name)  # a few names, asked for once a row
    names: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        if row.task != task or row.target != target:
            continue
        names[row.concept, row.role].add(row.item)
        if row.arm == UNSTEERED:
            unsteered[row.concept, row.item] = row
        else:
            arm, value = Arm(row.source, pooled(row.arm)), row.value
            roles = steered.setdefault(arm, {}).setdefault(row.concept, {}).setdefault(row.factor, {})
            if arm.name in SEEDED:
                values = seeds[arm, row.concept, row.factor, row.role, row.item]
                values += [] if value is None else [value]
                value = math.fsum(values) / len(values) if values else None
            roles.setdefault(row.role, {})[row.item] = value
    concepts = tuple(sorted({concept for concept, _ in names} - {""})) or (("",) if names else ())
    return _Table(steered, unsteered, concepts, names)
