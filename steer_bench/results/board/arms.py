"""The main tables: every verdict at a glance, then one table per target and task, with a row per arm.

entries -> [overview, arm tables]
"""

import re
from collections.abc import Callable, Mapping, Sequence

from steer_bench.results.board.entries import ArmEntry, ArmResult, best
from steer_bench.results.board.table import MISSING, Line, Table, Text, interval_cell, number, number_cell
from steer_bench.results.measures import LIKELIHOOD, SUPPRESSION, in_order, measure_of
from steer_bench.results.provenance import KINDS, Provenance
from steer_bench.vectors.arms import UNSTEERED

NATIVE = "native"
DEAD = "native itself does not steer"
SHORT = {"equivalent to native": "equivalent", DEAD: "native does not steer"}
"""Verdicts whose words are too long for a cell."""
OFF = 0.1
"""An arm whose measured damage lies farther than this from the level, as a share of it, is marked."""
UNSCORED_GAP = 0.05
"""Arms whose unscored shares differ by more than this are not comparable without a word."""
NOT_OBEYED = 0.9
"""Share of unsteered replies that break a rule they were asked to obey, from which suppressing it shows nothing."""
NOTHING = Text("-")

Runs = Mapping[str, Provenance]
"""Provenance by the name of the run."""


def natural(name: str) -> list[str | int]:
    """Return a sort key that puts few-shot-2 before few-shot-16.

    >>> sorted(["few-shot-16", "few-shot-2", "few"], key=natural)
    ['few', 'few-shot-2', 'few-shot-16']
    """
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", name)]


def in_rows(entries: Sequence[ArmEntry]) -> list[ArmEntry]:
    """Return entries in the order of a table's rows."""
    return sorted(entries, key=lambda entry: (KINDS.index(entry.kind), natural(entry.arm), entry.source))


def by_target(entries: Sequence[ArmEntry]) -> list[tuple[str, list[ArmEntry]]]:
    """Return the title and entries of each target (and run, where there are several), sorted by target."""
    several = len({entry.run for entry in entries}) > 1
    found = []
    for target, run in sorted({(entry.target, entry.run) for entry in entries}):
        here = [entry for entry in entries if (entry.run, entry.target) == (run, target)]
        sources = sorted({entry.source for entry in here} - {""})
        title = f"To {target}" if sources else f"{target}, no transfer"
        title = f"{sources[0]} to {target}" if len(sources) == 1 else title
        found.append((title + (f" (run {run})" if several else ""), here))
    return found


def name_of(entry: ArmEntry, among: Sequence[ArmEntry]) -> str:
    """Return the arm's name, with its source where there are several."""
    several = len({other.source for other in among} - {""}) > 1
    return f"{entry.arm} from {entry.source}" if several and entry.source else entry.arm


def effect_cell(cell: ArmResult) -> Text:
    """Return an effect over wrong-concept with its interval."""
    return NOTHING if cell.effect.value is None else interval_cell(cell.effect)


def recovered_cell(cell: ArmResult, arm: str) -> Text:
    """Return a recovered fraction; native's is 1 by definition, and none has one where native does not steer."""
    if cell.recovered.value is None or (cell.verdict is not None and cell.verdict.word == DEAD):
        return NOTHING
    return Text("1", 1.0) if arm == NATIVE else interval_cell(cell.recovered)


def verdict_cell(cell: ArmResult, arm: str) -> Text:
    """Return an arm's verdict on a task in a few words; "-" for an arm that claims nothing."""
    if cell.verdict is None:
        return Text("steers") if arm == NATIVE and cell.effect.value is not None else NOTHING
    if _is_unreached(cell):
        return Text("not reached")
    word = SHORT.get(cell.verdict.word, cell.verdict.word)
    return Text(word + (" (exploratory)" if cell.verdict.exploratory else ""))


def overview(entries: Sequence[ArmEntry]) -> Table | None:
    """Return the verdict and recovered fraction of every transfer arm on every task."""
    claims = [entry for entry in entries if entry.kind == "transfer"]
    tasks = in_order(task for entry in claims for task, cell in entry.cells.items() if cell.verdict is not None)
    if not tasks:
        return None
    several = len({entry.run for entry in entries}) > 1

    def words(entry: ArmEntry, task: str) -> Text:
        cell = entry.cells.get(task)
        if cell is None or cell.verdict is None:
            return NOTHING
        recovered, said = recovered_cell(cell, entry.arm), verdict_cell(cell, entry.arm).text
        return Text(said if recovered == NOTHING else f"{said}; {recovered.text}", cell.recovered.value)

    lines = []
    for entry in sorted(claims, key=lambda e: (e.target, e.run, e.source, natural(e.arm))):
        keys = [entry.target, entry.source or "-", *([entry.run] if several else []), entry.arm]
        lines.append(Line((*map(Text, keys), *(words(entry, task) for task in tasks)), group=entry.target))
    columns = ("target", "source", *(("run",) if several else ()), "arm", *(measure_of(task).title for task in tasks))
    remark = (
        "Each cell: the verdict on that task; then the recovered fraction of native's effect, with its 95 % interval."
    )
    return Table("Verdicts", columns, tuple(lines), (remark,))


def arm_tables(entries: Sequence[ArmEntry], runs: Runs) -> list[Table]:
    """Return one table per target and task: what each arm does, over wrong-concept, and of native's effect."""
    places = {id(entry): place for place, entry in enumerate(entries)}
    tables = []
    for title, here in by_target(entries):
        for task in in_order(task for entry in here for task in entry.cells):
            lines = [entry for entry in in_rows(here) if task in entry.cells]
            if task == LIKELIHOOD:  # what unsteered changes is 0 by definition
                lines = [entry for entry in lines if entry.arm != UNSTEERED]
            if lines:
                tables.append(_arm_table(f"{title}: {measure_of(task).title}", task, lines, runs[lines[0].run], places))
    return tables


def _arm_table(title: str, task: str, lines: Sequence[ArmEntry], run: Provenance, places: Mapping[int, int]) -> Table:
    level = max(entry.cells[task].level for entry in lines)
    cells = [entry.cells[task] for entry in lines]
    measure = measure_of(task)
    columns: dict[str, Callable[[ArmResult, str], Text]] = {
        measure.value: lambda cell, _: Text("not reached") if _is_unreached(cell) else interval_cell(cell.value),
        "effect": lambda cell, _: effect_cell(cell),
        "recovered": recovered_cell,
        "verdict": verdict_cell,
        "damage": _damage,
        "dN": lambda cell, _: NOTHING if cell.neutral.value is None else number_cell(cell.neutral.value, 2),
        "wrong way": _wrong_way,
        "few-shot n": lambda cell, _: Text(str(cell.few_shot), cell.few_shot.n) if cell.few_shot else NOTHING,
        "n": _counts,
        "unscored": _unscored,
    }
    shown = {name: [column(entry.cells[task], entry.arm) for entry in lines] for name, column in columns.items()}
    shown = {name: found for name, found in shown.items() if any(cell.text not in ("-", MISSING) for cell in found)}
    if any(cell.verdict is not None and cell.verdict.word == DEAD for cell in cells):
        shown.pop("recovered", None)
    if all(cell.verdict is None for cell in cells):
        shown.pop("verdict", None)
    names = {"group": [Text(entry.kind) for entry in lines], "arm": [Text(entry.arm) for entry in lines]}
    if len({entry.source for entry in lines} - {""}) > 1:
        names["source"] = [Text(entry.source or "-") for entry in lines]
    leader, ahead = best(lines, task)
    rows = tuple(
        Line(line, strong=ahead and entry is leader, group=entry.kind, entry=places[id(entry)])
        for entry, line in zip(lines, zip(*(names | shown).values(), strict=True), strict=True)
    )
    remarks = [f"{measure.value}: {measure.meaning}."] if measure.meaning else []
    if leader is not None and not ahead:
        remarks.append(
            f"No arm is in bold: {name_of(leader, lines)} has the largest effect, but the interval of its difference to the "
            "next arm holds 0."
        )
    remarks += _remarks(task, lines, cells, run)
    where = (
        f" at damage {level:g}" if level else " at the factor chosen on selection prompts" if measure.replies else ""
    )
    return Table(title + where, tuple(names | shown), rows, tuple(remarks))


def _is_unreached(cell: ArmResult) -> bool:
    return bool(cell.unreached) and cell.value.value is None


def _damage(cell: ArmResult, _: str) -> Text:
    """Return the damage really done, marked where it is far from the level, and the factor."""
    if cell.damage is None or not cell.factor:
        return NOTHING
    off = cell.damage / cell.level - 1 if cell.level else 0.0
    mark = f", {'above' if off > 0 else 'below'} by {abs(off):.0%}" if abs(off) > OFF else ""
    return Text(f"{number(cell.damage, 2)}{mark} at {number(cell.factor, 2)}", cell.damage)


def _wrong_way(cell: ArmResult, _: str) -> Text:
    """Return the share of concepts, and of single samples, whose effect is below 0."""
    if cell.anti_concepts is None or not cell.factor:
        return NOTHING
    return Text(f"{cell.anti_concepts:.0%} / {cell.anti_samples.share or 0:.0%}", cell.anti_concepts)


def _counts(cell: ArmResult, _: str) -> Text:
    """Return the concepts behind the value, and behind the effect where those are fewer."""
    n, paired = cell.value.n, cell.effect.n
    return Text(f"{n}, effect {paired}" if cell.effect.value is not None and paired != n else str(n), float(n))


def _unscored(cell: ArmResult, _: str) -> Text:
    missing = cell.total - cell.scored
    reasons = f" ({', '.join(cell.reasons)})" if cell.reasons else ""
    return Text(f"{missing} of {cell.total}{reasons}" if missing else "0", float(missing))


def _remarks(task: str, lines: Sequence[ArmEntry], cells: Sequence[ArmResult], run: Provenance) -> list[str]:
    remarks = []
    said: dict[str, list[str]] = {}
    for entry, cell in zip(lines, cells, strict=True):
        if cell.verdict is not None and not _is_unreached(cell):
            words = f"{cell.verdict.word}; {cell.verdict.why}."
            said.setdefault(words, []).append(name_of(entry, lines))
    remarks += [f"{', '.join(names)}: {words}" for words, names in said.items()]
    for entry, cell in zip(lines, cells, strict=True):
        name = name_of(entry, lines)
        if cell.unreached:
            why = sorted(
                {
                    dose.reason or "no reason recorded"
                    for dose in run.unreached
                    if (run.pooled.get(dose.arm, dose.arm), dose.source, dose.target, dose.level)
                    == (entry.arm, entry.source, entry.target, cell.level)
                    and dose.concept in cell.unreached
                }
            )
            concepts = listed(cell.unreached)
            remarks.append(
                f"{name} does not reach damage {cell.level:g} on {concepts}: {'; '.join(why) or 'no reason recorded'}."
            )
    plain = next((cell.value.value for entry, cell in zip(lines, cells, strict=True) if entry.arm == UNSTEERED), None)
    if task == SUPPRESSION and plain is not None and plain >= NOT_OBEYED:
        told = f"{number(plain, 2)} of the unsteered replies break the rule although asked to obey it"
        remarks.append(f"{told}, so there is next to nothing to suppress; take rules that the model follows.")
    shares = {entry.arm: 1 - cell.scored / cell.total for entry, cell in zip(lines, cells, strict=True) if cell.total}
    if shares and max(shares.values()) - min(shares.values()) > UNSCORED_GAP:
        worst = max(sorted(shares), key=lambda arm: shares[arm])
        remarks.append(f"{shares[worst]:.0%} of {worst} is unscored, unlike other arms; compare with care.")
    return remarks


def listed(concepts: Sequence[str], at_most: int = 6) -> str:
    """Return how many concepts, and which where they are few.

    >>> listed(["sea", "law"]), listed(["sea"]), listed([f"c{i}" for i in range(60)])
    ('2 concepts (sea, law)', '1 concept (sea)', '60 concepts')
    """
    names = f" ({', '.join(concepts)})" if len(concepts) <= at_most else ""
    return f"{len(concepts)} concept{'s' if len(concepts) != 1 else ''}{names}"
