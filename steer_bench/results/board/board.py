"""The board: facts and tables of one or many runs, before any format.

    entries of every run -> [facts, tables, notes] -> Markdown, LaTeX, HTML

A further table is one function `results or entries -> Table | None`, called in `build_board`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from steer_bench.results.board import further
from steer_bench.results.board.arms import arm_tables, overview
from steer_bench.results.board.costs import costs_table
from steer_bench.results.board.entries import ArmEntry, entries
from steer_bench.results.board.header import COLUMNS, Facts, facts_of, notes_of
from steer_bench.results.board.merging import check_same_protocol
from steer_bench.results.board.table import Table
from steer_bench.results.file import Results


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
    by_run = {result.run.name: entries(result) for result in results}
    found = [entry for mine in by_run.values() for entry in mine]
    facts = tuple((result.run.name, facts_of(result, by_run[result.run.name])) for result in results)
    partial = [name for name, told in facts if any(label == "partial" for label, _ in told)]
    tables = arm_tables(found, {result.run.name: result.run for result in results})
    used = {column for table in tables for column in table.columns}
    alone = len(results) == 1
    beside = (
        further.pooled_table(found),
        *further.levels_tables(found),
        *(further.concept_tables(found) if alone else ()),
        costs_table(results),
        further.specificity_table(results),
        further.refused_table(results),
        further.geometry_table(results),
        further.agreement_table(results),
    )
    return Board(
        facts=facts,
        tables=tuple(table for table in (overview(found), *tables, *beside) if table is not None),
        columns=tuple((column, meaning) for column, meaning in COLUMNS.items() if column in used),
        notes=notes_of(results, partial),
        entries=tuple(found),
    )
