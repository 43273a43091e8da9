"""The board: facts and tables of one or many runs, before any format.

    entries of every run -> [facts, tables, notes] -> Markdown, LaTeX, HTML

Numbers become text here and nowhere else.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from steer_bench.leaderboard.entries import KINDS, RULES, STEERING, Cell, Entry, entries
from steer_bench.results import Results
from steer_bench.stats import DAMAGE_LIMIT, LIKELIHOOD, UNSTEERED, Estimate

CLAIMS = ("transfers", "equivalent to native")
UNSCORED_GAP = 0.05
"""Arms whose unscored shares differ by more than this are not comparable without a word."""
SHORT = {LIKELIHOOD: "likelihood", STEERING: "steering", RULES: "rules"}
COLUMN = {LIKELIHOOD: "concept_likelihood (lift at matched damage, nats/token)"}
MISSING = "n/a"


class Text(NamedTuple):
    """A cell: what is shown, and what it is sorted by."""

    text: str
    sort: float | None = None


@dataclass(frozen=True)
class Line:
    """A row of a table."""

    cells: tuple[Text, ...]
    strong: bool = False
    """Whether it is the best transfer arm."""
    group: str = ""

    @property
    def strong_cell(self) -> Text | None:
        """The name of the best transfer arm, to be written in bold."""
        return self.cells[1] if self.strong else None


@dataclass(frozen=True)
class Table:
    """A table with its title and remarks."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Board:
    """All that a leaderboard shows."""

    facts: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    """A run's name and its (label, text) facts."""
    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    """How to read it, a paragraph each."""
    entries: tuple[Entry, ...] = field(default=(), repr=False)


def number(value: float | None, digits: int = 3) -> str:
    """A number as every table shows it.

    >>> number(0.2449), number(-0.0001), number(12.345), number(1234.5), number(None)
    ('0.245', '0.000', '12.3', '1234', 'n/a')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    decimals = digits if abs(value) < 10 else 1 if abs(value) < 100 else 0
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text


def interval(estimate: Estimate, digits: int = 3) -> str:
    """A number with its interval.

    >>> interval(Estimate(0.245, 0.2, 0.29, 12)), interval(Estimate(0.5, None, None, 1))
    ('0.245 [0.200, 0.290]', '0.500 [n/a]')
    """
    if estimate.value is None:
        return MISSING
    if estimate.low is None:
        return f"{number(estimate.value, digits)} [{MISSING}]"
    return f"{number(estimate.value, digits)} [{number(estimate.low, digits)}, {number(estimate.high, digits)}]"


def check_same_protocol(results: Sequence[Results]) -> None:
    """Refuse runs that measured one target in different ways, naming the key that differs."""
    first: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for result in results:
        for target in sorted({row.target for row in result.rows}):
            name, mine = str(result.run.get("name", "")), _protocol(result, target)
            other, theirs = first.setdefault(target, (name, mine))
            for key in mine:
                if mine[key] is not None and theirs[key] is not None and mine[key] != theirs[key]:
                    raise ValueError(
                        f"runs {other!r} and {name!r} measured target {target!r} with different {key}: "
                        f"{_shorten(theirs[key])} and {_shorten(mine[key])}; put them on boards of their own"
                    )


def build_board(results: Iterable[Results]) -> Board:
    """Entries, tables and facts of all runs. Raises ValueError when they can not stand in one table."""
    results = list(results)
    if not results:
        raise ValueError("no results; give at least one results file")
    names = [str(result.run.get("name", "")) for result in results]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(f"two results of the run {sorted(repeated)[0]!r}; give each run once")
    check_same_protocol(results)
    found = [entry for result in results for entry in entries(result)]
    tables = _arm_tables(found, several=len(results) > 1)
    matrix = _matrix(found)
    geometry, agreement = _geometry(results), _agreement(results)
    facts = tuple((name, _facts(result)) for name, result in zip(names, results, strict=True))
    from steer_bench.leaderboard.details import details_table, refused_table, specificity_table

    more = (details_table(found), specificity_table(results), refused_table(results))
    tables += [table for table in (matrix, *more, geometry, agreement) if table is not None]
    return Board(facts, tuple(tables), _notes(results), tuple(found))


def _arm_tables(found: Sequence[Entry], *, several: bool) -> list[Table]:
    tables = []
    for run, target in sorted({(entry.run, entry.target) for entry in found}, key=lambda pair: (pair[1], pair[0])):
        here = [entry for entry in found if (entry.run, entry.target) == (run, target)]
        for source in sorted({entry.source for entry in here} - {""}) or [""]:
            title = f"{source} to {target}" if source else f"{target}, no transfer"
            title += f" (run {run})" if several else ""
            tables.append(_arm_table(title, [entry for entry in here if entry.source in ("", source)]))
    return tables


def _arm_table(title: str, lines: Sequence[Entry]) -> Table:
    tasks = _tasks(lines)
    recovered = [task for task in (LIKELIHOOD, STEERING) if task in tasks] or [t for t in (RULES,) if t in tasks]
    chosen = next((task for task in (STEERING, RULES) if task in tasks), None)
    costs = ([(LIKELIHOOD, "matched")] if LIKELIHOOD in tasks else []) + ([(chosen, "selected")] if chosen else [])
    headline = lines[0].headline
    columns = ["group", "arm", *([f"verdict ({SHORT[headline]})"] if headline else [])]
    columns += [COLUMN.get(task, task) for task in tasks]
    columns += [f"recovered fraction ({SHORT[task]})" for task in recovered]
    columns += [f"perplexity ratio at {word} factor" for _, word in costs]
    best = _best(lines, headline)
    rows = []
    for entry in sorted(lines, key=lambda e: (KINDS.index(e.kind), e.arm)):
        cells = [Text(entry.kind), Text(entry.arm), *([Text(entry.verdict or "-")] if headline else [])]
        cells += [_score(entry.cells.get(task)) for task in tasks]
        cells += [_recovered(entry, task) for task in recovered]
        cells += [_cost(entry, task) for task, _ in costs]
        rows.append(Line(tuple(cells), strong=entry is best, group=entry.kind))
    return Table(title, tuple(columns), tuple(rows), tuple(_remarks(lines, tasks)))


def _tasks(lines: Sequence[Entry]) -> list[str]:
    present = {task for entry in lines for task in entry.cells}
    first = [task for task in (STEERING, LIKELIHOOD, RULES) if task in present]
    return first + sorted(present - set(first))


def _best(lines: Sequence[Entry], headline: str) -> Entry | None:
    """The transfer arm with the largest effect on the headline task, of those that may claim to transfer."""
    claims = [entry for entry in lines if entry.kind == "transfer" and entry.verdict in CLAIMS]
    return max(claims, key=lambda entry: (entry.cells[headline].score.value or 0.0, entry.arm), default=None)


def _score(cell: Cell | None) -> Text:
    if cell is None:
        return Text("-")
    unscored = f", {cell.unscored} of {cell.total} unscored" if cell.unscored else ""
    return Text(f"{interval(cell.score)} n={cell.score.n}{unscored}", cell.score.value)


def _recovered(entry: Entry, task: str) -> Text:
    cell = entry.cells.get(task)
    if cell is None or entry.arm == UNSTEERED:
        return Text("-")
    if entry.arm == "native":
        return Text("1 by definition" if cell.recovered.value is not None else MISSING, cell.recovered.value)
    return Text(interval(cell.recovered, 2), cell.recovered.value)


def _cost(entry: Entry, task: str) -> Text:
    cell = entry.cells.get(task)
    if cell is None or entry.arm == UNSTEERED:
        return Text("-")
    return Text(f"{number(cell.ratio, 2)} at {number(cell.factor, 2)}", cell.ratio)


def _remarks(lines: Sequence[Entry], tasks: Sequence[str]) -> list[str]:
    remarks = []
    for entry in lines:
        cell = entry.cells.get(entry.headline)
        if cell is not None and cell.verdict is not None:
            remarks.append(f"{entry.arm}: {cell.verdict.word}; {cell.verdict.why}.")
        if cell is not None and entry.kind == "transfer" and cell.recovered.low is not None and cell.recovered.low > 1:
            remarks.append(f"{entry.arm} recovers more than all of native's effect: native may be tuned too little.")
    for task in tasks:
        shares = {e.arm: e.cells[task].unscored / e.cells[task].total for e in lines if _total(e, task)}
        if shares and max(shares.values()) - min(shares.values()) > UNSCORED_GAP:
            worst = max(sorted(shares), key=lambda arm: shares[arm])
            remarks.append(f"{task}: {shares[worst]:.0%} of {worst} is unscored, unlike other arms; compare with care.")
    return remarks


def _total(entry: Entry, task: str) -> int:
    return entry.cells[task].total if task in entry.cells else 0


def _matrix(found: Sequence[Entry]) -> Table | None:
    """Recovered fraction of every transfer arm, source by target."""
    claims = [entry for entry in found if entry.kind == "transfer" and entry.source and entry.headline]
    if not claims:
        return None
    targets = sorted({entry.target for entry in claims})
    lines = []
    for arm, source in sorted({(entry.arm, entry.source) for entry in claims}):
        cells = []
        for target in targets:
            mine = [e for e in claims if (e.arm, e.source, e.target) == (arm, source, target)]
            texts = [_recovered(entry, entry.headline) for entry in mine]
            cells.append(Text("; ".join(text.text for text in texts), texts[0].sort) if texts else Text("-"))
        lines.append(Line((Text(arm), Text(source), *cells)))
    tasks = " or ".join(sorted({SHORT[entry.headline] for entry in claims}))
    return Table(f"Recovered fraction, source by target ({tasks})", ("arm", "source", *targets), tuple(lines))


def _geometry(results: Sequence[Results]) -> Table | None:
    """Closeness of transferred to native vectors: a diagnostic, never a ranking."""
    measured = [(str(r.run.get("name", "")), line) for r in results for line in r.run.get("geometry") or []]
    if not measured:
        return None
    keys = ["cosine", "centred_cosine", "retrieval", "r2"]
    if any(line.get("centred_ceiling") is not None for _, line in measured):
        keys += ["ceiling", "centred_ceiling"]
    several = len({name for name, _ in measured}) > 1
    lines = []
    for name, line in sorted(
        measured, key=lambda p: [str(p[1].get(k, "")) for k in ("target", "source", "arm")] + [p[0]]
    ):
        cells = [Text(str(line.get(key, ""))) for key in ("target", "source", "arm")] + (
            [Text(name)] if several else []
        )
        cells += [Text(number(line.get(key), 3), line.get(key)) for key in keys]
        lines.append(Line(tuple(cells)))
    columns = (
        "target",
        "source",
        "arm",
        *(("run",) if several else ()),
        "cosine",
        "centred cosine",
        "retrieval@1",
        "R2",
        *(("cosine at best", "centred at best") if len(keys) > 4 else ()),
    )
    remark = "Geometry is a diagnostic beside behaviour: the target's mean vector alone reaches a high raw cosine."
    return Table("Geometry of the vectors, against native", columns, tuple(lines), (remark,))


def _agreement(results: Sequence[Results]) -> Table | None:
    """How far two judges of one run agree, by aspect."""
    measured = [(str(r.run.get("name", "")), line) for r in results for line in r.run.get("agreement") or []]
    if not measured:
        return None
    names = {str(one["id"]): str(one["name"]) for r in results for one in r.run.get("judges") or []}
    lines = []
    for run, line in measured:
        first, second = (names.get(judge, judge) for judge in line["judges"])
        texts = [Text(text) for text in (run, first, second, str(line["aspect"]))]
        numbers = [Text(number(line[key], 2), line[key]) for key in ("kappa", "spearman")]
        lines.append(Line((*texts, *numbers, Text(str(line["n"]), float(line["n"])))))
    columns = ("run", "judge", "other judge", "aspect", "weighted kappa", "Spearman", "replies")
    remark = (
        "Kappa (quadratic weights) is 1 where two judges give the same ratings and 0 where they agree as by chance."
    )
    return Table("Agreement of judges", columns, tuple(lines), (remark,))


def _facts(result: Results) -> tuple[tuple[str, str], ...]:
    run = result.run
    facts = [("created", str(run["created"]))] if run.get("created") else []
    if not run.get("complete", False):
        expected = run.get("expected_rows")
        facts.append(("partial", f"{len(result.rows)} of {expected or 'an unknown number of'} rows"))
    for name, model in sorted((run.get("models") or {}).items()):
        parts = [f"{key} {model[key]}" for key in ("revision", "layer", "d_model", "dtype", "scale") if key in model]
        facts.append(("model", f"{name}: {', '.join(parts)}"))
    judge = run.get("judge") or {}
    check = f"; check: {_inline(judge['check'])}" if judge.get("check") else ""
    facts.append(("judge", f"{judge.get('name') or 'none'}{check}"))
    splits = run.get("splits") or {}
    facts.append(("concepts", ", ".join(f"{split} {_size(splits[split])}" for split in splits) or "no splits recorded"))
    facts.append(("factors", _inline(run.get("factors") or "none recorded")))
    facts.append(("seeds", _inline(run.get("seeds") or "none recorded")))
    facts.append(("versions", _inline(run.get("versions") or "none recorded")))
    return tuple(facts)


def _size(split: object) -> str:
    return str(len(split)) if isinstance(split, list | tuple) else _inline(split)


def _inline(value: object) -> str:
    """A provenance value in one line.

    >>> _inline({"torch": "2.13.0", "factors": [0.1, 0.2]})
    'torch 2.13.0, factors 0.1 0.2'
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_inline(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(_inline, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _notes(results: Sequence[Results]) -> tuple[str, ...]:
    limits = sorted({float(result.run.get("damage_limit", DAMAGE_LIMIT)) for result in results})
    limit = " or ".join(f"{value:g}" for value in limits)
    notes = [
        "Numbers are means over test concepts with a 95 % interval (paired bootstrap over concepts, then items); n counts "
        "concepts. n/a: it can not be had (fewer than 2 concepts, no variance, or native itself does not steer). "
        "Unscored values are counted and left out, never taken as 0.",
        "Matched damage: at one factor arms do very different damage, so concept_likelihood compares them at the largest "
        f"factor at which the perplexity of neutral text is at most {limit} times the unsteered one, interpolated on the "
        "grid. A ratio below that limit means that the grid ended first. Lift: change of log-likelihood on texts of "
        "the concept minus the change on neutral texts. Other tasks use the factor that was best on selection prompts "
        "and are scored on other prompts.",
        "Recovered fraction: the arm's effect over native's, sums over concepts, not clipped. Transfers: native steers, the "
        "arm steers, and it beats every control of the table (p from sign flips, Holm over arms). Equivalent to native: "
        "also within the margin of native. The best arm that transfers is in bold; where none does, none is.",
    ]
    proxies = sorted({n for n in (str((r.run.get("judge") or {}).get("name", "")) for r in results) if "proxy" in n})
    if proxies:
        notes.append(f"Ratings come from {', '.join(proxies)} for a language-model judge: read them as such.")
    partial = [str(result.run.get("name", "")) for result in results if not result.run.get("complete", False)]
    if partial:
        notes.append(f"Partial: {', '.join(partial)} did not finish; its numbers may change.")
    return tuple(notes)


def _protocol(result: Results, target: str) -> dict[str, Any]:
    """What must be equal for two runs to stand in one table; None where it is not known."""
    run = result.run
    judge = {key: value for key, value in (run.get("judge") or {}).items() if key != "check"}
    protocol: dict[str, Any] = {"judge": judge or None, **{key: run.get(key) for key in ("factors", "splits")}}
    for key in ("revision", "layer", "dtype", "scale"):
        protocol[f"{key} of the target"] = (run.get("models") or {}).get(target, {}).get(key)
    tested = sorted({row.concept for row in result.rows if row.target == target} - {""})
    protocol["test concepts"] = tested if run.get("complete", False) else None
    protocol["damage_limit"] = float(run.get("damage_limit", DAMAGE_LIMIT))
    return protocol


def _shorten(value: object, width: int = 80) -> str:
    text = _inline(value)
    return text if len(text) <= width else text[: width - 3] + "..."
