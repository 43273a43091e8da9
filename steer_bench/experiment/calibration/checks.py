"""Checks: what the results and files of a calibration's experiments must say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from steer_bench.concepts.load import load_texts
from steer_bench.experiment.run import Run
from steer_bench.models.load import model_path
from steer_bench.models.tokens import encode
from steer_bench.results.file import Results, load_results
from steer_bench.results.rows import Row
from steer_bench.results.stats.bootstrap import Bootstrap, Estimate, hierarchical_bootstrap
from steer_bench.results.stats.effects import likelihood_curves, measure_likelihood
from steer_bench.results.stats.grid import ArmKey
from steer_bench.results.stats.verdict import verdicts
from steer_bench.vectors.arms import Arms
from steer_bench.vectors.store import Vector, VectorStore

NATIVE, RANDOM, WRONG = ArmKey("", "native"), ArmKey("", "random"), ArmKey("", "wrong-concept")
LEARNED = ("linear", "procrustes")
"""Adapters whose maps must find Q."""
LOGITS, COSINE, RECOVERED = 1e-3, 0.999, 0.02
"""Largest difference of a twin's logits; smallest cosine of a map that recovers Q; how near 1 a recovered fraction must be
where its interval, which for vectors so alike is narrower still, does not hold 1."""
FALSE_POSITIVES = 0.1
"""Largest share of null arms that may get a verdict of transfer at 95 %."""
SHUT = "native itself does not steer"
CLAIMS = ("transfers", "equivalent to native")


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
class Twin:
    """A twin of the model under calibration."""

    name: str
    folder: str
    """Where it is saved: its name in experiments and rows."""
    q: Tensor
    """(d_model, d_model) float64: its activations are Q times the model's."""


def all_checks(model: str, twins: Sequence[Twin], runs: Mapping[str, Run]) -> list[Check]:
    """Return every check of a calibration from the finished runs twins, same, dead and nulls."""
    found = {name: load_results(run.folder.results) for name, run in runs.items()}
    arms = Arms.load(runs["twins"].folder.arms(model))
    results = bootstrap(found["twins"].rows, model)
    checks = [
        native_steers(results),
        *same_model(model, Arms.load(runs["same"].folder.arms(model)), bootstrap(found["same"].rows, model)),
    ]
    texts = load_texts(runs["twins"].data.path("neutral.jsonl"))
    own = VectorStore.load(runs["twins"].folder.vectors(model)).vectors
    for twin in twins:
        vectors = VectorStore.load(runs["twins"].folder.vectors(twin.folder)).vectors
        checks += is_the_model(
            twin, logit_difference(model, twin.folder, texts), own, vectors, found["same"].rows, model
        )
        checks += like_native(twin, results, arms)
    return [
        *checks,
        shuffled_pairs(results, found["twins"]),
        dead_concepts(found["dead"].rows, model),
        false_positives(found["nulls"], model),
    ]


def bootstrap(rows: Iterable[Row], target: str) -> Bootstrap:
    """Resample the likelihood lift at matched damage."""
    measured = measure_likelihood(likelihood_curves(rows, target))
    return hierarchical_bootstrap(measured.effects, measured.neutral)


@torch.inference_mode()
def logit_difference(model: str, twin: str, texts: Iterable[str]) -> float:
    """Return the largest difference over the texts, of model and twin in float64 (on the CPU: not every device has it).

    In float32 rounding alone reaches 1e-3: the twin's massive dimensions are spread over all of its coordinates, and Gemma's
    are a thousand times the others. Norms and softmax of transformers compute in float32 all the same, which leaves 1e-4.
    """
    exact, other = (
        AutoModelForCausalLM.from_pretrained(model_path(name), dtype=torch.float64) for name in (model, twin)
    )
    tokenizer = AutoTokenizer.from_pretrained(model_path(model))
    ids = [torch.tensor([encode(tokenizer, text)]) for text in texts]
    return max(float((other(each).logits - exact(each).logits).abs().max()) for each in ids)


def native_steers(results: Bootstrap) -> Check:
    """Check that there is an effect at all: without it nothing else would mean anything."""
    effect = results.effect(NATIVE)
    return Check("the model's own vectors steer it", effect.positive, f"effect {_words(effect)}", "above 0")


def same_model(model: str, arms: Arms, results: Bootstrap) -> Iterator[Check]:
    """Check that identity from the model to itself is native."""
    native, identity = vectors_of(arms, "native"), vectors_of(arms, "identity", model)
    apart = max(float(np.abs(identity[key] - vector).max()) for key, vector in native.items())
    yield Check("same model: identity gives native's vectors", apart == 0, f"difference {apart:.2g}", "0")
    recovered = results.recovered(ArmKey(model, "identity"), NATIVE)
    yield Check("same model: identity recovers native", recovered.value == 1, _words(recovered), "exactly 1")


def is_the_model(
    twin: Twin, logits: float, own: Mapping[str, Vector], vectors: Mapping[str, Vector], rows: Iterable[Row], model: str
) -> Iterator[Check]:
    """Check that a twin computes what the model does, unsteered and steered, and has its vectors in other coordinates.

    own, vectors: of all concepts, the model's and the twin's. rows: of both as targets of their own vectors.
    """
    yield Check(f"{twin.name}: same logits", logits <= LOGITS, f"difference {logits:.2g}", f"at most {LOGITS}")
    near = min(cosine(twin.q.numpy() @ own[key], vector) for key, vector in vectors.items())
    yield Check(f"{twin.name}: its vectors are Q v", near >= COSINE, f"cosine {near:.6f}", f"at least {COSINE}")
    values: dict[str, dict[tuple[object, ...], float]] = {model: {}, twin.folder: {}}
    for row in rows:
        if row.target in values and row.source == "":
            values[row.target][row.arm, row.concept, row.factor, row.item] = (
                math.nan if row.value is None else row.value
            )
    mine, its = values.values()
    apart = max((abs(mine[key] - its.get(key, math.nan)) for key in mine), default=math.nan)
    yield Check(
        f"{twin.name}: steered by Q v it is the model steered by v", apart <= LOGITS,
        f"difference {apart:.2g} nats a token", f"at most {LOGITS}",
    )  # fmt: skip


def like_native(twin: Twin, results: Bootstrap, arms: Arms) -> Iterator[Check]:
    """Check that the maps that learn find Q, and that identity is a random direction."""
    native = vectors_of(arms, "native")
    keys = [ArmKey(twin.folder, adapter) for adapter in ("identity", *LEARNED)]
    words = verdicts(results, keys, NATIVE, [RANDOM, WRONG])
    for key in keys:
        cosines = [cosine(vector, native[one]) for one, vector in vectors_of(arms, key.name, key.source).items()]
        verdict, where = words[key].word, f"{twin.name}, {key.name}"
        if key.name == "identity":
            mean, chance = abs(float(np.mean(cosines))), 4 / math.sqrt(arms.d_model)
            yield Check(
                f"{where}: vectors look random", mean <= chance, f"|cosine| {mean:.3f}", f"at most {chance:.3f}"
            )
            yield Check(f"{where}: no transfer", verdict not in CLAIMS, verdict, "no evidence")
            continue
        yield Check(f"{where}: finds Q", min(cosines) >= COSINE, f"cosine {min(cosines):.6f}", f"at least {COSINE}")
        recovered = results.recovered(key, NATIVE)
        expected = f"1 in the interval, or within {RECOVERED} of it"
        yield Check(f"{where}: recovers native", _is_one(recovered), _words(recovered), expected)
        yield Check(f"{where}: transfers", verdict in CLAIMS, verdict, " or ".join(CLAIMS))


def shuffled_pairs(results: Bootstrap, found: Results) -> Check:
    """Check that maps fitted on false pairs transfer nothing, each judged as the only arm of a run."""
    false = {info.arm for info in found.run.arms if info.method.startswith("shuffled-")}
    arms = [arm for arm in results.means if arm.name in false]
    claimed = [arm for arm in arms if verdicts(results, [arm], NATIVE, [RANDOM, WRONG])[arm].word in CLAIMS]
    measured = f"{len(claimed)} of {len(arms)} ({', '.join(dict.fromkeys(arm.name for arm in arms))})"
    if claimed:
        measured += f": {', '.join(dict.fromkeys(arm.name for arm in claimed))}"
    if found.run.refused:
        measured += f"; refused: {', '.join(dict.fromkeys(refused.arm for refused in found.run.refused))}"
    passed = bool(arms) and not claimed and results.effect(NATIVE).positive
    return Check("shuffled pairs: adapters that transfer", passed, measured, "none")


def dead_concepts(rows: Iterable[Row], model: str) -> Check:
    """Check that the gate stays shut for the arm that is native itself, where positives and negatives are of one kind."""
    arm, results = ArmKey(model, "identity"), bootstrap(rows, model)
    verdict = verdicts(results, [arm], NATIVE, [])[arm]
    measured = f"effect {_words(results.effect(NATIVE))}; verdict: {verdict.word}"
    return Check("dead concepts: native's gate", verdict.word == SHUT, measured, f"verdict: {SHUT}")


def false_positives(found: Results, model: str) -> Check:
    """Judge each random arm as the only arm of a run, the next one being its random control.

    On the same texts native, judged as if it were an arm, has to get the verdict: where nothing could, none is no finding.
    """
    results = bootstrap(found.rows, model)  # seeds are not pooled: each is an arm
    named = [ArmKey("", info.arm) for info in found.run.arms if info.method == "random"]
    nulls = [arm for arm in named if arm in results.means]

    def claims(arm: ArmKey, *controls: ArmKey) -> bool:
        return verdicts(results, [arm], NATIVE, [*controls, WRONG])[arm].word in CLAIMS

    claimed = sum(claims(arm, other) for arm, other in zip(nulls, [*nulls[1:], *nulls[:1]], strict=True))
    opens, native, most = claims(NATIVE, *nulls[:1]), results.effect(NATIVE), int(FALSE_POSITIVES * len(named))
    measured = f"{claimed} of {len(nulls)} get a verdict of transfer, native {'does' if opens else 'does not'}"
    return Check(
        f"false positives: {len(named)} random arms, {native.n} concepts",
        0 < len(named) == len(nulls) and opens and claimed <= most,
        f"{measured} ({_words(native)})", f"at most {most}, and native does",
    )  # fmt: skip


def vectors_of(arms: Arms, name: str, source: str = "") -> dict[str, Vector]:
    """Return an arm's vectors by concept."""
    return {key: vector for (arm, key), vector in arms.vectors.items() if (arm.name, arm.source) == (name, source)}


def cosine(one: Vector, other: Vector) -> float:
    """Return the cosine of two vectors."""
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def _is_one(recovered: Estimate) -> bool:
    if recovered.value is None:
        return False
    inside = recovered.low is not None and recovered.high is not None and recovered.low <= 1 <= recovered.high
    return inside or abs(recovered.value - 1) <= RECOVERED


def _words(estimate: Estimate) -> str:
    if estimate.value is None:
        return f"n/a (n={estimate.n})"
    interval = "" if estimate.low is None else f" [{estimate.low:.3f}, {estimate.high:.3f}]"
    return f"{estimate.value:.3f}{interval} (n={estimate.n})"
