"""Formats: Markdown, CSV and LaTeX of one board.

    board -> [text]

Everything that came from a run is escaped here: names and judges are written by others.
"""

import csv
import io
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from steer_bench.results.board.board import Board
from steer_bench.results.board.table import Table

TITLE = "Steering-vector transfer leaderboard"
_MARKDOWN = {c: "\\" + c for c in "\\|`[]*"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_LATEX = {c: "\\" + c for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
}


def plain(text: str) -> str:
    r"""Return one line of visible text: white space becomes a space, control and format characters are written out.

    >>> plain("a\nb\x1b[31m")
    'a b\\u001b[31m'
    """
    line = re.sub(r"[\t\n\v\f\r\x85\u2028\u2029]+", " ", text)
    hidden = ("Cc", "Cf", "Cs", "Co", "Cn")
    return "".join(f"\\u{ord(c):04x}" if unicodedata.category(c) in hidden else c for c in line)


def escape_markdown(text: str) -> str:
    r"""Return text that stays text in a cell of a Markdown table.

    >>> escape_markdown("a|b<script>`x`[y](z)")
    'a\\|b&lt;script&gt;\\`x\\`\\[y\\](z)'
    >>> escape_markdown("0.245 [0.200, 0.290] n=12")  # an interval cannot become a link
    '0.245 [0.200, 0.290] n=12'
    """
    escaped = "".join(_MARKDOWN.get(c, c) for c in plain(text))
    return re.sub(r"\\\[((?:-?[\d.]+|unbounded)(?:, (?:-?[\d.]+|unbounded))?|n/a)\\\](?![(\[:])", r"[\1]", escaped)


def escape_latex(text: str) -> str:
    r"""Return text that stays text in LaTeX.

    >>> escape_latex("50 % of a_b")
    '50 \\% of a\\_b'
    """
    escaped = "".join(_LATEX.get(c, c) for c in plain(text)).lstrip()
    return "{}" + escaped if escaped.startswith(("[", "*")) else escaped  # else an option of the \\ before it


def to_markdown(board: Board, figures: Sequence[str] = ()) -> str:
    """Return the board as GitHub Markdown; `figures` are paths relative to the file."""
    parts = [f"# {TITLE}"]
    for name, facts in board.facts:
        mark = " (partial)" if any(label == "partial" for label, _ in facts) else ""
        lines = [f"- {label}: {escape_markdown(text)}" for label, text in facts]
        parts.append("\n".join([f"## Run {escape_markdown(name)}{mark}", "", *lines]))
    for table in board.tables:
        parts += [f"## {escape_markdown(table.title)}", _markdown_table(table)]
        if table.remarks:
            parts.append("\n".join(f"- {escape_markdown(remark)}" for remark in table.remarks))
    if figures:
        parts.append("## Figures")
        parts += [f"![{escape_markdown(Path(figure).stem)}]({figure})" for figure in figures]
    parts.append("## How to read this")
    if board.columns:
        parts.append("\n".join(f"- {escape_markdown(name)}: {escape_markdown(text)}" for name, text in board.columns))
    parts += [escape_markdown(note) for note in board.notes]
    return "\n\n".join(parts) + "\n"


def table_to_text(table: Table) -> str:
    """Return a table for a terminal: Markdown, its remarks below."""
    remarks = "\n".join(f"- {escape_markdown(remark)}" for remark in table.remarks)
    return f"{_markdown_table(table)}\n\n{remarks}" if remarks else _markdown_table(table)


def to_latex(board: Board) -> str:
    """Return the tables of the board in LaTeX, one tabular each."""
    parts = []
    for table in board.tables:
        rows = [
            [
                rf"\textbf{{{escape_latex(cell.text)}}}" if table.is_strong(line, place) else escape_latex(cell.text)
                for place, cell in enumerate(line.cells)
            ]
            for line in table.lines
        ]
        headers = [escape_latex(column) for column in table.columns]
        body = tabulate(rows, headers=headers, tablefmt="latex_raw", disable_numparse=True)
        parts.append(f"% {plain(table.title)}\n{body}")
    return "\n\n".join(parts) + "\n"


def to_csv(board: Board) -> str:
    """Return one line per run, target, source, arm, task and level, with numbers at 6 significant digits; empty where there is none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ["run", "target", "source", "arm", "kind", "task", "level"]
    for number in ("value", "effect", "recovered", "dN"):
        names += [number, f"{number}_low", f"{number}_high", f"{number}_concepts"]
    writer.writerow([*names, "damage", "factor", "scored", "total", "unreached", "verdict", "why", "exploratory"])
    for entry in board.entries:
        for task, by_level in entry.levels.items():
            for level, cell in by_level.items():
                keys = (entry.run, entry.target, entry.source, entry.arm, entry.kind, task)
                numbers = [level, *cell.value, *cell.effect, *cell.recovered, *cell.neutral, cell.damage, cell.factor]
                numbers += [cell.scored, cell.total, len(cell.unreached)]
                words = (
                    (cell.verdict.word, cell.verdict.why, str(cell.verdict.exploratory))
                    if cell.verdict
                    else ("", "", "")
                )
                writer.writerow([*map(_csv_text, keys), *map(_csv_number, numbers), *map(_csv_text, words)])
    return out.getvalue()


def _markdown_table(table: Table) -> str:
    rows = []
    group = None
    for line in table.lines:
        cells = [escape_markdown(cell.text) for cell in line.cells]
        if line.group and line.group == group:
            cells[0] = ""
        group = line.group
        rows.append([f"**{text}**" if table.is_strong(line, place) else text for place, text in enumerate(cells)])
    headers = [escape_markdown(column) for column in table.columns]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def _csv_text(text: str) -> str:
    """Return text that a spreadsheet will not run as a formula."""
    text = plain(text)
    return "'" + text if text.lstrip().startswith(("=", "+", "-", "@")) else text


def _csv_number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
