"""Tables of what a run states of itself: geometry of its vectors, arms that were refused, agreement of its judges.

provenance of every run -> [tables]
"""

from collections.abc import Sequence

from steer_bench.results.board.table import Line, Table, Text, number
from steer_bench.results.file import Results


def geometry_table(results: Sequence[Results]) -> Table | None:
    """Closeness of transferred to native vectors: a diagnostic, never a ranking."""
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
        cells += [Text(number(value), value) for value in (getattr(line, key) for key in keys)]
        lines.append(Line(tuple(cells)))
    columns = ("target", "source", "arm", *(("run",) if several else ()), "cosine", "centred", "retrieval@1", "R2")
    columns += ("cosine at best", "centred at best") if len(keys) > 4 else ()
    remark = "Geometry is a diagnostic beside behaviour: the target's mean vector alone reaches a high raw cosine."
    return Table("Geometry of the vectors, against native", columns, tuple(lines), (remark,))


def agreement_table(results: Sequence[Results]) -> Table | None:
    """How far two judges of one run agree, by aspect."""
    measured = [(result.run.name, line) for result in results for line in result.run.agreement]
    if not measured:
        return None
    names = {judge.id: judge.name for result in results for judge in result.run.judges}
    lines = []
    for run, line in measured:
        first, second = (names.get(judge, judge) for judge in line.judges)
        texts = [Text(text) for text in (run, first, second, line.aspect)]
        numbers = [Text(number(value, 2), value) for value in (line.kappa, line.spearman)]
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
