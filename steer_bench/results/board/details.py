"""Tables beside the board: what stands behind a score, what each vector does to other concepts, and what was refused.

entries, results -> [tables]
"""

from collections.abc import Sequence

from steer_bench.results.board.entries import Entry
from steer_bench.results.board.table import Line, Table, Text, interval, number
from steer_bench.results.file import Results
from steer_bench.results.measures import SPECIFICITY
from steer_bench.results.stats.details import specificity


def details_table(entries: Sequence[Entry]) -> Table | None:
    """Specific recovered fraction, anti-steered share and few-shot equivalent of every arm on the headline task."""
    lines = []
    for entry in entries:
        cell = entry.cells.get(entry.headline)
        if cell is None or cell.details is None:
            continue
        found = cell.details
        wrong = found.anti_steered
        lines.append(
            Line(
                (
                    *(Text(name) for name in (entry.target, entry.source or "-", entry.arm)),
                    Text(f"{interval(found.specific, 2)} n={found.specific.n}", found.specific.value),
                    Text("n/a" if wrong.share is None else f"{wrong.share:.0%} of {wrong.n}", wrong.share),
                    Text(str(found.few_shot), found.few_shot.n),
                    Text(str(cell.gated_out), cell.gated_out),
                )
            )
        )
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
    """One line an arm: its vectors on the texts of their own concept, and of the others."""
    lines = []
    for result in results:
        for target in result.rows.where(task=SPECIFICITY).texts["target"].present():
            for arm, matrix in sorted(specificity(result.rows, target, result.run.pooled).items()):
                own, others = (float(values.mean()) for values in (matrix.own, matrix.others))
                names = (target, arm.source or "-", arm.name)
                cells = [Text(number(own), own), Text(number(others), others)]
                cells.append(Text(f"{interval(matrix.difference)} n={matrix.difference.n}", matrix.difference.value))
                cells.append(Text(number(matrix.top1, 2), matrix.top1))
                lines.append(Line((*map(Text, names), *cells)))
    if not lines:
        return None
    columns = ("target", "source", "arm", "own concept", "other concepts", "difference", "own concept first")
    remark = (
        "Change of log-likelihood, nats a token, of held-out texts under every concept's vector, all at one factor. A vector that "
        "is about its concept raises that concept's texts more than the others'."
    )
    return Table("Specificity: every vector on every concept's texts", columns, tuple(lines), (remark,))


def refused_table(results: Sequence[Results]) -> Table | None:
    """Adapters that could not be had for a pair, with the reason."""
    lines = [
        Line(tuple(map(Text, (refused.target or "-", refused.source or "-", refused.arm, refused.reason))))
        for result in results
        for refused in result.run.refused
    ]
    return Table("Refused", ("target", "source", "arm", "reason"), tuple(lines)) if lines else None
