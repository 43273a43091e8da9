"""Names: what to say of one that is unknown, with the nearest there is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def known(given: str, names: Iterable[str], what: str) -> str:
    """Return `given` if it is one of `names`; else raise a ValueError that says which is near.

    >>> known("ggu", ["gguf", "npy"], "format")
    Traceback (most recent call last):
    ValueError: unknown format 'ggu'; did you mean 'gguf'?
    """
    names = list(names)
    if given not in names:
        raise ValueError(f"unknown {what} {given!r}; {hint(given, names)}")
    return given


def hint(given: object, names: Iterable[str], otherwise: str | None = None) -> str:
    """Return "did you mean …?", or `otherwise` (by default the names in quotes) where none is near.

    >>> hint("ggu", ["gguf", "npy"]), hint("wav", [])
    ("did you mean 'gguf'?", 'there are: none')
    """
    names = list(names)
    near = difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    return otherwise if otherwise is not None else "there are: " + (listed(map(repr, names)) or "none")


def fault_sentence(fault: ErrorDetails, keys: Iterable[str]) -> str:
    """Return one of the errors of a pydantic ValidationError as a sentence; `keys` are those that are known.

    >>> fault_sentence({"type": "extra_forbidden", "loc": ("patern",), "msg": "", "input": "x"}, ["pattern"])
    "unknown key 'patern'; did you mean 'pattern'?"
    >>> fault_sentence({"type": "int", "loc": ("least",), "msg": "Input should be a whole number", "input": 0.5}, [])
    'least is 0.5; input should be a whole number'
    """
    key = ".".join(map(str, fault["loc"]))
    if fault["type"] == "value_error":  # of a validator of ours, which says it all
        return str(fault["ctx"]["error"])
    if fault["type"] == "missing":
        return f"{key} is missing"
    if fault["type"] == "extra_forbidden":
        return f"unknown key {key!r}; {hint(fault['loc'][-1], keys)}"
    found = repr(fault["input"])
    return f"{key} is {found if len(found) <= 80 else found[:77] + '...'}; {fault['msg'][:1].lower()}{fault['msg'][1:]}"


def listed(names: Iterable[str], most: int = 12) -> str:
    """Return the names for a message, cut where there are many."""
    names = list(names)
    return ", ".join(names[:most]) + (f", … ({len(names)})" if len(names) > most else "")
