"""How often the statistics are wrong, on values of known truth: coverage of intervals, false verdicts, power. Markdown tables.

Run: python benchmarks/error_rates.py [--n-sims 1000] [--seed 0] > benchmarks/STATISTICS.md
"""

import argparse
import math

import numpy as np
from scipy import stats

from steer_bench.results.stats import simulate
from steer_bench.results.stats.estimate import HALL, mean_estimate
from steer_bench.results.stats.grid import NATIVE, ArmKey
from steer_bench.results.stats.power import detectable
from steer_bench.results.stats.tests import ALPHA, sign_flip_p
from steer_bench.results.stats.values import REFERENCE
from steer_bench.results.stats.verdict import Case, verdicts

SIZES = (5, 6, 8, 12, 24, 70)
SPREADS = {
    "likelihood effect, nats a token": (0.08, 0.16),
    "ratings, 0 to 2": (0.25, 0.35),
    "share of replies": (0.15, 0.4),
}
"""Standard deviations over concepts: about the least and the most that arms of the shipped experiment have shown."""


def table(first, columns, lines):
    print(f"\n| {first} | {' | '.join(map(str, columns))} |\n|{'---|' * (len(columns) + 1)}")
    for name, cells in lines:
        print(f"| {name} | {' | '.join(cells)} |")


def rate_tables(rates, digits=3):
    for what in dict.fromkeys(rate.what for rate in rates):
        mine = [rate for rate in rates if rate.what == what]
        print(f"\n**{what[0].upper()}{what[1:]}**")
        lines = []
        for values in dict.fromkeys(rate.values for rate in mine):
            cells = [rate for rate in mine if rate.values == values]
            marks = ["" if r.least <= r.rate <= r.most else "°" if r.passed else "*" for r in cells]
            lines.append((values, [f"{r.rate:.{digits}f}{mark}" for r, mark in zip(cells, marks, strict=True)]))
        table("drawn from", [f"n = {n}" for n in SIZES], lines)


def student(values, level=0.95):
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return values.mean() - half, values.mean() + half


def hall(values):
    mixed, by_t = mean_estimate(values), student(values)
    return tuple(t + (m - t) / HALL for m, t in zip(mixed[1:3], by_t, strict=True))


def bootstrap_t(values, n=999):
    """Return the bootstrap-t interval, no resample's deviation below half of the sample's: else a resample of equal values divides by 0."""
    drawn = values[np.random.default_rng(0).integers(len(values), size=(n, len(values)))]
    sd = values.std(ddof=1)
    low, high = np.quantile((drawn.mean(1) - values.mean()) / np.maximum(drawn.std(1, ddof=1), sd / 2), [0.025, 0.975])
    return values.mean() - high * sd, values.mean() - low * sd


def bca(values, n=999):
    """Return Efron's (1987) bias-corrected and accelerated percentile interval."""
    means = np.sort(values[np.random.default_rng(0).integers(len(values), size=(n, len(values)))].mean(1))
    bias = stats.norm.ppf(np.clip((means < values.mean()).mean(), 1 / n, 1 - 1 / n))
    apart = values.mean() - values
    accelerated = (apart**3).sum() / (6 * ((apart**2).sum()) ** 1.5)
    z = bias + stats.norm.ppf([0.025, 0.975])
    low, high = np.quantile(means, stats.norm.cdf(bias + z / (1 - accelerated * z)))
    return low, high


METHODS = {"Student": student, "Hall": hall, f"{HALL:g} Hall (ours)": lambda v: mean_estimate(v)[1:3],
           "bootstrap-t, floored": bootstrap_t, "BCa": bca}  # fmt: skip


def methods(n_sims, seed):
    rng = np.random.default_rng([seed, 1])
    drawn = {name: (draw, truth) for name, (draw, truth, _) in simulate.MEANS.items()}
    drawn["very skewed (lognormal 1)"] = (lambda rng, shape: rng.lognormal(0, 1, shape), math.exp(0.5))
    for n in (6, 12, 24):
        lines = []
        for name, (draw, truth) in drawn.items():
            samples = [values for values in draw(rng, (n_sims, n)) if np.ptp(values)]
            held = {m: [low <= truth <= high for low, high in map(make, samples)] for m, make in METHODS.items()}
            lines.append((name, [f"{np.mean(hits):.3f}" for hits in held.values()]))
        table(f"n = {n}", METHODS, lines)


def shared_prompts(n_sims, seed):
    """Print how often an exchangeable arm transfers where every concept is asked the same prompts: why each has its own."""
    rng, arm = np.random.default_rng([seed, 2]), ArmKey("a", "linear")
    rates = []
    for n in SIZES:
        hits = []
        for _ in range(n_sims):
            draws = [rng.normal(0, 0.44, (1, 8)) + rng.normal(0, 0.3, (n, 8)) for _ in range(3)]
            values = simulate.values_of({arm: draws[0], REFERENCE: draws[1], NATIVE: draws[2] + 1})
            hits.append(verdicts([Case(values, arm, (REFERENCE,))])[0].word in simulate.CLAIMS)
        rates.append(f"{np.mean(hits):.3f}")
    table(
        "drawn from",
        [f"n = {n}" for n in SIZES],
        [("ratings, the same 8 prompts for all concepts, prompt sd 0.44", rates)],
    )


def power(n_sims, seed):
    sizes = (6, 8, 12, 16, 24, 48, 70)
    lines = []
    for measure, spreads in SPREADS.items():
        for sd in spreads:
            for claims in (1, 4, 12):
                found = [detectable(n, sd, claims) for n in sizes]
                lines.append(
                    (
                        f"{measure}, sd {sd:g}, {claims} claim{'s' * (claims > 1)}",
                        ["-" if one is None else f"{one:.3f}" for one in found],
                    )
                )
    table("differences", [f"n = {n}" for n in sizes], lines)
    rng, shares = np.random.default_rng([seed, 3]), []
    for n in sizes:
        samples = rng.normal(detectable(n, 1.0), 1.0, (n_sims, n))
        shares.append(f"{np.mean([sign_flip_p(one) <= ALPHA for one in samples]):.3f}")
    print("\nHow often the sign-flip test did find that difference, 1 claim, one control:")
    table("differences", [f"n = {n}" for n in sizes], [("normal", shares)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n-sims", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rates = simulate.error_rates(given.n_sims, given.seed, SIZES)
    error = math.sqrt(0.95 * 0.05 / given.n_sims)
    print(f"""# How often the statistics are wrong

Made by `python benchmarks/error_rates.py --n-sims {given.n_sims} --seed {given.seed}`: {given.n_sims} simulations a cell, values of known truth. n is the number of
concepts. The standard error of a coverage of 0.95 is {error:.4f}, so of cells that are truly 0.95 one in twenty differs from it by more than {2 * error:.3f}.

## Intervals: share that hold the truth

A 95 % interval should hold it in 0.93 to 0.97 of samples for n of 12 and more, 0.90 to 0.98 for n of 5 to 11. ° is outside that by less than the error of
the simulation, or holds it more often than need be; * is a fault.

- Means and effects have an interval between Student's and Hall's (estimate.py): the last table of this part has what others do.
- Where most concepts are at 0 and n is small, many samples are all 0. Their interval is the exact bound, which always holds a truth this small:
  so such rows cover more than 0.98, and can do no other.
- Recovered and pooled fractions have Fieller's interval, with Student's quantile. An unbounded one holds every truth: at n of 5 to 8, where native's own effect is
  uncertain, that makes coverage more than 0.95.
- Below 5 concepts there is no interval, and values that are all equal have one only where a value has bounds.""")
    rate_tables([rate for rate in rates if rate.what.startswith("coverage")])
    print("\n**Coverage of a mean by other methods** (samples of equal values left out; not clipped to bounds). No method here holds a very skewed mean, of skewness 6: "
          "effects of concepts have shown at most 2.2.")  # fmt: skip
    methods(min(given.n_sims, 1000), given.seed)
    print("""
## False verdicts

The arm is drawn as its controls are, and native steers: "transfers" and "equivalent to native" are false. At most 0.025 of runs should have one, for one claim and
for any of several (Holm). Controls and arms are correlated by what a concept and its items do to all of them. Fewer than 6 concepts (8 for 4 claims) can give no verdict.""")
    rate_tables([rate for rate in rates if rate.what.startswith("false transfers")])
    print("""
The same rule where concepts share their prompts, as they do not in any run: the concept is then no unit, and more of them make it worse.""")
    shared_prompts(given.n_sims, given.seed)
    print("""
"Equivalent to native" where the arm's effect truly is 0.9 or 1.1 of native's, at the margin: at most 0.06. (Far from 0.05 below where the interval is wider than
the margin: such runs can show no equivalence at all.)""")
    rate_tables([rate for rate in rates if rate.what.startswith("false equivalence")])
    print("""
## Power

The smallest mean difference that is found 80 % of the time (`detectable`, which `steer-bench plan` prints), against one control; an arm has to beat every one. -: no
verdict is possible.""")
    power(given.n_sims, given.seed)
