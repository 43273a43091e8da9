"""Repeats: one experiment with several map and split seeds, and how much of each number hangs on them.

experiment -> runs RUN/repeat-0, … -> entries of each -> [RUN/repeats.md]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from steer_bench.experiment.data import Data
from steer_bench.experiment.folder import Folder
from steer_bench.experiment.run import MissingStageError, Run, start
from steer_bench.files import write_whole
from steer_bench.results.board.entries import entries
from steer_bench.results.file import load_results
from steer_bench.results.measures import in_order
from steer_bench.results.pages.text import escape_markdown

HEAD = ("task", "target", "source", "arm", "number", "mean", "sd between repeats", "sd between concepts")
INTRO = (
    "Effect: the value less that of wrong concepts, over the concepts of a repeat. sd between repeats: what other seeds of maps and "
    "splits change, beyond what the choice of concepts alone would. sd between concepts: within one repeat. Recovered: the mean of the "
    "repeats. `-`: not measured.\n"
)


class Components(NamedTuple):
    """Mean of all values, and the variances they have between groups and within one; None where there are too few."""

    mean: float | None
    between: float | None
    within: float | None


def components(groups: Sequence[Sequence[float]]) -> Components:
    """Split the variance of values x_rc, concept c of repeat r, by a one-way random-effects analysis of variance (Searle 1971).

    With R repeats of n_r concepts, N in all, m_r the mean of a repeat and m that of all values:
    within = sum_rc (x_rc - m_r)^2 / (N - R), n_0 = (N - sum_r n_r^2 / N) / (R - 1),
    between = max(0, (sum_r n_r (m_r - m)^2 / (R - 1) - within) / n_0).
    """
    groups = [group for group in groups if group]
    n, r = sum(map(len, groups)), len(groups)
    if not n:
        return Components(None, None, None)
    mean = math.fsum(x for group in groups for x in group) / n
    means = [math.fsum(group) / len(group) for group in groups]
    if n == r:
        return Components(mean, None, None)
    within = math.fsum((x - m) ** 2 for group, m in zip(groups, means, strict=True) for x in group) / (n - r)
    if r < 2:
        return Components(mean, None, within)
    square = math.fsum(len(group) * (m - mean) ** 2 for group, m in zip(groups, means, strict=True)) / (r - 1)
    size = (n - sum(len(group) ** 2 for group in groups) / n) / (r - 1)
    return Components(mean, max(0.0, (square - within) / size), within)


def repeated(run: Run) -> list[Run]:
    """Begin the repeats of a run and return them: repeat r has `seed + r` and `splits.seed + r`, and is a run folder of its own."""
    start(run)
    found = []
    for r in range(run.experiment.repeats):
        splits = run.experiment.splits.model_copy(update={"seed": run.experiment.splits.seed + r})
        update = {"repeats": 1, "seed": run.experiment.seed + r, "splits": splits}
        experiment = run.experiment.model_copy(update=update)
        found.append(Run(experiment, Data(experiment, run.data.base), Folder(run.folder.path / f"repeat-{r}")))
        start(found[-1])
    return found


def write_repeats(run: Run) -> Path:
    """Write RUN/repeats.md: per task, target, source and arm the effect and recovered fraction of every repeat, and variances.

    Raises MissingStageError where a repeat is not reported yet.
    """
    found: dict[tuple[str, str, str, str], dict[int, tuple[float | None, list[float], float | None]]] = {}
    for r in range(run.experiment.repeats):
        file = run.folder.path / f"repeat-{r}" / "results.json"
        if not file.is_file():
            raise MissingStageError(f"no {file}; run steer-bench run {run.folder} first")
        for entry in entries(load_results(file)):
            for task, cell in entry.cells.items():
                one = cell.effect.value, list(cell.effects.values()), cell.recovered.value
                found.setdefault((task, entry.target, entry.source, entry.arm), {})[r] = one
    lines = []
    for task in in_order(key[0] for key in found):
        for key, of in ((key, of) for key, of in found.items() if key[0] == task):
            if all(effect is None for effect, *_ in of.values()):
                continue
            empty: tuple[None, list[float], None] = None, [], None
            by_repeat = [of.get(r, empty) for r in range(run.experiment.repeats)]
            effects, shares = [effect for effect, *_ in by_repeat], [share for *_, share in by_repeat]
            whole = components([values for _, values, _ in by_repeat])
            lines.append(
                [*key, "effect", *map(_digits, (whole.mean, _root(whole.between), _root(whole.within), *effects))]
            )
            known = [share for share in shares if share is not None]
            mean = math.fsum(known) / len(known) if known else None
            lines.append([*key, "recovered", *map(_digits, (mean, None, None, *shares))])
    head = [*HEAD, *(f"repeat {r}" for r in range(run.experiment.repeats))]
    cells = [[escape_markdown(str(cell)) for cell in line] for line in lines]
    table = tabulate(cells, head, tablefmt="pipe", disable_numparse=True)
    path = run.folder.path / "repeats.md"
    write_whole(
        path, f"# {escape_markdown(run.experiment.name)}: {run.experiment.repeats} repeats\n\n{INTRO}\n{table}\n"
    )
    return path


def _root(variance: float | None) -> float | None:
    return None if variance is None else math.sqrt(variance)


def _digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
