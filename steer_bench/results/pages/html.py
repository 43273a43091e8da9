"""The page: one HTML file of a board, its figures and samples, that needs nothing else.

    board, figures, samples -> [HTML]

What was written by others is escaped by the template, or stands in one JSON block that the script shows as text. A
content-security policy with the hashes of our own style and script lets nothing else run.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from steer_bench.results.board.board import Board
from steer_bench.results.board.entries import ArmEntry
from steer_bench.results.board.table import Table
from steer_bench.results.pages.text import TITLE, plain
from steer_bench.results.samples import Samples, to_document

TEMPLATES = Path(__file__).resolve().parent / "templates"


def to_html(board: Board, figures: Mapping[str, bytes] | None = None, samples: Sequence[Samples] = ()) -> str:
    """Return the board as one page; `figures`: caption to SVG."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["plain"] = plain
    pictures = {caption: base64.b64encode(svg).decode() for caption, svg in (figures or {}).items()}
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("leaderboard.css", "leaderboard.js"))
    text = environment.get_template("leaderboard.html.j2").render(
        title=TITLE,
        board=board,
        meanings=dict(board.columns),
        figures=pictures,
        number_columns=_number_columns,
        # not escaped: they are ours, and the policy holds their hashes
        style=_verbatim(style),
        script=_verbatim(script),
        style_hash=_source_hash(style),
        script_hash=_source_hash(script),
        data=_verbatim(_data(board.entries, samples)),
        n_samples=sum(len(one.samples) for one in samples),
        thinned=[one for one in samples if one.rule],
    )
    # control characters that a model or a name brought: written out, in the data block as JSON does
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _data(entries: Sequence[ArmEntry], samples: Sequence[Samples]) -> str:
    """Return the data block: JSON that cannot end its script element nor open a comment in it."""
    keys = ("run", "target", "source", "arm", "kind")
    lines = [{key: getattr(entry, key) for key in keys} for entry in entries]
    document = {"entries": lines, "runs": [to_document(one) for one in samples]}
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _number_columns(table: Table) -> list[bool]:
    """Return which columns hold numbers, by the cells' sort values."""
    return [any(line.cells[i].sort is not None for line in table.lines) for i in range(len(table.columns))]


def _verbatim(text: str) -> Markup:
    return Markup(text)  # noqa: S704


def _source_hash(source: str) -> str:
    """Return the content-security-policy source of an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
