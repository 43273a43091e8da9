"""Draws: which items of a pool are for what, decided by a seed and each item's id alone.

    pool of prompts or texts -> parts that share nothing -> the items of each concept

Two concepts draw independently, so their values are independent given the pool; a draw of more keeps what was drawn before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from steer_bench.files import digest

T = TypeVar("T")


def drawn(pool: Mapping[str, T], n: int | None, *key: object) -> dict[str, T]:
    """Return `n` items (all where n is None) in an order drawn by the key, such as a seed and a concept.

    >>> list(drawn({"a": 1, "b": 2, "c": 3}, 2, 0)), list(drawn({"a": 1, "b": 2, "c": 3}, None, 3))
    (['c', 'a'], ['c', 'b', 'a'])
    """
    return {item: pool[item] for item in sorted(pool, key=lambda item: (digest(*key, item), item))[:n]}


def parted(pool: Mapping[str, T], n: int, *key: object) -> tuple[dict[str, T], dict[str, T]]:
    """Return `n` drawn items (at most half of the pool) and the others, both in the order of the pool.

    >>> parted({"a": 1, "b": 2, "c": 3}, 2, 0)
    ({'c': 3}, {'a': 1, 'b': 2})
    """
    mine = drawn(pool, min(n, len(pool) // 2), *key)
    return {k: v for k, v in pool.items() if k in mine}, {k: v for k, v in pool.items() if k not in mine}
