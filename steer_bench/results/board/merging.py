"""Merging: whether runs may stand on one board.

results -> [protocol of each target] -> refused, naming the key that differs
"""

from collections.abc import Mapping, Sequence
from typing import Any

from steer_bench.results.board.table import inline
from steer_bench.results.file import Results
from steer_bench.results.stats.effects import DAMAGE_LIMIT


def check_same_protocol(results: Sequence[Results]) -> None:
    """Refuse runs that measured one target in different ways, naming the key that differs."""
    first: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for result in results:
        for target in result.rows.texts["target"].present():
            name, mine = str(result.run.get("name", "")), protocol_of(result, target)
            for other, theirs in first.setdefault(target, []):
                key = next(iter(differing(mine, theirs)), None)
                if key is not None:
                    raise ValueError(
                        f"runs {other!r} and {name!r} measured target {target!r} with different {key}: "
                        f"{shorten(theirs[key])} and {shorten(mine[key])}; put them on boards of their own"
                    )
            first[target].append((name, mine))


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Keys of two protocols that are known in both and differ."""
    return [key for key in one if None not in (one[key], other.get(key)) and one[key] != other[key]]


def protocol_of(result: Results, target: str) -> dict[str, Any]:
    """What must be equal for two runs to stand in one table; None where it is not known."""
    run = result.run
    judge = {key: value for key, value in (run.get("judge") or {}).items() if key != "check"}
    protocol: dict[str, Any] = {"judge": judge or None}
    protocol |= {key: run.get(key) for key in ("factors", "splits", "prompts", "limits", "positions", "chat")}
    for key in ("revision", "layer", "dtype", "scale"):
        protocol[f"{key} of the target"] = (run.get("models") or {}).get(target, {}).get(key)
    tested = set(result.rows.where(target=target).texts["concept"].present()) - {""}
    complete = run.get("complete", False)
    protocol["test concepts"] = sorted(tested) if complete else None
    protocol["damage_limit"] = float(run.get("damage_limit", DAMAGE_LIMIT))
    return protocol


def shorten(value: object, width: int = 80) -> str:
    """A value in one short line."""
    text = inline(value)
    return text if len(text) <= width else text[: width - 3] + "..."
