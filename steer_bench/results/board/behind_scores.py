"""The table behind the scores: specific recovered fraction, anti-steered share, few-shot equivalent.

entries -> [table]
"""

from collections.abc import Sequence

from steer_bench.results.board.entries import ArmEntry
from steer_bench.results.board.table import Line, Table, Text, interval


def behind_scores_table(entries: Sequence[ArmEntry]) -> Table | None:
    """Specific recovered fraction, anti-steered share and few-shot equivalent of every arm on the headline task."""
    lines = []
    for entry in entries:
        cell = entry.cells.get(entry.headline)
        if cell is None or cell.behind is None:
            continue
        found = cell.behind
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
