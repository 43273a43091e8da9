"""Calibration: the whole measurement on cases whose answer is known.

    model -> [rotated twin, permuted twin, shuffled pairs, dead concepts, random arms] -> checks

A twin (see `twins`) computes the same as the model in other coordinates, so the right transfer map is known, every vector
through it must be native's and the recovered fraction 1. Where pairs are shuffled, concepts are dead or arms are random, there
is nothing to find, and no verdict may say that there is. Everything runs through the code that runs a benchmark.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from steer_bench import shipped
from steer_bench.activations import MomentAccumulator, centred_norm, mean_activations, paired, tokenize
from steer_bench.concepts import Concept, halves, held_out, load_concepts, load_texts
from steer_bench.models import Loaded, d_model, decoder_layers, encode, load_model, resolve_layer
from steer_bench.results import Row
from steer_bench.stats import LIKELIHOOD, Bootstrap, Estimate, hierarchical_bootstrap, measure_likelihood, verdicts
from steer_bench.stats import Arm as ArmKey
from steer_bench.transfer.adapters import load_adapter
from steer_bench.transfer.fits import FITS, Fit, Pair, Side, transfer
from steer_bench.transfer.maps import TransferMap, truncate_or_pad
from steer_bench.transfer.rows import random as random_directions
from steer_bench.transfer.rows import wrong_concept
from steer_bench.twins import random_permutation, random_rotation, rotated_twin
from steer_bench.vectors import UNSTEERED, Arm, Arms

Vectors = Mapping[str, Tensor]
"""Concept -> (d_model,) float64."""

LOGITS, COSINE, RECOVERED = 1e-3, 0.999, 0.02
"""Largest difference of a twin's logits; smallest cosine of a map that recovers Q; how near 1 a recovered fraction must be
where its interval, which for vectors so alike is narrower still, does not hold 1."""
FALSE_POSITIVES = 0.1
"""Largest share of null arms that may get a verdict of transfer at 95 %."""
SHUT = "native itself does not steer"
CLAIMS = ("transfers", "equivalent to native")
SHUFFLED = ("linear", "low-rank", "procrustes", "mlp", "concept-ridge")
"""Adapters that learn from pairs."""
NATIVE, RANDOM, WRONG = ArmKey("", "native"), ArmKey("", "random"), ArmKey("", "wrong-concept")
SAME, ROTATED, PERMUTED, SHUFFLED_PAIRS = "same model", "rotated twin", "permuted twin", "shuffled pairs"
DEAD, NULL = "dead-", "null-"
"""What the ids of dead concepts and the names of null arms begin with."""


@dataclass(frozen=True)
class Check:
    """One case with a known answer."""

    name: str
    """The case, and what of it is checked."""
    passed: bool
    measured: str
    expected: str

    def __str__(self) -> str:
        return f"{'pass' if self.passed else 'FAIL'}  {self.name}: {self.measured} (expected {self.expected})"


@dataclass(frozen=True)
class Sizes:
    """How much is measured: about five minutes on two cores for a model of 135M parameters."""

    concepts: int = 10
    """Concepts that are steered; the others serve the map."""
    positives: int = 16
    """Texts of a concept behind its vector (half of them for the concepts that serve the map)."""
    negatives: int = 48
    scored: int = 4
    """Held-out texts of a concept, and as many neutral texts, whose likelihood is measured."""
    words: int = 20
    """Scored texts are cut to as many words."""
    factors: tuple[float, ...] = (0.2, 0.4)
    pairs: int = 7
    """Paired tokens of a map, as a multiple of d_model."""
    map_texts: int = 50
    """Fewest texts of a map, whatever the width: every tenth is held out."""
    nulls: int = 20
    """Random arms of the false-positive check, measured on `null_texts` texts at the largest factor."""
    null_texts: int = 2


def calibrate(
    model_name: str = "smollm2-135m-instruct",
    *,
    sizes: Sizes = Sizes(),
    layer: int | float = 0.5,
    device: str | None = None,
    seed: int = 0,
) -> list[Check]:
    """All checks on one model, in float32. Raises ValueError for a model of which no twin can be made."""
    loaded = load_model(model_name, dtype="float32", device=device)
    bench = _Bench(loaded, resolve_layer(layer, len(decoder_layers(loaded.model))), sizes, seed)
    width = bench.width
    rotated = _twin(bench, ROTATED, random_rotation(width, seed), ("identity", "linear", "procrustes"), SHUFFLED)
    permuted = _twin(bench, PERMUTED, random_permutation(width, seed), ("identity", "linear"))
    rows = _measure(bench, {**_own_arms(bench), **rotated.arms, **permuted.arms})
    results = _bootstrap(bench, [row for row in rows if not (_is_dead(row) or _is_null(row))])
    return [
        _native_steers(results),
        *_same_model(bench, results),
        *_like_native(bench, results, rotated),
        *_like_native(bench, results, permuted),
        _shuffled_pairs(results, rotated),
        _dead_concepts(bench, rows),
        _false_positives(bench, rows),
    ]


# -------------------------------------------------------------------------------------------------- what is measured on


@dataclass(frozen=True)
class _Bench:
    """The model under calibration with its texts and its own vectors."""

    loaded: Loaded
    layer: int
    sizes: Sizes
    seed: int

    @cached_property
    def all_concepts(self) -> list[Concept]:
        """The shipped concepts; the first ones are steered."""
        return load_concepts(shipped("tasks") / "data" / "concepts.jsonl")

    @cached_property
    def test(self) -> tuple[str, ...]:
        """Concepts that are steered."""
        return tuple(concept.id for concept in self.all_concepts[: self.sizes.concepts])

    @cached_property
    def fit(self) -> tuple[str, ...]:
        """Concepts that only serve the map."""
        return tuple(concept.id for concept in self.all_concepts[self.sizes.concepts :])

    @cached_property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Texts by side: +concept and -concept; for a dead concept both are halves of the same positives."""
        sizes, groups = self.sizes, {}
        for concept in self.all_concepts:
            texts, _ = held_out(concept, sizes.scored, self.seed)
            tested = concept.id in self.test
            positives = texts.positives[: sizes.positives if tested else sizes.positives // 2]
            groups[f"+{concept.id}"] = positives
            groups[f"-{concept.id}"] = texts.negatives[: sizes.negatives]
            if tested:
                one, other = halves(replace(texts, positives=positives), self.seed)
                groups[f"+{_dead(concept.id)}"], groups[f"-{_dead(concept.id)}"] = one.positives, other.positives
        return groups

    @cached_property
    def scored(self) -> dict[str, list[str]]:
        """Held-out texts of the steered concepts, of which the dead ones have the same; "" holds the neutral texts."""
        neutral = load_texts(shipped("tasks") / "data" / "neutral.jsonl")
        texts = {"": self._cut(neutral)}
        for concept in self.all_concepts[: self.sizes.concepts]:
            texts[concept.id] = self._cut(held_out(concept, self.sizes.scored, self.seed)[1].positives)
        return {**texts, **{_dead(key): texts[key] for key in self.test}}

    def _cut(self, texts: Sequence[str]) -> list[str]:
        return [" ".join(text.split()[: self.sizes.words]) for text in texts[: self.sizes.scored]]

    @cached_property
    def map_texts(self) -> list[str]:
        """The shipped map corpus or, without it, texts of the concepts that are not steered: as many as a map needs."""
        corpus = shipped("tasks") / "data" / "neutral_map.jsonl"
        by_concept = [concept.positives for concept in self.all_concepts[self.sizes.concepts :]]
        in_turn = (text for texts in zip_longest(*by_concept) for text in texts if text is not None)
        texts, wanted, kept = load_texts(corpus) if corpus.is_file() else in_turn, self.sizes.pairs * self.width, []
        for text in texts:
            wanted -= len(tokenize(self.loaded, [text])[0].ids) - 1
            kept.append(text)
            if wanted <= 0 and len(kept) >= self.sizes.map_texts:
                break
        return kept

    @cached_property
    def scale(self) -> float:
        """S, the unit of factors."""
        return centred_norm(self.loaded, self.layer, self.map_texts[:40])

    @cached_property
    def vectors(self) -> Vectors:
        """The model's own vectors of all concepts, dead ones too."""
        return self.extract(self.loaded)[0]

    @property
    def width(self) -> int:
        """d_model"""
        return d_model(self.loaded.model)

    def extract(self, loaded: Loaded, pushed_through: TransferMap | None = None) -> tuple[Vectors, Vectors]:
        """DiffMean vectors of all concepts: of the activations, and of what the map makes of them (none without a map)."""
        maps: dict[str, Any] = {"": lambda states: states}
        if pushed_through is not None:
            maps["pushed"] = pushed_through
        means = mean_activations(loaded, self.layer, self.groups, maps=maps, desc=f"activations of {loaded.name}")
        concepts = [group[1:] for group in self.groups if group.startswith("+")]
        plain, pushed = (
            {key: means[name][f"+{key}"].value - means[name][f"-{key}"].value for key in concepts if name in means}
            for name in ("", "pushed")
        )
        return plain, pushed

    def side(self, name: str, vectors: Vectors) -> Side:
        """A model of a pair."""
        return Side(name, vectors, self.fit, self.width)


def _dead(concept: str) -> str:
    return DEAD + concept


# -------------------------------------------------------------------------------------------------- twins and their maps


@dataclass(frozen=True)
class _Twin:
    """What was found out with a twin, which itself is gone."""

    name: str
    logits: float
    """Largest difference of its logits from the model's."""
    cosine: float
    """Smallest cosine of its vectors with Q v."""
    likelihood: float
    """Largest difference of a text's log-likelihood a token, twin steered by its own vector against model by its own."""
    arms: Mapping[ArmKey, Vectors]
    """Its vectors of the steered concepts through each map to the model."""
    refused: Mapping[str, str]
    """Adapters that could not be fitted on shuffled pairs, and why."""


@dataclass(frozen=True)
class _Pairs:
    """Paired activations of a twin and the model."""

    x: Tensor
    """(n, d_model) of the twin"""
    y: Tensor
    """(n, d_model) of the model"""
    document: Tensor
    """(n,): number of the text"""

    def shuffled(self, seed: int) -> _Pairs:
        """Every x with the y of another: y moves along one random cycle, so no pair is kept."""
        order = torch.randperm(len(self.y), generator=torch.Generator().manual_seed(seed))
        moved = torch.empty_like(self.y)
        moved[order] = self.y[order.roll(1)]
        return replace(self, y=moved)

    def pair(self, source: Side, target: Side, seed: int) -> Pair:
        """What maps are fitted on: every tenth text held out."""
        held = self.document % 10 == 9
        moments = []
        for part in (~held, held):
            accumulator = MomentAccumulator()
            accumulator.add(self.x[part], self.y[part])
            moments.append(accumulator.moments())
        samples = [(self.x[part], self.y[part]) for part in (~held, held)]
        return Pair(source, target, moments[0], moments[1], samples[0], samples[1], seed)


def _twin(bench: _Bench, name: str, q: Tensor, adapters: Sequence[str], shuffled: Sequence[str] = ()) -> _Twin:
    """Make a twin, fit maps from it to the model on true and on shuffled pairs, and take its vectors through them."""
    twin = Loaded(name, rotated_twin(bench.loaded.model, q), bench.loaded.tokenizer)
    pairs = _paired(bench, twin)
    false_pairs = pairs.shuffled(bench.seed)
    target = bench.side(bench.loaded.name, bench.vectors)
    network = None
    if "mlp" in shuffled:  # fitted before the vectors are had: it is activations that go through it
        network = _fit("mlp", false_pairs.pair(bench.side(name, {}), target, bench.seed))
    vectors, pushed = bench.extract(twin, network.map if network else None)
    source = bench.side(name, vectors)
    true_pair = pairs.pair(source, target, bench.seed)
    fits = {ArmKey(name, adapter): _fit(adapter, true_pair) for adapter in adapters}
    following = dict(zip(bench.fit, (*bench.fit[1:], *bench.fit[:1]), strict=True))
    others = {**vectors, **{concept: vectors[other] for concept, other in following.items()}}
    false_pair = false_pairs.pair(bench.side(name, others), target, bench.seed)
    refused = {}
    for adapter in shuffled:
        try:
            fitted = network if network and adapter == "mlp" else _fit(adapter, false_pair)
            fits[ArmKey(SHUFFLED_PAIRS, adapter)] = fitted
        except ValueError as error:
            refused[adapter] = str(error)
    tested = {concept: vectors[concept] for concept in bench.test}
    return _Twin(
        name,
        _logit_difference(bench, twin),
        min(_cosine(q @ bench.vectors[concept], vectors[concept]) for concept in bench.vectors),
        _likelihood_difference(bench, twin, vectors),
        {arm: transfer(fitted.map, tested, pushed) for arm, fitted in fits.items()},
        refused,
    )


def _paired(bench: _Bench, twin: Loaded) -> _Pairs:
    found = list(paired(twin, bench.layer, bench.loaded, bench.layer, bench.map_texts, desc=f"pairs of {twin.name}"))
    documents = torch.cat([torch.full((len(x),), index) for index, x, _ in found])
    return _Pairs(torch.cat([x.cpu() for _, x, _ in found]), torch.cat([y.cpu() for _, _, y in found]), documents)


def _fit(name: str, pair: Pair) -> Fit:
    """A shipped adapter with its own options; procrustes at full rank, since a rotation leaves no direction out."""
    adapter = load_adapter(name)
    options = {"ranks": (pair.source.d_model,)} if adapter.method == "procrustes" else adapter.options
    return FITS[adapter.method](pair, **options)


@torch.inference_mode()
def _logit_difference(bench: _Bench, twin: Loaded) -> float:
    """Largest over the neutral texts."""
    largest = 0.0
    for text in bench.scored[""]:
        ids = torch.tensor([encode(twin.tokenizer, text)], device=twin.device)
        largest = max(largest, float((twin.model(ids).logits - bench.loaded.model(ids).logits).abs().max()))
    return largest


def _likelihood_difference(bench: _Bench, twin: Loaded, vectors: Vectors) -> float:
    """Largest over the texts of one concept, twin and model each steered by its own vector at the largest factor."""
    concept, factor = bench.test[0], bench.sizes.factors[-1]
    jobs = [_Job(NATIVE, concept, factor, "concept", i, text) for i, text in enumerate(bench.scored[concept])]
    mine = _score(bench, bench.loaded, {NATIVE: {concept: bench.vectors[concept]}}, jobs)
    its = _score(bench, twin, {NATIVE: {concept: vectors[concept]}}, jobs)
    return max(abs(_value(a) - _value(b)) for a, b in zip(mine, its, strict=True))


# -------------------------------------------------------------------------------------------------- steering


class _Job(NamedTuple):
    """A text to score under an arm."""

    arm: ArmKey
    concept: str
    factor: float
    role: str
    number: int
    text: str


def _own_arms(bench: _Bench) -> dict[ArmKey, Vectors]:
    """Arms that need no other model: native, controls, null arms, and identity from the model itself."""
    side, dead = bench.side(bench.loaded.name, bench.vectors), [_dead(concept) for concept in bench.test]
    native = {concept: bench.vectors[concept] for concept in (*bench.test, *dead)}
    arms: dict[ArmKey, Vectors] = {
        NATIVE: native,
        RANDOM: random_directions(side, bench.test, bench.seed),
        WRONG: wrong_concept(side, bench.test, bench.seed),
        ArmKey(SAME, "identity"): transfer(truncate_or_pad(bench.width, bench.width), native, None),
    }
    for null in range(bench.sizes.nulls):
        arms[ArmKey("", f"{NULL}{null + 1}")] = random_directions(side, bench.test, bench.seed + 1000 + null)
    return arms


def _measure(bench: _Bench, arms: Mapping[ArmKey, Vectors]) -> list[Row]:
    """Likelihood of every steered concept's held-out texts and of neutral texts under every arm, and unsteered."""
    return _score(bench, bench.loaded, arms, list(_jobs(bench, arms)))


def _jobs(bench: _Bench, arms: Mapping[ArmKey, Vectors]) -> Iterator[_Job]:
    unsteered, sizes = ArmKey("", UNSTEERED), bench.sizes
    for concept, texts in bench.scored.items():
        for index, text in enumerate(texts):
            yield _Job(unsteered, concept, 0.0, "concept" if concept else "neutral", index, text)
    for arm, vectors in arms.items():
        is_null = arm.name.startswith(NULL)
        for concept in vectors:
            for factor in sizes.factors[-1:] if is_null else sizes.factors:
                for role, texts in (("concept", bench.scored[concept]), ("neutral", bench.scored[""])):
                    for index, text in enumerate(texts[: sizes.null_texts] if is_null else texts):
                        yield _Job(arm, concept, factor, role, index, text)


def _score(bench: _Bench, loaded: Loaded, arms: Mapping[ArmKey, Vectors], jobs: Sequence[_Job]) -> list[Row]:
    """Rows as the task concept_likelihood makes them, by the model that it runs on."""
    from lm_eval.api.instance import Instance

    from steer_bench.lm import SteeredLM

    named = {
        Arm(arm.name, arm.source, concept): vector.float().numpy()
        for arm, vectors in arms.items()
        for concept, vector in vectors.items()
    }
    own = Arms(loaded.name, bench.layer, bench.scale, named)
    lm = SteeredLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, arms=own, batch_size=32)
    requests = []
    for job in jobs:
        steer = {"arm": job.arm.name, "source": job.arm.source, "concept": job.concept, "factor": job.factor}
        arguments = ("", job.text, {"steer": steer})
        requests.append(Instance(request_type="loglikelihood", doc={}, arguments=arguments, idx=0))
    try:
        answers = lm.loglikelihood(requests)
    finally:
        lm.steerer.remove()
    return [
        Row(
            task=LIKELIHOOD, target=bench.loaded.name, source=job.arm.source, arm=job.arm.name, concept=job.concept,
            factor=job.factor, item=f"{job.role}-{job.number}", role=job.role, value=answer[0] / answer.n_tokens,
            tokens=answer.n_tokens,
        )
        for job, answer in zip(jobs, answers, strict=True)
    ]  # fmt: skip


def _value(row: Row) -> float:
    assert row.value is not None
    return row.value


def _is_dead(row: Row) -> bool:
    return row.concept.startswith(DEAD)


def _is_null(row: Row) -> bool:
    return row.arm.startswith(NULL)


def _bootstrap(bench: _Bench, rows: Sequence[Row]) -> Bootstrap:
    measured = measure_likelihood(rows, bench.loaded.name)
    return hierarchical_bootstrap(measured.effects, measured.neutral, seed=bench.seed)


# -------------------------------------------------------------------------------------------------- checks


def _native_steers(results: Bootstrap) -> Check:
    effect = results.effect(NATIVE)
    return Check("the model's own vectors steer it", effect.positive, f"effect {_words(effect)}", "above 0")


def _same_model(bench: _Bench, results: Bootstrap) -> Iterator[Check]:
    arm = ArmKey(SAME, "identity")
    vectors = transfer(truncate_or_pad(bench.width, bench.width), bench.vectors, None)
    apart = max(float((vectors[key] - vector).abs().max()) for key, vector in bench.vectors.items())
    yield Check("same model: identity gives native's vectors", apart == 0, f"difference {apart:.2g}", "0")
    recovered = results.recovered(arm, NATIVE)
    yield Check("same model: identity recovers native", recovered.value == 1, _words(recovered), "exactly 1")


def _like_native(bench: _Bench, results: Bootstrap, twin: _Twin) -> Iterator[Check]:
    """A twin is the model, the maps that learn find Q, and identity is a random direction."""
    name = twin.name
    yield Check(f"{name}: same logits", twin.logits <= LOGITS, f"difference {twin.logits:.2g}", f"at most {LOGITS}")
    yield Check(
        f"{name}: its vectors are Q v", twin.cosine >= COSINE, f"cosine {twin.cosine:.6f}", f"at least {COSINE}"
    )
    yield Check(
        f"{name}: steered by Q v it is the model steered by v", twin.likelihood <= LOGITS,
        f"difference {twin.likelihood:.2g} nats a token", f"at most {LOGITS}",
    )  # fmt: skip
    arms = [arm for arm in twin.arms if arm.source == name]
    words = verdicts(results, arms, NATIVE, [RANDOM, WRONG])
    for arm in arms:
        cosines = [_cosine(vector, bench.vectors[concept]) for concept, vector in twin.arms[arm].items()]
        verdict, where = words[arm].word, f"{name}, {arm.name}"
        if arm.name == "identity":
            cosine, chance = abs(float(np.mean(cosines))), 4 / math.sqrt(bench.width)
            yield Check(
                f"{where}: vectors look random", cosine <= chance, f"|cosine| {cosine:.3f}", f"at most {chance:.3f}"
            )
            yield Check(f"{where}: no transfer", verdict not in CLAIMS, verdict, "no evidence")
            continue
        yield Check(f"{where}: finds Q", min(cosines) >= COSINE, f"cosine {min(cosines):.6f}", f"at least {COSINE}")
        recovered = results.recovered(arm, NATIVE)
        expected = f"1 in the interval, or within {RECOVERED} of it"
        yield Check(f"{where}: recovers native", _is_one(recovered), _words(recovered), expected)
        yield Check(f"{where}: transfers", verdict in CLAIMS, verdict, " or ".join(CLAIMS))


def _shuffled_pairs(results: Bootstrap, twin: _Twin) -> Check:
    arms = [arm for arm in twin.arms if arm.source == SHUFFLED_PAIRS]
    claimed = [
        arm.name for arm, verdict in verdicts(results, arms, NATIVE, [RANDOM, WRONG]).items() if verdict.word in CLAIMS
    ]
    measured = f"{len(claimed)} of {', '.join(arm.name for arm in arms)}"
    if claimed:
        measured += f": {', '.join(claimed)}"
    if twin.refused:
        measured += f"; refused: {', '.join(twin.refused)}"
    passed = bool(arms) and not claimed and results.effect(NATIVE).positive
    return Check("shuffled pairs: adapters that transfer", passed, measured, "none")


def _dead_concepts(bench: _Bench, rows: Sequence[Row]) -> Check:
    """All concepts dead: the gate stays shut for the arm that is native itself."""
    arm = ArmKey(SAME, "identity")
    results = _bootstrap(bench, [row for row in rows if _is_dead(row) or row.concept == ""])
    verdict = verdicts(results, [arm], NATIVE, [])[arm]
    measured = f"effect {_words(results.effect(NATIVE))}; verdict: {verdict.word}"
    return Check("dead concepts: native's gate", verdict.word == SHUT, measured, f"verdict: {SHUT}")


def _false_positives(bench: _Bench, rows: Sequence[Row]) -> Check:
    """Each null arm judged as the only arm of a run, on the texts and at the factor that null arms were measured on."""
    sizes, n = bench.sizes, bench.sizes.nulls
    compared = {NATIVE, RANDOM, WRONG}
    kept = [
        row for row in rows
        if (_is_null(row) or row.arm == UNSTEERED or ArmKey(row.source, row.arm) in compared)
        and not _is_dead(row) and row.factor in (0.0, sizes.factors[-1])
        and int(row.item.rsplit("-", 1)[1]) < sizes.null_texts
    ]  # fmt: skip
    results = _bootstrap(bench, kept)
    nulls = [arm for arm in results.means if arm.name.startswith(NULL)]
    words = [verdicts(results, [arm], NATIVE, [RANDOM, WRONG])[arm].word for arm in nulls]
    claimed = sum(word in CLAIMS for word in words)
    passed = len(nulls) == n and results.effect(NATIVE).positive and claimed <= FALSE_POSITIVES * n
    name = (
        f"false positives: {n} random arms, {len(bench.test)} concepts with {sizes.null_texts} texts and as many neutral, "
        f"factor {sizes.factors[-1]}"
    )
    measured = f"{claimed} of {n} get a verdict of transfer (native {_words(results.effect(NATIVE))})"
    return Check(name, passed, measured, f"at most {int(FALSE_POSITIVES * n)}, native above 0")


def _is_one(recovered: Estimate) -> bool:
    if recovered.value is None:
        return False
    inside = recovered.low is not None and recovered.high is not None and recovered.low <= 1 <= recovered.high
    return inside or abs(recovered.value - 1) <= RECOVERED


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


def _words(estimate: Estimate) -> str:
    if estimate.value is None:
        return f"n/a (n={estimate.n})"
    interval = "" if estimate.low is None else f" [{estimate.low:.3f}, {estimate.high:.3f}]"
    return f"{estimate.value:.3f}{interval} (n={estimate.n})"
