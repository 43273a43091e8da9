"""Checks: what the rows and twins of a calibration must say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from steer_bench.experiment.calibration.bench import NATIVE, NULL, RANDOM, SAME, SHUFFLED_PAIRS, WRONG, Bench, cosine
from steer_bench.experiment.calibration.scoring import is_dead, is_null
from steer_bench.experiment.calibration.twin import Twin
from steer_bench.results.rows import Row
from steer_bench.results.stats.bootstrap import Bootstrap, Estimate, hierarchical_bootstrap
from steer_bench.results.stats.effects import likelihood_curves, measure_likelihood
from steer_bench.results.stats.grid import ArmKey
from steer_bench.results.stats.verdict import verdicts
from steer_bench.transfer.fits import transfer
from steer_bench.transfer.maps import truncate_or_pad
from steer_bench.vectors.arms import UNSTEERED

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


def bootstrap(bench: Bench, rows: Sequence[Row]) -> Bootstrap:
    """Of the likelihood lift at matched damage."""
    measured = measure_likelihood(likelihood_curves(rows, bench.loaded.name))
    return hierarchical_bootstrap(measured.effects, measured.neutral, seed=bench.seed)


def native_steers(results: Bootstrap) -> Check:
    """Without it nothing else would mean anything."""
    effect = results.effect(NATIVE)
    return Check("the model's own vectors steer it", effect.positive, f"effect {_words(effect)}", "above 0")


def same_model(bench: Bench, results: Bootstrap) -> Iterator[Check]:
    """Identity from the model to itself is native."""
    arm = ArmKey(SAME, "identity")
    vectors = transfer(truncate_or_pad(bench.width, bench.width), bench.vectors, None)
    apart = max(float((vectors[key] - vector).abs().max()) for key, vector in bench.vectors.items())
    yield Check("same model: identity gives native's vectors", apart == 0, f"difference {apart:.2g}", "0")
    recovered = results.recovered(arm, NATIVE)
    yield Check("same model: identity recovers native", recovered.value == 1, _words(recovered), "exactly 1")


def like_native(bench: Bench, results: Bootstrap, twin: Twin) -> Iterator[Check]:
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
        cosines = [cosine(vector, bench.vectors[concept]) for concept, vector in twin.arms[arm].items()]
        verdict, where = words[arm].word, f"{name}, {arm.name}"
        if arm.name == "identity":
            mean, chance = abs(float(np.mean(cosines))), 4 / math.sqrt(bench.width)
            yield Check(
                f"{where}: vectors look random", mean <= chance, f"|cosine| {mean:.3f}", f"at most {chance:.3f}"
            )
            yield Check(f"{where}: no transfer", verdict not in CLAIMS, verdict, "no evidence")
            continue
        yield Check(f"{where}: finds Q", min(cosines) >= COSINE, f"cosine {min(cosines):.6f}", f"at least {COSINE}")
        recovered = results.recovered(arm, NATIVE)
        expected = f"1 in the interval, or within {RECOVERED} of it"
        yield Check(f"{where}: recovers native", _is_one(recovered), _words(recovered), expected)
        yield Check(f"{where}: transfers", verdict in CLAIMS, verdict, " or ".join(CLAIMS))


def shuffled_pairs(results: Bootstrap, twin: Twin) -> Check:
    """Maps that were fitted on false pairs transfer nothing."""
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


def dead_concepts(bench: Bench, rows: Sequence[Row]) -> Check:
    """All concepts dead: the gate stays shut for the arm that is native itself."""
    arm = ArmKey(SAME, "identity")
    results = bootstrap(bench, [row for row in rows if is_dead(row) or row.concept == ""])
    verdict = verdicts(results, [arm], NATIVE, [])[arm]
    measured = f"effect {_words(results.effect(NATIVE))}; verdict: {verdict.word}"
    return Check("dead concepts: native's gate", verdict.word == SHUT, measured, f"verdict: {SHUT}")


def false_positives(bench: Bench, rows: Sequence[Row]) -> Check:
    """Each null arm judged as the only arm of a run, on the texts and at the factor that null arms were measured on.

    On the same texts native, judged as if it were an arm, has to get the verdict: where nothing could, none is no finding.
    """
    sizes, n = bench.sizes, bench.sizes.nulls
    compared = {NATIVE, RANDOM, WRONG}
    kept = [
        row for row in rows
        if (is_null(row) or row.arm == UNSTEERED or ArmKey(row.source, row.arm) in compared)
        and not is_dead(row) and row.factor in (0.0, sizes.factors[-1])
        and int(row.item.rsplit("-", 1)[1]) < sizes.null_texts
    ]  # fmt: skip
    results = bootstrap(bench, kept)
    nulls = [arm for arm in results.means if arm.name.startswith(NULL)]
    own, *words = [verdicts(results, [arm], NATIVE, [RANDOM, WRONG])[arm].word for arm in (NATIVE, *nulls)]
    claimed = sum(word in CLAIMS for word in words)
    passed = len(nulls) == n and own in CLAIMS and claimed <= FALSE_POSITIVES * n
    name = (
        f"false positives: {n} random arms, {len(bench.test)} concepts with {sizes.null_texts} texts and as many neutral, "
        f"factor {sizes.factors[-1]}"
    )
    does = "does" if own in CLAIMS else "does not"
    measured = f"{claimed} of {n} get a verdict of transfer, native {does} ({_words(results.effect(NATIVE))})"
    return Check(name, passed, measured, f"at most {int(FALSE_POSITIVES * n)}, and native does")


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
