"""Simulation: how often the statistics are wrong on values of known truth.

number of simulations, seed -> [coverage of every kind of interval, rates of false verdicts] -> calibrate, benchmarks/statistics.py
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from steer_bench.results.rows import Array
from steer_bench.results.stats.estimate import Estimate, mean_estimate, ratio_estimate
from steer_bench.results.stats.grid import NATIVE, ArmKey
from steer_bench.results.stats.tests import ALPHA
from steer_bench.results.stats.values import REFERENCE, TaskValues
from steer_bench.results.stats.verdict import Case, equivalent, verdicts

SIZES = (5, 12, 24, 70)
CLAIMS = ("transfers", "equivalent to native")
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]
Bounds = tuple[float, float] | None


class Rate(NamedTuple):
    """How often something happened in simulations."""

    what: str
    values: str
    """What they were drawn from."""
    n: int
    """Concepts."""
    rate: float
    n_sims: int
    least: float
    most: float
    """What the rate should lie between."""

    @property
    def error(self) -> float:
        """Three standard errors of the simulation at the nearer limit."""
        limit = self.least if self.what.startswith("coverage") else self.most
        return 3 * math.sqrt(limit * (1 - limit) / self.n_sims)

    @property
    def passed(self) -> bool:
        """Whether it is no worse than allowed, but for the simulation's error. Covering more often than need be is no fault."""
        return self.rate >= self.least - self.error if self.least else self.rate <= self.most + self.error


def shares(m: int, a: float, b: float) -> Draw:
    """Return draws of the share of m prompts, each concept with a chance of its own, Beta(a, b)."""
    return lambda rng, shape: rng.binomial(m, rng.beta(a, b, shape)) / m


MEANS: dict[str, tuple[Draw, float, Bounds]] = {
    "normal": (lambda rng, shape: rng.normal(0.2, 0.15, shape), 0.2, None),
    "skewed (lognormal 0.5)": (lambda rng, shape: rng.lognormal(0, 0.5, shape), math.exp(0.125), None),
    "skewed (exponential)": (lambda rng, shape: rng.exponential(1, shape), 1.0, None),
    "half zeros, else lognormal": (
        lambda rng, shape: rng.integers(2, size=shape) * rng.lognormal(0, 0.5, shape), math.exp(0.125) / 2, None,
    ),
    "ratings 0 to 2, 8 prompts": (lambda rng, shape: 2 * shares(8, 1, 4)(rng, shape), 0.4, (0.0, 2.0)),
    "ratings, half the concepts at 0": (
        lambda rng, shape: 2 * rng.integers(2, size=shape) * shares(8, 2, 3)(rng, shape), 0.4, (0.0, 2.0),
    ),
    "shares of 5 prompts": (shares(5, 0.5, 2), 0.2, (0.0, 1.0)),
    "shares, mostly 0": (shares(5, 0.3, 3), 1 / 11, (0.0, 1.0)),
}  # fmt: skip
"""Name -> draws (n_sims, n), their mean, and the bounds of a value."""
FRACTIONS: dict[str, tuple[Draw, Draw]] = {
    "normal": (lambda rng, shape: rng.normal(0.27, 0.16, shape), lambda rng, shape: rng.normal(0, 0.08, shape)),
    "skewed": (lambda rng, shape: rng.lognormal(-1.4, 0.5, shape), lambda rng, shape: rng.gumbel(-0.0462, 0.08, shape)),
    "half zeros": (
        lambda rng, shape: rng.integers(2, size=shape) * rng.lognormal(-0.7, 0.5, shape),
        lambda rng, shape: rng.integers(2, size=shape) * rng.normal(0, 0.1, shape),
    ),
    "bounded": (
        lambda rng, shape: 2 * shares(8, 1, 3)(rng, shape),
        lambda rng, shape: shares(8, 2, 2)(rng, shape) - shares(8, 2, 2)(rng, shape),
    ),
}
"""Name -> draws of native's effects, and of what an arm's differ from a fraction of them."""


def tasks(rng: np.random.Generator, n: int, n_items: int = 8) -> dict[str, Callable[[], Array]]:
    """Return draws of (n, n_items) values that are exchangeable between arms, correlated by what their concept and item share."""
    concept, item = rng.normal(0, 0.2, (n, 1)), rng.normal(0, 0.1, (n, n_items))
    chance, prompt = rng.beta(1, 4, (n, 1)), rng.normal(0, 0.44, (n, n_items))
    return {
        "likelihood": lambda: concept + item + rng.normal(0, 0.08, (n, 1)) + rng.normal(0, 0.1, (n, n_items)),
        "likelihood, skewed": lambda: concept + item + rng.exponential(0.1, (n, 1)) + rng.normal(0, 0.1, (n, n_items)),
        "ratings, own prompts, sd 0.44": lambda: np.clip(0.4 + prompt + rng.normal(0, 0.44, (n, n_items)), 0, 2),
        "rules": lambda: (rng.random((n, n_items)) < chance).astype(float),
    }


def error_rates(n_sims: int = 1000, seed: int = 0, sizes: Sequence[int] = SIZES) -> list[Rate]:
    """Return the coverage of every printed kind of 95 % interval, and how often verdicts are false, by what is drawn and n."""
    rng = np.random.default_rng(seed)
    found = []
    for n in sizes:
        for what, values, hits, least, most in (*_coverage(rng, n_sims, n), *_false_verdicts(rng, n_sims, n)):
            found.append(Rate(what, values, n, float(np.mean(hits)), n_sims, least, most))
    return sorted(found, key=lambda one: one.what)


def values_of(items: dict[ArmKey, Array]) -> TaskValues:
    """Return the values of a task from (n_concepts, n_items) arrays."""
    n = len(next(iter(items.values())))
    return TaskValues(tuple(f"c{i}" for i in range(n)), items, {}, {}, {}, {}, {})


def held(estimates: Iterable[Estimate], truth: float) -> list[bool]:
    """Return which intervals hold the truth, of those that there are."""
    printed = ((one.low, one.high) for one in estimates)
    return [low <= truth <= high for low, high in printed if low is not None and high is not None]


Found = tuple[str, str, list[bool], float, float]


def _coverage(rng: np.random.Generator, n_sims: int, n: int) -> Iterator[Found]:
    limits = (0.93, 0.97) if n >= 12 else (0.9, 0.98)
    for name, (draw, truth, bounds) in MEANS.items():
        drawn = draw(rng, (n_sims, n))
        yield "coverage: mean", name, held((mean_estimate(one, bounds=bounds) for one in drawn), truth), *limits
    rare = rng.binomial(5, 0.4, (n_sims, n)) * (rng.random((n_sims, n)) < 0.08) / 5
    hits = held((mean_estimate(one, bounds=(0.0, 1.0)) for one in rare), 0.032)
    yield "coverage: mean", "shares, often all 0: exact bound", hits, *limits
    arm = ArmKey("a", "linear")
    for name in tasks(rng, 1):
        drawn_tasks = (tasks(rng, n)[name] for _ in range(n_sims))
        made = [values_of({arm: draw(), REFERENCE: draw()}) for draw in drawn_tasks]
        yield "coverage: effect", name, held((mean_estimate(one.differences(arm)) for one in made), 0.0), *limits
    for name, (native, noise) in FRACTIONS.items():
        bottoms = native(rng, (n_sims, 3, n))
        tops = 0.85 * bottoms + noise(rng, bottoms.shape)
        for what, pairs in (
            ("recovered fraction", zip(tops[:, 0], bottoms[:, 0], strict=True)),
            ("pooled fraction", zip(tops.mean(axis=1), bottoms.mean(axis=1), strict=True)),
        ):
            yield f"coverage: {what}", name, held((ratio_estimate(*pair) for pair in pairs), 0.85), *limits


def _false_verdicts(rng: np.random.Generator, n_sims: int, n: int) -> Iterator[Found]:
    arms = [ArmKey(source, name) for source in ("a", "b") for name in ("linear", "mlp")]
    controls = (REFERENCE, ArmKey("", "mean"), ArmKey("", "random"))
    families = {
        "1 claim, 1 control": (1, 1),
        "any of 4 claims, 1 control": (4, 1),
        "any of 4 claims, 3 controls": (4, 3),
    }
    for task in tasks(rng, 1):
        hits: dict[str, list[bool]] = {family: [] for family in families}
        for _ in range(n_sims):
            draw = tasks(rng, n)[task]
            values = values_of({arm: draw() for arm in (*arms, *controls)} | {NATIVE: draw() + 0.5})
            for family, (n_claims, n_controls) in families.items():
                cases = [Case(values, arm, controls[:n_controls]) for arm in arms[:n_claims]]
                hits[family].append(any(one.word in CLAIMS for one in verdicts(cases)))
        for family, found in hits.items():
            yield f"false transfers: {family}", task, found, 0.0, ALPHA
    arm = ArmKey("a", "linear")
    for name, (native, noise) in FRACTIONS.items():
        for truth in (0.9, 1.1):
            bottoms = native(rng, (n_sims, n, 1))
            tops = truth * bottoms + noise(rng, bottoms.shape)
            pairs = zip(tops, bottoms, strict=True)
            made = (values_of({arm: top, NATIVE: bottom, REFERENCE: 0 * top}) for top, bottom in pairs)
            yield f"false equivalence: truly {truth}", name, [equivalent(one, arm) for one in made], 0.0, 0.06
