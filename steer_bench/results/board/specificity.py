"""The table of specificity: what each vector does to the texts of its own concept, and to those of others.

results -> [table]
"""

from collections.abc import Sequence

from steer_bench.results.board.table import Line, Table, Text, interval, number
from steer_bench.results.file import Results
from steer_bench.results.measures import SPECIFICITY
from steer_bench.results.stats.specificity import specificity


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
