"""The main tables: one a target, a row an arm, columns for each task.

entries -> [arm tables]
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from steer_bench.results.board.entries import ArmEntry, ArmResult
from steer_bench.results.board.table import MISSING, Line, Table, Text, interval, interval_cell, number
from steer_bench.results.measures import LIKELIHOOD, REPLIES, SUPPRESSION, in_order, measure_of
from steer_bench.results.provenance import KINDS
from steer_bench.vectors.arms import UNSTEERED

CLAIMS = ("transfers", "equivalent to native")
UNSCORED_GAP = 0.05
"""Arms whose unscored shares differ by more than this are not comparable without a word."""
NOT_OBEYED = 0.9
"""Share of unsteered replies that break a rule they were asked to obey, from which suppressing it shows nothing."""
NOTHING = Text("-")


def natural(name: str) -> list[str | int]:
    """Return a sort key that puts few-shot-2 before few-shot-16.

    >>> sorted(["few-shot-16", "few-shot-2", "few"], key=natural)
    ['few', 'few-shot-2', 'few-shot-16']
    """
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", name)]


def arm_tables(found: Sequence[ArmEntry], *, several: bool) -> list[Table]:
    """Return one table per target (and run, where there are several), sorted by target."""
    places = {id(entry): place for place, entry in enumerate(found)}
    tables = []
    for run, target in sorted({(entry.run, entry.target) for entry in found}, key=lambda pair: (pair[1], pair[0])):
        here = [entry for entry in found if (entry.run, entry.target) == (run, target)]
        sources = sorted({entry.source for entry in here} - {""})
        title = f"To {target}" if sources else f"{target}, no transfer"
        title = f"{sources[0]} to {target}" if len(sources) == 1 else title
        tables.append(_arm_table(title + (f" (run {run})" if several else ""), here, len(sources) > 1, places))
    return tables


def recovered_text(entry: ArmEntry, task: str) -> Text:
    """Return an arm's recovered fraction on a task."""
    cell = _steered(entry, task)
    if cell is None:
        return NOTHING
    if entry.arm == "native":
        return Text("1" if cell.recovered.value is not None else MISSING, cell.recovered.value)
    return interval_cell(cell.recovered)


def _arm_table(title: str, lines: Sequence[ArmEntry], with_source: bool, places: Mapping[int, int]) -> Table:
    tasks = in_order(task for entry in lines for task in entry.cells)
    recovered = [task for task in tasks if any(_has_recovered(entry, task) for entry in lines)]
    judged = next((task for task in REPLIES if task in tasks), None)
    headline = lines[0].headline
    columns: list[tuple[str, Callable[[ArmEntry], Text]]] = [("group", lambda entry: Text(entry.kind))]
    columns.append(("arm", lambda entry: Text(entry.arm)))
    if with_source:
        columns.append(("source", lambda entry: Text(entry.source)))
    if headline:
        columns.append(("verdict", lambda entry: Text(entry.verdict or "-")))
    for task in tasks:
        columns.append((measure_of(task).title, partial(_score, task=task)))
        if task in recovered:
            columns.append(("recovered", partial(recovered_text, task=task)))
        if task in (LIKELIHOOD, judged):
            columns.append(("cost", partial(_cost, task=task)))
        if any(_has_matched(entry, task) for entry in lines):
            columns.append(("matched", partial(_matched, task=task)))
    columns += [("n", partial(_counts, tasks=tasks)), ("unscored", partial(_unscored, tasks=tasks))]
    # The best arm: the largest effect on the headline task, of the transfer arms that may claim to transfer.
    claims = [entry for entry in lines if entry.kind == "transfer" and entry.verdict in CLAIMS]
    best = max(claims, key=lambda entry: (entry.cells[headline].score.value or 0.0, entry.arm), default=None)
    rows = []
    for entry in sorted(lines, key=lambda e: (KINDS.index(e.kind), natural(e.arm), e.source)):
        cells = tuple(cell_of(entry) for _, cell_of in columns)
        rows.append(Line(cells, strong=entry is best, group=entry.kind, entry=places[id(entry)]))
    return Table(title, tuple(name for name, _ in columns), tuple(rows), tuple(_remarks(lines, tasks, recovered)))


def _steered(entry: ArmEntry, task: str) -> ArmResult | None:
    """Return what a steered arm did on a task; None where it was not measured, and for the unsteered arm."""
    return None if entry.arm == UNSTEERED else entry.cells.get(task)


def _has_recovered(entry: ArmEntry, task: str) -> bool:
    cell = entry.cells.get(task)
    return bool(measure_of(task).heading) and cell is not None and cell.recovered.value is not None


def _has_matched(entry: ArmEntry, task: str) -> bool:
    cell = _steered(entry, task)
    return cell is not None and cell.matched is not None and cell.matched.value is not None


def _score(entry: ArmEntry, task: str) -> Text:
    return interval_cell(entry.cells[task].score) if task in entry.cells else NOTHING


def _cost(entry: ArmEntry, task: str) -> Text:
    cell = _steered(entry, task)
    return Text(f"{number(cell.ratio, 2)} at {number(cell.factor, 2)}", cell.ratio) if cell else NOTHING


def _matched(entry: ArmEntry, task: str) -> Text:
    """Return the score at matched damage, and the factor it was reached with."""
    cell = _steered(entry, task)
    if cell is None or cell.matched is None:
        return NOTHING
    if cell.matched.value is None:
        return Text(MISSING)
    return Text(f"{interval(cell.matched)} at {number(cell.matched_factor, 2)}", cell.matched.value)


def _counts(entry: ArmEntry, tasks: Sequence[str]) -> Text:
    """Return the concepts behind each task's number, once where they agree."""
    counts = [entry.cells[task].score.n for task in tasks if task in entry.cells]
    return Text("/".join(map(str, counts if len(set(counts)) > 1 else counts[:1])), float(min(counts)))


def _unscored(entry: ArmEntry, tasks: Sequence[str]) -> Text:
    """Say how many values are unscored, on which task where there are several, and why."""
    cells = [(task, entry.cells[task]) for task in tasks if task in entry.cells]
    texts = [
        f"{cell.unscored} of {cell.total}"
        + (f" {measure_of(t).title}" if len(tasks) > 1 else "")
        + (f" ({', '.join(cell.reasons)})" if cell.reasons else "")
        for t, cell in cells
        if cell.unscored
    ]
    return Text(", ".join(texts) or "0", float(sum(cell.unscored for _, cell in cells)))


def _remarks(lines: Sequence[ArmEntry], tasks: Sequence[str], recovered: Sequence[str]) -> list[str]:
    remarks = []
    several = len({entry.source for entry in lines} - {""}) > 1
    for entry in lines:
        cell = entry.cells.get(entry.headline)
        name = f"{entry.arm} from {entry.source}" if several and entry.source else entry.arm
        if cell is not None and cell.verdict is not None:
            remarks.append(f"{name}: {cell.verdict.word}; {cell.verdict.why}.")
        if cell is not None and entry.kind == "transfer" and cell.recovered.low is not None and cell.recovered.low > 1:
            remarks.append(f"{name} recovers more than all of native's effect: native may be tuned too little.")
    native = {task for entry in lines if entry.arm == "native" for task in entry.cells}
    for task in tasks:
        plain = next((e.cells[task].score.value for e in lines if e.arm == UNSTEERED and task in e.cells), None)
        if task == SUPPRESSION and plain is not None and plain >= NOT_OBEYED:
            told = f"{number(plain, 2)} of the unsteered replies do not obey although asked to"
            remarks.append(
                f"{measure_of(task).title}: {told}, so there is next to nothing to suppress; take rules the model follows."
            )
        elif measure_of(task).heading and task not in recovered and task in native:
            remarks.append(f"{measure_of(task).title}: native itself does not steer, so there is nothing to recover.")
        cells = {entry.arm: entry.cells[task] for entry in lines if task in entry.cells}
        shares = {arm: cell.unscored / cell.total for arm, cell in cells.items() if cell.total}
        if shares and max(shares.values()) - min(shares.values()) > UNSCORED_GAP:
            worst = max(sorted(shares), key=lambda arm: shares[arm])
            remarks.append(f"{task}: {shares[worst]:.0%} of {worst} is unscored, unlike other arms; compare with care.")
    return remarks
