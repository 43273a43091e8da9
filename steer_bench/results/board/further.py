"""Tables beside the main ones: behind the scores, specificity, geometry, refused arms, agreement of judges.

entries, results -> [tables]
"""

from collections.abc import Sequence

from steer_bench.results.board.entries import ArmEntry
from steer_bench.results.board.table import Line, Table, Text, interval, number_cell
from steer_bench.results.file import Results
from steer_bench.results.measures import SPECIFICITY
from steer_bench.results.stats.specificity import specificity


def behind_scores_table(entries: Sequence[ArmEntry]) -> Table | None:
    """Return specific recovered fraction, anti-steered share and few-shot equivalent of every arm on the headline task."""
    lines = []
    for entry in entries:
        cell = entry.cells.get(entry.headline)
        if cell is None or cell.behind is None:
            continue
        found, wrong = cell.behind, cell.behind.anti_steered
        cells = [Text(name) for name in (entry.target, entry.source or "-", entry.arm)]
        cells.append(Text(f"{interval(found.specific)} n={found.specific.n}", found.specific.value))
        cells.append(Text("n/a" if wrong.share is None else f"{wrong.share:.0%} of {wrong.n}", wrong.share))
        cells += [Text(str(found.few_shot), found.few_shot.n), Text(str(cell.gated_out), cell.gated_out)]
        lines.append(Line(tuple(cells)))
    if not lines:
        return None
    columns = (
        "target",
        "source",
        "arm",
        "specific recovered fraction",
        "anti-steered samples",
        "few-shot n",
        "gated out",
    )
    remarks = (
        "Specific recovered fraction: what the arm has over wrong-concept, over what native has over it (n/a without that arm). "
        "Anti-steered: single samples whose score fell. Few-shot n: texts a side with which a vector of the target's own does as "
        "much. Gated out: concepts that native does not move on the selection prompts, left out of recovered fractions.",
    )
    return Table("Behind the scores", columns, tuple(lines), remarks)


def specificity_table(results: Sequence[Results]) -> Table | None:
    """Return one line per arm: its vectors on the texts of their own concept, and of the others."""
    lines = []
    for result in results:
        for target in result.rows.where(task=SPECIFICITY).texts["target"].present():
            for arm, matrix in sorted(specificity(result.rows, target, result.run.pooled).items()):
                own, others = (float(values.mean()) for values in (matrix.own, matrix.others))
                difference = Text(f"{interval(matrix.difference)} n={matrix.difference.n}", matrix.difference.value)
                numbers = (number_cell(own), number_cell(others), difference, number_cell(matrix.top1, 2))
                lines.append(Line((Text(target), Text(arm.source or "-"), Text(arm.name), *numbers)))
    if not lines:
        return None
    columns = ("target", "source", "arm", "own concept", "other concepts", "difference", "own concept first")
    remark = (
        "Change of log-likelihood, nats a token, of held-out texts under every concept's vector, all at one factor. A vector that "
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
