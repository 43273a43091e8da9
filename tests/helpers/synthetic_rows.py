"""Rows with known effects, for the tests of results, stats, plots and leaderboard.

The likelihood lift of an arm is `strength * factor` and its neutral change `-cost * factor` exactly, plus a wobble by
concept and item; so the matched factor is ln(1.3) / cost, and the lift there `strength * ln(1.3) / cost`.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from steer_bench.results.file import Results
from steer_bench.results.provenance import Provenance
from steer_bench.results.rows import Row

FACTORS = (0.2, 0.4, 0.8)
ARMS = {"native": 1.0, "linear": 0.9, "identity": 0.0, "random": 0.05, "mean": 0.1}
KINDS = {"native": "baseline", "linear": "transfer", "identity": "transfer", "random": "control", "mean": "control"}
WITHOUT_SOURCE = ("native", "random", "mean")


def make_rows(
    strengths: Mapping[str, float] = ARMS,
    *,
    target: str = "target-model",
    source: str = "source-model",
    n_concepts: int = 10,
    n_items: int = 6,
    cost: float = 0.5,
    wobble: float = 0.05,
    seed: int = 0,
) -> list[Row]:
    """Rows of concept_likelihood, concept_steering and rule_following for every arm, concept, factor and item."""
    rng = np.random.default_rng(seed)
    rows = []
    for concept in [f"c{index:02d}" for index in range(n_concepts)]:
        for item in range(n_items):
            base = float(rng.normal(-3, 0.2))
            rows.append(
                Row("concept_likelihood", target, "", "unsteered", concept, 0.0, f"t{item}", "concept", base, 20)
            )
            for arm, strength in strengths.items():
                noise = float(rng.normal(0, wobble))
                for factor in FACTORS:
                    value = base + (strength + noise - cost) * factor
                    where = (target, "" if arm in WITHOUT_SOURCE else source, arm, concept, factor)
                    rows.append(Row("concept_likelihood", *where, f"t{item}", "concept", value, 20))
        for item in range(n_items):
            neutral = -2.5 + 0.1 * item
            if concept == "c00":
                rows.append(
                    Row(
                        "concept_likelihood",
                        target,
                        "",
                        "unsteered",
                        "",
                        0.0,
                        f"n{item}",
                        "neutral",
                        neutral,
                        10 + item,
                    )
                )
            for arm in strengths:
                for factor in FACTORS:
                    where = (target, "" if arm in WITHOUT_SOURCE else source, arm, concept, factor)
                    changed = neutral - cost * factor
                    rows.append(Row("concept_likelihood", *where, f"n{item}", "neutral", changed, 10 + item))
        rows += _generation(strengths, rng, target, source, concept, n_items)
    return rows


def _generation(strengths, rng, target, source, concept, n_items) -> list[Row]:
    """Ratings peak at factor 0.4 for every arm; rules are obeyed with chance 0.1 + 0.8 * strength there."""
    rows = []
    for role in ("select", "score"):
        for item in range(n_items):
            prompt = f"{role}-{item}"
            rated = {"concept": 0.0, "instruction": 2.0, "fluency": 2.0}
            rows.append(
                Row("concept_steering", target, "", "unsteered", concept, 0.0, prompt, role, 0.1, 30, ratings=rated)
            )
            rows.append(Row("rule_following", target, "", "unsteered", concept, 0.0, prompt, role, 0.0, 30))
            for arm, strength in strengths.items():
                for factor in FACTORS:
                    where = (target, "" if arm in WITHOUT_SOURCE else source, arm, concept, factor)
                    peak = 1 - abs(factor - 0.4)
                    rating = float(np.clip(0.1 + strength * peak + rng.normal(0, 0.05), 0, 2))
                    obeyed = float(rng.random() < 0.1 + 0.8 * strength * peak)
                    rows.append(Row("concept_steering", *where, prompt, role, rating, 30, ratings={"fluency": 1.5}))
                    rows.append(Row("rule_following", *where, prompt, role, obeyed, 30))
    return rows


def make_run(name: str = "toy", arms: Iterable[str] = KINDS, **changes: object) -> Provenance:
    """Provenance as a run writes it; arms that KINDS does not know are transfers."""
    model = {"revision": "abc1234", "layer": 12, "d_model": 64, "dtype": "float32", "scale": 35.0}
    run = {
        "name": name,
        "created": "2026-01-02T03:04:05Z",
        "versions": {"steer_bench": "0.1.0", "torch": "2.13.0"},
        "models": {"source-model": model, "target-model": model},
        "judge": {"name": "embedding (all-MiniLM-L6-v2): a proxy"},
        "splits": {"fit": ["f1", "f2"], "select": ["s1"], "test": [f"c{index:02d}" for index in range(10)]},
        "factors": {"concept_likelihood": list(FACTORS), "concept_steering": list(FACTORS)},
        "seeds": {"bootstrap": 0},
        "arms": [
            {"arm": arm, "adapter": arm, "kind": KINDS.get(arm, "transfer"), "method": "a method"}
            for arm in arms
            if arm != "unsteered"
        ],
        "complete": True,
        "expected_rows": 0,
    }
    return Provenance.model_validate({**run, **changes})


def make_results(name: str = "toy", run: Mapping[str, object] | None = None, **options) -> Results:
    """A whole run; `run`: keys of its provenance that differ."""
    rows = make_rows(**options)
    return Results(make_run(name, **{"arms": sorted({row.arm for row in rows}), **(run or {})}), rows)
