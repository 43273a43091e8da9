"""Tables beside the main ones: levels of damage, methods over all pairs, concepts, specificity, geometry, judges, refused arms.

entries, results -> [tables]
"""

from collections.abc import Sequence

from steer_bench.results.board.arms import (
    NATIVE,
    NOTHING,
    by_target,
    effect_cell,
    in_rows,
    name_of,
    recovered_cell,
    verdict_cell,
)
from steer_bench.results.board.entries import CLAIMS, ArmEntry, pooled
from steer_bench.results.board.table import Line, Table, Text, interval, interval_cell, number, number_cell
from steer_bench.results.file import Results
from steer_bench.results.measures import DRAWN, SPECIFICITY, in_order, measure_of
from steer_bench.results.stats.grid import ArmKey
from steer_bench.results.stats.specificity import Specificity, specificity
from steer_bench.results.stats.values import REFERENCE, task_levels


def levels_tables(entries: Sequence[ArmEntry]) -> list[Table]:
    """Return one table per target measured at several levels: effect and recovered fraction of each arm at each of them."""
    tables = []
    for title, here in by_target(entries):
        levels = sorted({level for entry in here for by in entry.levels.values() for level in by if level})
        if len(levels) < 2:
            continue
        lines, headline = [], 0.0
        for task in in_order(task for entry in here for task in entry.levels if measure_of(task).heading):
            for entry in in_rows(here):
                found = entry.levels.get(task, {})
                if any(cell.effect.value is not None and cell.factor for cell in found.values()):
                    cells = [Text(measure_of(task).title), Text(name_of(entry, here))]
                    for level in levels:
                        cell = found.get(level)
                        cells += [effect_cell(cell), recovered_cell(cell, entry.arm)] if cell else [NOTHING, NOTHING]
                    cells.append(verdict_cell(entry.cells[task], entry.arm))
                    lines.append(Line(tuple(cells), group=measure_of(task).title))
                    headline = entry.cells[task].level
        columns = [f"{what} at {level:g}" for level in levels for what in ("effect", "recovered")]
        remark = f"The verdict is about damage {headline:g}; at other levels nothing is tested. -: not reached, or not measured."
        if lines:
            columns = ["task", "arm", *columns, f"verdict at {headline:g}"]
            tables.append(Table(f"{title}: by level of damage", tuple(columns), tuple(lines), (remark,)))
    return tables


def pooled_table(entries: Sequence[ArmEntry]) -> Table | None:
    """Return the methods of transfer, ranked by what they recover over all pairs of source and target."""
    found = [line for line in pooled(entries) if line.kind == "transfer" and line.recovered.value is not None]
    if not found:
        return None
    lines = []
    for task in in_order(line.task for line in found):
        for line in (line for line in found if line.task == task):
            verdicts = [e.cells[task].verdict for e in entries if e.arm == line.arm and task in e.cells]
            claims = sum(verdict is not None and verdict.word in CLAIMS for verdict in verdicts)
            spread = Text(f"{number(line.least, 2)} to {number(line.most, 2)}", line.least)
            cells = [Text(measure_of(task).title), Text(line.arm), interval_cell(line.recovered), spread]
            cells += [Text(str(line.pairs), float(line.pairs)), Text(f"{claims} of {len(verdicts)}", float(claims))]
            lines.append(Line(tuple(cells), group=measure_of(task).title))
    columns = ("task", "arm", "recovered", "least to most", "pairs", "transfers")
    remark = (
        "Recovered: sum of the arm's effects over sum of native's, over concepts and pairs of source and target; the interval is "
        "over concepts, each the mean of its pairs. Least to most: over the pairs that reach the level. Transfers: pairs with the "
        "verdict transfers or equivalent, of all."
    )
    return Table("Methods over all pairs", columns, tuple(lines), (remark,))


def leading(entries: Sequence[ArmEntry], task: str) -> ArmEntry | None:
    """Return the transfer arm with the largest effect on a task."""
    found = [e for e in entries if e.kind == "transfer" and task in e.cells and e.cells[task].effects]
    return max(found, key=lambda entry: (entry.cells[task].effect.value or 0.0, entry.arm), default=None)


def trio(entries: Sequence[ArmEntry], task: str) -> list[ArmEntry]:
    """Return native, the transfer arm with the largest effect and wrong-concept, those that the task has."""
    of = {entry.arm: entry for entry in entries if task in entry.cells}
    found = (of.get(NATIVE), leading(entries, task), of.get(REFERENCE.name))
    return [entry for entry in found if entry is not None and entry.cells[task].values]


def concept_tables(entries: Sequence[ArmEntry]) -> list[Table]:
    """Return one table per target and task: every concept under native, the best transfer arm and wrong-concept, worst first."""
    tables = []
    for title, here in by_target(entries):
        for task in DRAWN:
            shown, best = trio(here, task), leading(here, task)
            if best is None:
                continue
            effects = best.cells[task].effects
            concepts = sorted(effects, key=lambda concept: (effects[concept], concept))
            names = [name_of(entry, here) for entry in shown]
            columns = {name: entry.cells[task].values for name, entry in zip(names, shown, strict=True)}
            columns |= {
                f"effect of {n}": e.cells[task].effects
                for n, e in zip(names, shown, strict=True)
                if e.cells[task].effects
            }
            lines = [Line((Text(c), *(number_cell(column.get(c), 2) for column in columns.values()))) for c in concepts]
            worst = f"Worst under {name_of(best, here)}: {concepts[0]}, effect {number(effects[concepts[0]], 2)}."
            told = f"{measure_of(task).value} of every concept, worst first; the effect is its difference to wrong-concept."
            tables.append(
                Table(
                    f"{title}: {measure_of(task).title}, concept by concept",
                    ("concept", *columns),
                    tuple(lines),
                    (told, worst),
                )
            )
    return tables


def specificity_of(result: Results, target: str) -> dict[ArmKey, Specificity]:
    """Return the matrices of specificity of every arm, at the level nearest to the run's headline."""
    rows = result.rows.where(task=SPECIFICITY, target=target)
    main = min(task_levels(rows, SPECIFICITY, target), key=lambda level: abs(level - result.run.headline))
    level = rows.numbers["level"]
    return specificity(rows.take((level == main) | (level == 0)), target, result.run.pooled)


def specificity_table(results: Sequence[Results]) -> Table | None:
    """Return one line per arm: its vectors on the texts of their own concept, and of the others."""
    lines = []
    for result in results:
        for target in result.rows.where(task=SPECIFICITY).texts["target"].present():
            for arm, matrix in sorted(specificity_of(result, target).items()):
                own, others = (float(values.mean()) for values in (matrix.own, matrix.others))
                difference = Text(f"{interval(matrix.difference)} n={matrix.difference.n}", matrix.difference.value)
                numbers = (number_cell(own), number_cell(others), difference, number_cell(matrix.top1, 2))
                lines.append(Line((Text(target), Text(arm.source or "-"), Text(arm.name), *numbers)))
    if not lines:
        return None
    columns = ("target", "source", "arm", "own concept", "other concepts", "difference", "own concept first")
    remark = (
        "Change of log-likelihood, nats a token, of held-out texts under every concept's vector. A vector that "
        "is about its concept raises that concept's texts more than the others'."
    )
    return Table("Specificity: every vector on every concept's texts", columns, tuple(lines), (remark,))


def geometry_table(results: Sequence[Results]) -> Table | None:
    """Return the closeness of transferred to native vectors: a diagnostic, never a ranking."""
    measured = [(result.run.name, line) for result in results for line in result.run.geometry]
    if not measured:
        return None
    keys = ["cosine", "centred_cosine", "retrieval", "r2"]
    if any(line.centred_ceiling is not None for _, line in measured):
        keys += ["ceiling", "centred_ceiling"]
    several = len({name for name, _ in measured}) > 1
    lines = []
    for name, line in sorted(measured, key=lambda pair: (pair[1].target, pair[1].source, pair[1].arm, pair[0])):
        cells = [Text(text) for text in (line.target, line.source, line.arm, *([name] if several else []))]
        cells += [number_cell(getattr(line, key)) for key in keys]
        lines.append(Line(tuple(cells)))
    columns = ("target", "source", "arm", *(("run",) if several else ()), "cosine", "centred", "retrieval@1", "R2")
    columns += ("cosine at best", "centred at best") if len(keys) > 4 else ()
    remark = "Geometry is a diagnostic beside behaviour: the target's mean vector alone reaches a high raw cosine."
    return Table("Geometry of the vectors, against native", columns, tuple(lines), (remark,))


def agreement_table(results: Sequence[Results]) -> Table | None:
    """Return how far two judges of one run agree, by aspect."""
    measured = [(result.run.name, line) for result in results for line in result.run.agreement]
    if not measured:
        return None
    names = {judge.id: judge.name for result in results for judge in result.run.judges}
    lines = []
    for run, line in measured:
        first, second = (names.get(judge, judge) for judge in line.judges)
        texts = [Text(text) for text in (run, first, second, line.aspect)]
        numbers = [number_cell(value, 2) for value in (line.kappa, line.spearman)]
        lines.append(Line((*texts, *numbers, Text(str(line.n), float(line.n)))))
    columns = ("run", "judge", "other judge", "aspect", "weighted kappa", "Spearman", "replies")
    remark = (
        "Kappa (quadratic weights) is 1 where two judges give the same ratings and 0 where they agree as by chance."
    )
    return Table("Agreement of judges", columns, tuple(lines), (remark,))


def refused_table(results: Sequence[Results]) -> Table | None:
    """Return the arms that could not be made, with the reason."""
    lines = [
        Line(tuple(map(Text, (refused.target or "-", refused.source or "-", refused.arm, refused.reason))))
        for result in results
        for refused in result.run.refused
    ]
    return Table("Refused", ("target", "source", "arm", "reason"), tuple(lines)) if lines else None
