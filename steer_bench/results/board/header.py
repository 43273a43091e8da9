"""Header and notes: where the numbers of a board come from, and how to read them.

provenance of every run -> [facts, notes]
"""

from collections.abc import Mapping, Sequence

from steer_bench.results.board.entries import ArmEntry
from steer_bench.results.board.table import inline
from steer_bench.results.file import Results
from steer_bench.results.measures import measure_of
from steer_bench.results.provenance import JudgeCheck
from steer_bench.results.recount import missing_rows
from steer_bench.results.stats.tests import ALPHA

Facts = tuple[tuple[str, str], ...]

COLUMNS = {
    "effect": "the arm's value minus that of wrong-concept at the same level of damage, paired text by text or prompt by prompt; "
    "wrong-concept is the target's own vectors of other concepts",
    "recovered": "sum over concepts of the arm's effects, over the sum of native's; native is 1 by definition",
    "verdict": "what the test of this task says, explained below",
    "damage": "perplexity of held-out neutral text, steered over unsteered, as measured (geometric mean over concepts), marked where "
    "it is more than 10 % away from the level; then the factor that does it, in multiples of the residual stream's norm (median over "
    "concepts)",
    "dN": "change of log-likelihood on neutral text, nats a token: the damage again, and no part of the value; dC minus dN is the lift",
    "wrong way": "share of concepts, and of single texts or replies, on which the arm does less than wrong-concept",
    "few-shot n": "texts a side with which a vector of the target's own does as much",
    "n": "test concepts behind the value, and behind the effect where those are fewer",
    "unscored": "values without a score, of those there should be; they are left out, never taken as 0",
}
"""Headings of the arm tables, and what they mean."""


def facts_of(result: Results, entries: Sequence[ArmEntry]) -> Facts:
    """Return (label, text): what a run measured, with what, and when; `entries`: those of the run."""
    run = result.run
    facts = [("created", run.created)] if run.created else []
    facts += [("partial", told) for told in missing_rows(result)]
    for name, model in sorted(run.models.items()):
        facts.append(("model", f"{name}: {inline(model.model_dump(exclude_none=True))}"))
    if run.positions:
        facts.append(("positions", run.positions))
    facts.append(("judge", run.judge.name if run.judge else "none"))
    if run.judge:
        facts.append(("judge's check", _check(run.judge.check)))
    splits = run.splits.model_dump(exclude={"folds"}) if run.splits else {}
    concepts = ", ".join(f"{split} {_split(ids)}" for split, ids in splits.items())
    facts.append(("concepts", concepts or "no splits recorded"))
    if run.splits and run.splits.folds:
        tested = ", ".join(f"{number} tests {_split(ids)}" for number, ids in enumerate(run.splits.folds, 1))
        facts.append(("folds", f"{tested}; each by maps fitted on the others, whose R2 is the mean over folds"))
    if run.levels:
        facts.append(("levels of damage", f"{_by_task(run.levels)}; verdicts are about {run.headline:g}"))
    if grids := {task: grid for task, grid in run.factors.items() if grid and not run.levels.get(task)}:
        facts.append(("grids of factors", _by_task(grids)))
    cells = [cell for entry in entries if entry.kind == "transfer" for cell in entry.cells.values()]
    if n_claims := sum(cell.verdict is not None and not cell.verdict.exploratory for cell in cells):
        names = "all transfer arms" if run.claims is None else ", ".join(run.claims) or "none"
        facts.append(
            ("claims", f"{names}; one-sided {ALPHA:g}, Holm over {n_claims} claims (arms x sources x targets x tasks)")
        )
    facts.append(("seeds", inline(run.seeds.model_dump())))
    facts.append(("versions", inline(run.versions or "none recorded")))
    return tuple(facts)


def notes_of(results: Sequence[Results], partial: Sequence[str] = ()) -> tuple[str, ...]:
    """Say how to read the board, one paragraph each; `partial`: runs whose rows are not all there."""
    runs = [result.run for result in results]
    notes = []
    if any(run.levels for run in runs):
        notes.append(
            "Damage: arms are compared where they do the same damage. For every arm and concept the factor is sought at which the "
            "perplexity of calibration texts rises to the level; these are neutral texts of the kind that is scored, and none of "
            "them is scored. Where an arm does not reach a level its cell says so, and nothing else takes its place."
        )
    if any(grid for run in runs for task, grid in run.factors.items() if measure_of(task).replies):
        notes.append(
            "Grids: a task on a grid of factors uses, for each arm and concept, the factor with the best mean on its selection "
            "prompts; its numbers are from other prompts."
        )
    notes += [
        "Numbers: every concept has texts and prompts of its own, the same for all arms, and counts once, with the mean over them. "
        "Intervals are 95 % intervals over concepts, exact bounds where all concepts have one score; below 5 concepts there are none. "
        "n/a: it cannot be computed. Unbounded: the interval of a fraction has no end, because native's effect may be 0.",
        f"Transfers: native steers, and the arm beats wrong-concept and every other control of the table by a sign-flip test over "
        f"concepts, one-sided at {ALPHA:g} after Holm's correction over the claims of the run. Equivalent: it also lies between 0.9 and "
        "1.1 times native's effect (two one-sided tests at 0.04). No evidence is not evidence of no transfer. Too few concepts: no "
        "result could have passed. Native does not steer: native's own effect is not above 0, so there is nothing to recover. "
        "Exploratory: an arm that the run does not claim, with the Benjamini-Hochberg correction among such arms.",
        "Bold: the transfer arm with the largest effect, where it transfers and the interval of its difference to the next one lies "
        "above 0.",
    ]
    proxies = sorted({run.judge.name for run in runs if run.judge and "proxy" in run.judge.name})
    if proxies:
        notes.append(f"Ratings come from {', '.join(proxies)} for a language-model judge: read them as such.")
    if partial:
        notes.append(f"Partial: not all rows of {', '.join(partial)} are there; its numbers may change.")
    return tuple(notes)


def _split(split: Sequence[str]) -> str:
    """Return how many, and which where they are few.

    >>> _split(["sea", "law"]), _split([f"c{i}" for i in range(60)])
    ('2 (sea, law)', '60')
    """
    return f"{len(split)} ({', '.join(map(inline, split))})" if 0 < len(split) <= 12 else str(len(split))


def _by_task(numbers: Mapping[str, Sequence[float]]) -> str:
    """Return levels or factors by task, tasks with the same ones named together.

    >>> _by_task({"a": [0.1, 0.2], "b": [0.4], "c": [0.1, 0.2]})
    'a, c: 0.1 0.2; b: 0.4'
    """
    tasks: dict[str, list[str]] = {}
    for task, grid in numbers.items():
        tasks.setdefault(inline(grid), []).append(inline(task))
    return "; ".join(f"{', '.join(names)}: {grid}" for grid, names in tasks.items()) or "none recorded"


def _check(check: JudgeCheck | None) -> str:
    """Return a judge's check with its figures at three decimals."""
    if check is None:
        return "none: how well it rates is not known"
    found = {f"{aspect} AUROC": round(value, 3) for aspect, value in check.auroc.items()}
    return inline({**found, "n": check.n, "unscored": round(check.unscored, 3)})
