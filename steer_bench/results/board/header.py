"""Header and notes: where the numbers of a board come from, and how to read them.

provenance of every run -> [facts, notes]
"""

from collections.abc import Mapping, Sequence

from steer_bench.results.board.table import inline
from steer_bench.results.file import Results
from steer_bench.results.measures import MEASURES
from steer_bench.results.provenance import JudgeCheck

Facts = tuple[tuple[str, str], ...]

COLUMNS = {
    **{measure.heading: measure.meaning for measure in MEASURES.values() if measure.heading},
    "recovered": "the arm's effect over native's, sums over concepts, not clipped; native is 1 by definition",
    "cost": "perplexity of neutral text, steered over unsteered (geometric mean over concepts), at the factor that was used "
    "(median over concepts): the matched one for likelihood, the selected one for other tasks",
    "matched": "the score at matched damage, and the factor (median over concepts): that of the factors within the damage limit "
    "which was best on selection prompts; at factor 0 where no factor is within it",
    "n": "test concepts behind the numbers, in the order of the tasks where they differ",
    "unscored": "values that could not be had, of those there should be",
    "verdict": "about the first of likelihood, rules and steering that was measured",
}
"""Short headings of the arm tables, and what they mean."""


def facts_of(result: Results) -> Facts:
    """Return (label, text): what a run measured, with what, and when."""
    run = result.run
    facts = [("created", run.created)] if run.created else []
    if not run.complete:
        facts.append(("partial", f"{len(result.rows)} of {run.expected_rows or 'an unknown number of'} rows"))
    for name, model in sorted(run.models.items()):
        facts.append(("model", f"{name}: {inline(model.model_dump(exclude_none=True))}"))
    facts.append(("judge", run.judge.name if run.judge else "none"))
    if run.judge:
        facts.append(("judge's check", _check(run.judge.check)))
    splits = run.splits.model_dump() if run.splits else {}
    concepts = ", ".join(f"{split} {_split(ids)}" for split, ids in splits.items())
    facts.append(("concepts", concepts or "no splits recorded"))
    facts.append(("factors", _factors(run.factors)))
    facts.append(("seeds", inline(run.seeds.model_dump())))
    facts.append(("versions", inline(run.versions or "none recorded")))
    return tuple(facts)


def notes_of(results: Sequence[Results]) -> tuple[str, ...]:
    """Say how to read the board, one paragraph each."""
    limits = sorted({result.run.damage_limit for result in results})
    limit = " or ".join(f"{value:g}" for value in limits)
    notes = [
        "Numbers are means over test concepts with a 95 % interval (paired bootstrap over concepts, then items). "
        "n/a: it can not be had (fewer than 2 concepts, no variance, or native itself does not steer). "
        "Unscored values are counted and left out, never taken as 0.",
        "Matched damage: at one factor arms do very different damage, so concept_likelihood compares them at the largest "
        f"factor at which the perplexity of neutral text is at most {limit} times the unsteered one, interpolated on the "
        "grid. A ratio below that limit means that the grid ended first. Other tasks use the factor that was best on "
        "selection prompts and are scored on other prompts; beside it stands the same with the factors up to that limit alone.",
        "Transfers: native steers, the arm steers, and it beats every control of the table (p from sign flips, Holm over "
        "arms). Equivalent to native: also within the margin of native. The best arm that transfers is in bold; where none "
        "does, none is.",
    ]
    proxies = sorted({run.judge.name for run in (r.run for r in results) if run.judge and "proxy" in run.judge.name})
    if proxies:
        notes.append(f"Ratings come from {', '.join(proxies)} for a language-model judge: read them as such.")
    partial = [result.run.name for result in results if not result.run.complete]
    if partial:
        notes.append(f"Partial: {', '.join(partial)} did not finish; its numbers may change.")
    return tuple(notes)


def _split(split: Sequence[str]) -> str:
    """Return how many, and which where they are few.

    >>> _split(["sea", "law"]), _split([f"c{i}" for i in range(60)])
    ('2 (sea, law)', '60')
    """
    return f"{len(split)} ({', '.join(map(inline, split))})" if 0 < len(split) <= 12 else str(len(split))


def _factors(factors: Mapping[str, Sequence[float]]) -> str:
    """Return the factor grids, tasks with the same grid named together.

    >>> _factors({"a": [0.1, 0.2], "b": [0.4], "c": [0.1, 0.2]})
    'a, c: 0.1 0.2; b: 0.4'
    """
    tasks: dict[str, list[str]] = {}
    for task, grid in factors.items():
        tasks.setdefault(inline(grid), []).append(inline(task))
    return "; ".join(f"{', '.join(names)}: {grid}" for grid, names in tasks.items()) or "none recorded"


def _check(check: JudgeCheck | None) -> str:
    """Return a judge's check with its figures at three decimals."""
    if check is None:
        return "none: how well it rates is not known"
    found = {f"{aspect} AUROC": round(value, 3) for aspect, value in check.auroc.items()}
    return inline({**found, "n": check.n, "unscored": round(check.unscored, 3)})
