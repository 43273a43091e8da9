"""Merging: whether runs may stand on one board.

results -> [protocol of each target] -> refused, naming the key that differs
"""

from collections.abc import Mapping, Sequence

from steer_bench.results.board.table import inline
from steer_bench.results.file import Results
from steer_bench.results.provenance import ModelInfo


def check_same_protocol(results: Sequence[Results]) -> None:
    """Refuse runs that measured one target in different ways, naming the key that differs."""
    first: dict[str, list[tuple[str, Mapping[str, object]]]] = {}
    for result in results:
        for target in result.rows.texts["target"].present():
            name, mine = result.run.name, protocol_of(result, target)
            for other, theirs in first.setdefault(target, []):
                key = next(iter(differing(mine, theirs)), None)
                if key is not None:
                    raise ValueError(
                        f"runs {other!r} and {name!r} measured target {target!r} with different {key}: "
                        f"{shorten(theirs[key])} and {shorten(mine[key])}; put them on boards of their own"
                    )
            first[target].append((name, mine))


def differing(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """Return the keys of two protocols that are known in both and differ."""
    return [key for key in one if None not in (one[key], other.get(key)) and one[key] != other[key]]


def protocol_of(result: Results, target: str) -> dict[str, object]:
    """Return what must be equal for two runs to stand in one table; None where it is not known."""
    run, model = result.run, result.run.models.get(target, ModelInfo())
    tested = set(result.rows.where(target=target).texts["concept"].present()) - {""}
    return {
        "judge": {"name": run.judge.name, **run.judge.config} if run.judge else None,
        "factors": run.factors or None,
        "splits": run.splits.model_dump() if run.splits else None,
        "prompts": run.prompts,
        "limits": run.limits or None,
        "positions": run.positions,
        "chat": run.chat,
        **{f"{key} of the target": getattr(model, key) for key in ("revision", "layer", "dtype", "scale")},
        "test concepts": sorted(tested) if run.complete else None,
        "damage_limit": run.damage_limit,
    }


def shorten(value: object, width: int = 80) -> str:
    """Return a value in one short line."""
    text = inline(value)
    return text if len(text) <= width else text[: width - 3] + "..."
