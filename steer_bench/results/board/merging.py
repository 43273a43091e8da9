"""Merging: whether runs may stand on one board.

results -> [protocol of each target] -> refused, naming the key that differs
"""

from collections.abc import Sequence

from steer_bench.results.board.table import inline
from steer_bench.results.file import Results
from steer_bench.results.provenance import ModelInfo


def check_same_protocol(results: Sequence[Results]) -> None:
    """Refuse runs that measured one target in different ways, naming the key that differs."""
    first: dict[str, list[Results]] = {}
    for result in results:
        for target in result.rows.texts["target"].present():
            for other in first.setdefault(target, []):
                for told in differing(other, result, target)[:1]:
                    raise ValueError(
                        f"runs {other.run.name!r} and {result.run.name!r} measured target {target!r} with {told}; put them on "
                        "boards of their own"
                    )
            first[target].append(result)


def differing(one: Results, other: Results, target: str) -> list[str]:
    """Say in which keys of the protocol two runs differ, a key that only one of them recorded included."""
    sides = [protocol_of(result, target) for result in (one, other)]
    mutual = one.run.models.keys() & other.run.models.keys()
    for name in sorted(mutual - {target}):
        for side, result in zip(sides, (one, other), strict=True):
            side[f"layer of {name}"] = result.run.models[name].layer
    keys = [key for key in sides[0] | sides[1] if sides[0].get(key) != sides[1].get(key)]
    return [f"different {key}: {shorten(sides[0].get(key))} and {shorten(sides[1].get(key))}" for key in keys]


def protocol_of(result: Results, target: str) -> dict[str, object]:
    """Return what must be equal for two runs to stand in one table; None where it was not recorded."""
    run, model = result.run, result.run.models.get(target, ModelInfo())
    tested = set(result.rows.where(target=target).texts["concept"].present()) - {""}
    return {
        "judge": {"name": run.judge.name, **run.judge.config} if run.judge else None,
        **{f"levels of {task}": levels for task, levels in run.levels.items()},
        "headline level": run.headline if run.levels else None,
        **{f"factors of {task}": factors for task, factors in run.factors.items()},
        "splits": run.splits.model_dump() if run.splits else None,
        "prompts": run.prompts,
        **{f"hash of {name}": value for name, value in run.hashes.items()},
        **{f"limits of {task}": limits for task, limits in run.limits.items()},
        "positions": run.positions,
        "chat": run.chat,
        "halves": run.halves,
        **{f"{key} of the target": getattr(model, key) for key in ("revision", "layer", "dtype", "scale")},
        "test concepts": sorted(tested),
    }


def shorten(value: object, width: int = 80) -> str:
    """Return a value in one short line."""
    text = "not recorded" if value is None else inline(value)
    return text if len(text) <= width else text[: width - 3] + "..."
