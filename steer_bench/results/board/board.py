"""The board: facts and tables of one or many runs, before any format.

    entries of every run -> [facts, tables, notes] -> Markdown, LaTeX, HTML

A further table is one function `results or entries -> Table | None`, called in `build_board`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from steer_bench.results.board import further
from steer_bench.results.board.arms import arm_tables, recovered_text
from steer_bench.results.board.costs import costs_table
from steer_bench.results.board.entries import ArmEntry, entries
from steer_bench.results.board.header import COLUMNS, Facts, facts_of, notes_of
from steer_bench.results.board.merging import check_same_protocol
from steer_bench.results.board.table import Line, Table, Text
from steer_bench.results.file import Results
from steer_bench.results.measures import measure_of


@dataclass(frozen=True)
class Board:
    """All that a leaderboard shows."""

    facts: tuple[tuple[str, Facts], ...]
    """A run's name and its (label, text) facts."""
    tables: tuple[Table, ...]
    columns: tuple[tuple[str, str], ...]
    """Short headings, and what they mean."""
    notes: tuple[str, ...]
    """How to read it, a paragraph each."""
    entries: tuple[ArmEntry, ...] = field(default=(), repr=False)


def build_board(results: Iterable[Results]) -> Board:
    """Return entries, tables and facts of all runs. Raises ValueError when they cannot stand in one table."""
    results = list(results)
    if not results:
        raise ValueError("no results; give at least one results file")
    names = [result.run.name for result in results]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(f"two results of the run {sorted(repeated)[0]!r}; give each run once")
    check_same_protocol(results)
    found = [entry for result in results for entry in entries(result)]
    tables = arm_tables(found, several=len(results) > 1)
    used = {column for table in tables for column in table.columns}
    beside = (
        _matrix(found),
        costs_table(results),
        further.behind_scores_table(found),
        further.specificity_table(results),
        further.refused_table(results),
        further.geometry_table(results),
        further.agreement_table(results),
    )
    return Board(
        facts=tuple((name, facts_of(result)) for name, result in zip(names, results, strict=True)),
        tables=(*tables, *(table for table in beside if table is not None)),
        columns=tuple((column, meaning) for column, meaning in COLUMNS.items() if column in used),
        notes=notes_of(results),
        entries=tuple(found),
    )


def _matrix(found: Sequence[ArmEntry]) -> Table | None:
    """Return the recovered fraction of every transfer arm, every source by every target."""
    claims = [entry for entry in found if entry.kind == "transfer" and entry.source and entry.headline]
    if not claims:
        return None
    sources, targets = sorted({entry.source for entry in claims}), sorted({entry.target for entry in claims})
    lines = []
    for arm in sorted({entry.arm for entry in claims}):
        for source in sources:
            cells = []
            for target in targets:
                mine = [e for e in claims if (e.arm, e.source, e.target) == (arm, source, target)]
                texts = [recovered_text(entry, entry.headline) for entry in mine]
                empty = Text("native") if source == target else Text("-")
                cells.append(Text("; ".join(text.text for text in texts), texts[0].sort) if texts else empty)
            lines.append(Line((Text(arm), Text(source), *cells), group=arm))
    tasks = " or ".join(sorted({measure_of(entry.headline).title for entry in claims}))
    title = f"Recovered fraction, source (rows) by target (columns): {tasks}"
    unmeasured = any(cell.text == "-" for line in lines for cell in line.cells)
    remarks = ("-: this pair was not measured.",) if unmeasured else ()
    return Table(title, ("arm", "source", *targets), tuple(lines), remarks)
