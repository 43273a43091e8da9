"""Rows with known effects at levels of damage, for the tests of results, board, figures and pages.

At every level wrong-concept changes the concept's texts by minus the logarithm of the level, and does nothing to replies; an arm's
effect over it is `strength * GAIN[level]`, times REPLY_GAIN for replies, plus a wobble by concept and item. Every concept has texts
and prompts of its own.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from steer_bench.results.file import Results
from steer_bench.results.provenance import Provenance, Unreached
from steer_bench.results.rows import Row

GAIN = {1.1: 0.15, 1.3: 0.25, 1.6: 0.35}
"""Level of damage -> native's effect on the likelihood."""
REPLY_GAIN = 2.0
FACTORS = {1.1: 0.16, 1.3: 0.28, 1.6: 0.38}
"""Level -> factor of native; the others' are larger."""
GRID = (0.2, 0.4)
ARMS = {"native": 1.0, "linear": 0.9, "identity": 0.0, "random": 0.0, "wrong-concept-0": 0.0, "wrong-concept-1": 0.0}
KINDS = {"native": "baseline", "linear": "transfer", "identity": "transfer", "random": "control"}
KINDS |= {"wrong-concept-0": "control", "wrong-concept-1": "control", "prompt": "ceiling"}
WITHOUT_SOURCE = ("native", "random", "mean", "prompt", "wrong-concept-0", "wrong-concept-1")
UNREACHED = "the largest factor tried, 8, does 1.2"


def make_rows(
    strengths: Mapping[str, float] = ARMS,
    *,
    target: str = "target-model",
    source: str = "source-model",
    n_concepts: int = 10,
    n_items: int = 6,
    levels: Iterable[float] = tuple(GAIN),
    grid: bool = False,
    wobble: float = 0.05,
    prompt: float | None = None,
    unreached: Iterable[tuple[str, float]] = (),
    seed: int = 0,
) -> list[Row]:
    """Rows of concept_likelihood, concept_steering and rule_following for every arm, concept, level and item.

    `grid`: replies on a grid of factors instead of levels. `prompt`: the score of an arm that asks. `unreached`: (arm, level) without
    rows.
    """
    rng = np.random.default_rng(seed)
    rows = []

    def add(
        task: str, arm: str, concept: str, dose: tuple[float, float], item: str, role: str, value: float, **more
    ) -> None:
        own = source if arm not in (*WITHOUT_SOURCE, "unsteered") else ""
        rows.append(Row(task, target, own, arm, concept, dose[0], item, role, value, 20, level=dose[1], **more))

    def reply(arm: str, concept: str, dose: tuple[float, float], item: int, role: str, score: float) -> None:
        name, rated = f"{concept}-{role}-{item}", {"concept": 1.0, "instruction": 2.0, "fluency": 1.5}
        value = float(np.clip(score + rng.normal(0, wobble), 0, 2))
        add("concept_steering", arm, concept, dose, name, role, value, ratings=rated)
        add("rule_following", arm, concept, dose, name, role, float(rng.random() < min(score, 1.0)))

    for index, concept in enumerate(f"c{index:02d}" for index in range(n_concepts)):
        shift = {arm: float(rng.normal(0, wobble)) for arm in strengths}
        for item in range(n_items):
            base, neutral = -3 + 0.1 * item, -2.5 + 0.1 * item
            add("concept_likelihood", "unsteered", concept, (0.0, 0.0), f"{concept}-t{item}", "concept", base)
            add("concept_likelihood", "unsteered", "", (0.0, 0.0), f"{concept}-n{item}", "neutral", neutral)
            for role in ("select", "score") if grid else ("score",):
                reply("unsteered", concept, (0.0, 0.0), item, role, 0.1)
                if prompt is not None:
                    reply("prompt", concept, (0.0, 0.0), item, role, prompt)
            for arm, strength in strengths.items():
                noise = shift[arm] + float(rng.normal(0, wobble))
                for level in levels:
                    if (arm, level) in unreached:
                        continue
                    factor = FACTORS[level] * (1 + 0.02 * index) * (1.0 if arm == "native" else 1.1)
                    dose, lost = (round(factor, 4), level), math.log(level)
                    change = (strength + noise) * GAIN[level] - lost
                    add("concept_likelihood", arm, concept, dose, f"{concept}-t{item}", "concept", base + change)
                    add("concept_likelihood", arm, concept, dose, f"{concept}-n{item}", "neutral", neutral - lost)
                    if not grid:
                        reply(arm, concept, dose, item, "score", 0.1 + REPLY_GAIN * strength * GAIN[level])
                for factor, role in ((f, r) for f in GRID for r in ("select", "score")) if grid else ():
                    reply(arm, concept, (factor, 0.0), item, role, 0.1 + strength * factor)
    return rows


def make_run(name: str = "toy", arms: Iterable[str] = KINDS, **changes: object) -> Provenance:
    """Provenance as a run writes it; arms that KINDS does not know are transfers."""
    model = {"revision": "abc1234", "layer": 12, "d_model": 64, "dtype": "float32", "scale": 35.0}
    tasks = ("concept_likelihood", "concept_steering", "rule_following")
    run = {
        "name": name,
        "created": "2026-01-02T03:04:05Z",
        "versions": {"steer_bench": "0.1.0", "torch": "2.13.0"},
        "models": {"source-model": model, "target-model": model},
        "judge": {"name": "embedding (all-MiniLM-L6-v2): a proxy"},
        "splits": {"fit": ["f1", "f2"], "select": ["s1"], "test": [f"c{index:02d}" for index in range(10)]},
        "levels": {task: list(GAIN) for task in tasks},
        "hashes": {"concepts": "0a1b", "instructions": "2c3d"},
        "positions": "all",
        "seeds": {"bootstrap": 0},
        "arms": [
            {"arm": arm, "adapter": arm, "kind": KINDS.get(arm, "transfer"), "method": "a method"}
            | ({"adapter": "wrong-concept", "method": "wrong-concept"} if arm.startswith("wrong-concept") else {})
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
    missed = [  # arms of a source
        Unreached(
            target=options.get("target", "target-model"),
            arm=arm,
            source=options.get("source", "source-model"),
            concept=concept,
            level=level,
            factor=None,
            reason=UNREACHED,
        )
        for arm, level in options.get("unreached", ())
        for concept in sorted({row.concept for row in rows} - {""})
    ]
    known = {"arms": sorted({row.arm for row in rows}), "unreached": missed}
    if options.get("grid"):
        known["levels"] = {"concept_likelihood": list(GAIN)}
        known["factors"] = dict.fromkeys(("concept_steering", "rule_following"), GRID)
    return Results(make_run(name, **{**known, **(run or {})}), rows)
