"""Checks: what the results and files of a calibration's experiments must say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from torch import Tensor

from steer_bench.concepts.concept import cut
from steer_bench.experiment.run import Run
from steer_bench.experiment.stages.extract import text_groups
from steer_bench.harness.protocol import Protocol
from steer_bench.results.board.entries import CLAIMS, ArmEntry, ArmResult, entries
from steer_bench.results.board.table import interval
from steer_bench.results.file import Results, load_results
from steer_bench.results.measures import LIKELIHOOD
from steer_bench.results.stats.estimate import Estimate, mean_estimate, ratio_estimate
from steer_bench.results.stats.grid import NATIVE, ArmKey
from steer_bench.results.stats.simulate import Rate, error_rates, values_of
from steer_bench.results.stats.tests import ALPHA
from steer_bench.results.stats.values import REFERENCE, TaskValues, task_values
from steer_bench.results.stats.verdict import Case, verdicts
from steer_bench.vectors.arms import Arms
from steer_bench.vectors.store import Vector, VectorStore

RANDOM = ArmKey("", "random")
LEARNED = ("linear", "procrustes")
"""Adapters whose maps must find Q."""
LOGITS, COSINE, RECOVERED, DAMAGE = 1e-3, 0.999, 0.02, 0.1
"""Largest difference of logits, and of log-likelihoods; smallest cosine of a map that recovers Q; how near 1 a recovered fraction
must be where its interval, which for vectors so alike is narrower still, does not hold 1; how near its level a measured damage."""
NULLS = 400
"""Arms drawn anew from the random ones."""
SHUT = "native itself does not steer"


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


def result_checks(
    model: str, twins: Sequence[Twin], runs: Mapping[str, Run], logits: Mapping[str, float]
) -> Iterator[Check]:
    """Yield the checks on the finished runs twins, same and dead. logits: each twin's largest difference from the model's."""
    found = {name: load_results(run.folder.results) for name, run in runs.items()}
    arms = {name: Arms.load(run.folder.arms(model)) for name, run in runs.items()}
    board, own = entries(found["twins"]), VectorStore.load(runs["twins"].folder.vectors(model)).vectors
    yield native_steers(board)
    yield doses(board)
    yield others_vectors(arms["twins"])
    yield from same_model(model, arms["same"], found["same"])
    for twin in twins:
        vectors = VectorStore.load(runs["twins"].folder.vectors(twin.folder)).vectors
        yield from is_the_model(twin, logits[twin.folder], own, vectors, found["same"], model)
        yield from like_native(twin, board, arms["twins"])
    yield shuffled_pairs(found["twins"], model)
    yield dead_concepts(found["dead"], model)
    yield from nulls(found["twins"], model)
    for name, run in runs.items():
        yield texts_apart(name, run)


def cell(board: Iterable[ArmEntry], arm: ArmKey, task: str = LIKELIHOOD) -> ArmResult:
    """Return what an arm did at the main level."""
    return next(one.cells[task] for one in board if ArmKey(one.source, one.arm) == arm)


def values_at(results: Results, model: str, task: str = LIKELIHOOD, apart: str = "") -> TaskValues:
    """Return the values of a task at the main level; `apart`: the arm whose seeds are not pooled."""
    pooled = {arm: name for arm, name in results.run.pooled.items() if name != apart}
    return task_values(results.rows, task, model, level=results.run.headline, pooled=pooled)


def word_of(values: TaskValues, arm: ArmKey, *controls: ArmKey) -> str:
    """Return the verdict of an arm that is the only one of its run."""
    return verdicts([Case(values, arm, controls)])[0].word


def native_steers(board: Iterable[ArmEntry]) -> Check:
    """Check that there is an effect at all: without it nothing else would mean anything."""
    effect = cell(board, NATIVE).effect
    return Check("the model's own vectors steer it", effect.positive, f"effect {interval(effect, 3)}", "above 0")


def doses(board: Iterable[ArmEntry]) -> Check:
    """Check that every arm does the damage that it was dosed for, on texts that no dose was found on."""
    cells = {f"{one.arm} {one.source}".strip(): one.cells[LIKELIHOOD] for one in board}
    apart = {
        name: abs((one.damage or math.inf) / one.level - 1) for name, one in cells.items() if one.factor and one.level
    }
    off = [f"{name} {cells[name].damage}" for name, one in apart.items() if one > DAMAGE]
    measured = f"{len(apart) - len(off)} of {len(apart)} arms are; {', '.join(off)}".rstrip("; ")
    return Check(
        "doses: damage on held-out neutral texts",
        bool(apart) and not off,
        measured,
        f"all within {DAMAGE:.0%} of the level",
    )


def others_vectors(arms: Arms) -> Check:
    """Check that wrong-concept has native's vectors, each of another concept."""
    native, wrong = vectors_of(arms, "native"), [key for key in arms.vectors if key[0].adapter == REFERENCE.name]
    fine = 0
    for key in wrong:
        near = max(native, key=lambda concept: cosine(native[concept], arms.vectors[key]))
        fine += near != key[1] and cosine(native[near], arms.vectors[key]) >= COSINE
    measured = f"{fine} of {len(wrong)} are another concept's"
    return Check("wrong-concept: native's vectors of other concepts", 0 < fine == len(wrong), measured, "all")


def same_model(model: str, arms: Arms, results: Results) -> Iterator[Check]:
    """Check that identity from the model to itself is native on every task, whatever is unscored."""
    native, identity = vectors_of(arms, "native"), vectors_of(arms, "identity", model)
    apart = max(float(np.abs(identity[key] - vector).max()) for key, vector in native.items())
    yield Check("same model: identity gives native's vectors", apart == 0, f"difference {apart:.2g}", "0")
    arm = ArmKey(model, "identity")
    rows = list(results.rows.where(target=model))
    scored = [i for i, row in enumerate(rows) if (row.source, row.arm) == arm]
    partly = {i: replace(rows[i], value=None, reason="left out") for i in scored[::3]}
    gaps = Results(results.run, [partly.get(i, row) for i, row in enumerate(rows)])
    for task in results.run.limits:
        values, reached = values_at(results, model, task), np.isfinite(values_at(results, model, task).value(NATIVE))
        recovered = ratio_estimate(values.differences(arm), values.differences(NATIVE))
        word = word_of(values, arm, REFERENCE)
        apart = _farthest(*(one.differences(arm, NATIVE)[reached] for one in (values, values_at(gaps, model, task))))
        same = apart == 0 and (task != LIKELIHOOD or (recovered.value == 1 and word == CLAIMS[1]))
        yield Check(
            f"same model, {task}: identity is native, unscored rows or not", same,
            f"difference {apart:.2g}, recovers {interval(recovered, 3)}, {word}",
            f"0{f', exactly 1, {CLAIMS[1]}' if task == LIKELIHOOD else ''}",
        )  # fmt: skip


def is_the_model(
    twin: Twin, logits: float, own: Mapping[str, Vector], vectors: Mapping[str, Vector], results: Results, model: str
) -> Iterator[Check]:
    """Check that a twin computes what the model does, unsteered and steered, and has its vectors in other coordinates.

    own, vectors: of all concepts, the model's and the twin's. results: of both as targets of their own vectors.
    """
    yield Check(f"{twin.name}: same logits", logits <= LOGITS, f"difference {logits:.2g}", f"at most {LOGITS}")
    near = min(cosine(twin.q.numpy() @ own[key], vector) for key, vector in vectors.items())
    yield Check(f"{twin.name}: its vectors are Q v", near >= COSINE, f"cosine {near:.6f}", f"at least {COSINE}")
    steered: dict[str, dict[tuple[str, ...], tuple[float, float]]] = {model: {}, twin.folder: {}}
    replies: dict[str, dict[tuple[str, ...], float | None]] = {model: {}, twin.folder: {}}
    for row in results.rows:
        if row.target in steered and row.source == "":
            key = row.task, row.arm, row.concept, row.item
            if row.task == LIKELIHOOD:
                steered[row.target][key] = math.nan if row.value is None else row.value, row.factor
            else:
                replies[row.target][key] = row.value
    none = math.nan, math.nan
    both = [(one, steered[twin.folder].get(key, none)) for key, one in steered[model].items()]
    apart = _farthest([its[0] - mine[0] for mine, its in both])
    doses = _farthest([its[1] / mine[1] - 1 for mine, its in both if mine[1]])
    yield Check(
        f"{twin.name}: steered by Q v it is the model steered by v, at the model's doses",
        apart <= LOGITS and doses <= 0.01, f"difference {apart:.2g} nats a token, doses {doses:.2%}", f"at most {LOGITS}, 1 %",
    )  # fmt: skip
    alike = np.mean(
        [float(value == replies[twin.folder].get(key, -1)) for key, value in replies[model].items()] or [0.0]
    )
    yield Check(
        f"{twin.name}: its replies are rated as the model's", bool(alike >= 0.9), f"{alike:.1%} alike", "at least 90 %"
    )


def like_native(twin: Twin, board: Sequence[ArmEntry], arms: Arms) -> Iterator[Check]:
    """Check that the maps that learn find Q, and that identity is a random direction."""
    native = vectors_of(arms, "native")
    for name in ("identity", *LEARNED):
        found, where = cell(board, ArmKey(twin.folder, name)), f"{twin.name}, {name}"
        cosines = [cosine(vector, native[one]) for one, vector in vectors_of(arms, name, twin.folder).items()]
        verdict = found.verdict.word if found.verdict else "none"
        if name == "identity":
            mean, chance = abs(float(np.mean(cosines))), 4 / math.sqrt(arms.d_model)
            yield Check(
                f"{where}: vectors look random", mean <= chance, f"|cosine| {mean:.3f}", f"at most {chance:.3f}"
            )
            none = verdict not in CLAIMS and not found.effect.positive
            yield Check(
                f"{where}: no transfer",
                none,
                f"{verdict}, effect {interval(found.effect, 3)}",
                "no evidence, not above 0",
            )
            continue
        yield Check(f"{where}: finds Q", min(cosines) >= COSINE, f"cosine {min(cosines):.6f}", f"at least {COSINE}")
        expected = f"1 in the interval, or within {RECOVERED} of it"
        yield Check(f"{where}: recovers native", _is_one(found.recovered), interval(found.recovered, 3), expected)
        yield Check(f"{where}: is equivalent", verdict == CLAIMS[1], verdict, CLAIMS[1])


def shuffled_pairs(found: Results, model: str) -> Check:
    """Check that maps fitted on false pairs transfer nothing, each judged as the only arm of a run."""
    values = values_at(found, model)
    false = {info.arm for info in found.run.arms if info.method.startswith("shuffled-")}
    arms = [arm for arm in values.items if arm.name in false]
    claimed = [arm for arm in arms if word_of(values, arm, REFERENCE, RANDOM) in CLAIMS]
    names = ", ".join(dict.fromkeys(arm.name for arm in claimed or arms))
    passed = bool(arms) and not claimed and mean_estimate(values.differences(NATIVE)).positive
    return Check("shuffled pairs: maps that transfer", passed, f"{len(claimed)} of {len(arms)} ({names})", "none")


def dead_concepts(found: Results, model: str) -> Check:
    """Check that the gate stays shut for the arm that is native itself, where positives and negatives are of one kind."""
    values = values_at(found, model)
    word = word_of(values, ArmKey(model, "identity"), REFERENCE)
    effect = interval(mean_estimate(values.differences(NATIVE)), 3)
    return Check("dead concepts: native's gate", word == SHUT, f"effect {effect}; verdict: {word}", f"verdict: {SHUT}")


def nulls(found: Results, model: str) -> Iterator[Check]:
    """Judge random arms, and arms drawn from them concept by concept against a control drawn alike: exchangeable by making.

    The verdicts of these are false with the probability of the test, on the variances of this model; a true rate of 10 % is seen.
    On the same texts native, judged as if it were an arm, has to get the verdict: where nothing could, none is no finding.
    """
    values, rng = values_at(found, model, apart=RANDOM.name), np.random.default_rng(0)
    arms = [arm for arm in values.items if arm.name.startswith(f"{RANDOM.name}-")]
    if len(arms) < 2:
        yield Check("nulls: random arms", False, f"{len(arms)}", "2 or more")
        return
    claimed = sum(word_of(values, arm, arms[i - 1], REFERENCE) in CLAIMS for i, arm in enumerate(arms))
    native = word_of(values, NATIVE, arms[0], REFERENCE)
    yield Check(
        f"nulls: {len(arms)} random arms", claimed <= 1 and native in CLAIMS,
        f"{claimed} get a verdict of transfer; native: {native}", "at most 1, and native does",
    )  # fmt: skip
    stack, concepts, arm = (
        np.stack([values.items[arm] for arm in arms]),
        np.arange(len(values.concepts)),
        ArmKey("", "drawn"),
    )
    known, claimed = {key: values.items[key] for key in (REFERENCE, NATIVE)}, 0
    for _ in range(NULLS):
        first, second = rng.permuted(np.tile(np.arange(len(arms)), (len(concepts), 1)), axis=1).T[:2]
        drawn = values_of({**known, arm: stack[first, concepts], RANDOM: stack[second, concepts]})
        claimed += word_of(drawn, arm, RANDOM) in CLAIMS
    rate = Rate("false transfers", "random arms", len(concepts), claimed / NULLS, NULLS, 0.0, ALPHA)
    yield Check(
        f"nulls: {NULLS} arms drawn from these", rate.passed, f"{rate.rate:.3f} get a verdict of transfer",
        f"{ALPHA}, at most {ALPHA + rate.error:.3f}",
    )  # fmt: skip


def simulated(n_sims: int, seed: int = 0) -> Iterator[Check]:
    """Measure the error rates of the statistics on values of known truth: a line for each kind of claim, its worst rate at each n."""
    found = error_rates(n_sims, seed)
    for what in dict.fromkeys(rate.what for rate in found):
        mine, worst = [rate for rate in found if rate.what == what], min if what.startswith("coverage") else max
        by_n = {n: worst(one.rate for one in mine if one.n == n) for n in sorted({one.n for one in mine})}
        failed = [f"{one.values}, n = {one.n}: {one.rate:.3f}" for one in mine if not one.passed]
        limits = " to ".join(f"{limit:g}" for limit in sorted({one.least or one.most for one in mine}))
        yield Check(
            f"{n_sims} simulations, {what}", not failed,
            "; ".join([", ".join(f"{rate:.3f} at n = {n}" for n, rate in by_n.items()), *failed]),
            f"at {'least' if worst is min else 'most'} {limits}, but for the error of simulation",
        )  # fmt: skip


def texts_apart(name: str, run: Run) -> Check:
    """Check that no text serves two of: vectors and maps, concept texts that are scored, neutral texts that are, doses."""
    protocol = Protocol.load(run.folder.protocol)
    uses = {
        "vectors": [text for texts in text_groups(run.data).values() for text in texts] + run.data.map_texts,
        "held-out": [
            text
            for one in protocol.concepts.values()
            if one.kind == "topic"
            for text in (*one.positives, *one.negatives)
        ],
        "neutral": protocol.neutral.values(),
        "doses": protocol.calibration.values(),
    }
    apart = {use: {cut(text, run.experiment.dose.max_words) for text in texts} for use, texts in uses.items()}
    shared = [f"{a} and {b}" for a, b in combinations(apart, 2) if apart[a] & apart[b]]
    sizes = ", ".join(f"{len(texts)} {use}" for use, texts in apart.items())
    return Check(
        f"{name}: each text serves one purpose",
        all(apart.values()) and not shared,
        ", ".join(shared) or sizes,
        "none shared",
    )


def vectors_of(arms: Arms, name: str, source: str = "") -> dict[str, Vector]:
    """Return an arm's vectors by concept."""
    return {key: vector for (arm, key), vector in arms.vectors.items() if (arm.name, arm.source) == (name, source)}


def cosine(a: Vector, b: Vector) -> float:
    """Return the cosine of two vectors."""
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _farthest(*differences: Iterable[float]) -> float:
    """Return the largest size; NaN where one is not a number, and of none."""
    sizes = np.abs([one for some in differences for one in some])
    return float(sizes.max()) if len(sizes) else math.nan


def _is_one(recovered: Estimate) -> bool:
    if recovered.value is None:
        return False
    inside = recovered.low is not None and recovered.high is not None and recovered.low <= 1 <= recovered.high
    return inside or abs(recovered.value - 1) <= RECOVERED
