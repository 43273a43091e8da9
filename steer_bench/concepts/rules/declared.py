"""Rules of one's own, as data: what an experiment's YAML says of a rule, made a rule. No code is read or run.

{name, description, pattern or ifeval, rewrite} -> Rule
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from steer_bench.concepts.rules.ifeval import ifeval_rule
from steer_bench.concepts.rules.rule import Rule

KEYS = ("name", "description", "pattern", "least", "forbidden", "ifeval", "options", "rewrite")
REWRITES = ("append", "prepend", "replace")


@dataclass(frozen=True)
class PatternCheck:
    """Whether a regular expression is found often enough, or, `forbidden`, nowhere. Equal for equal fields."""

    pattern: str
    least: int = 1
    forbidden: bool = False

    def __call__(self, reply: str) -> bool:
        """Whether the reply obeys.

        >>> PatternCheck(r"\\btea\\b")("Some tea."), PatternCheck("tea", forbidden=True)("Some tea.")
        (True, False)
        """
        found = sum(1 for _ in re.finditer(self.pattern, reply, re.MULTILINE))
        return not found if self.forbidden else found >= self.least


@dataclass(frozen=True)
class Edit:
    """Makes a text obey: text before and after it, and replacements of patterns. Equal for equal fields."""

    prepend: str = ""
    append: str = ""
    replace: tuple[tuple[str, str], ...] = ()

    def __call__(self, text: str) -> str:
        """The changed text.

        >>> Edit(append=" Have some tea.")("Cats purr."), Edit(replace=((r"\\.", "!"),))("One. Two.")
        ('Cats purr. Have some tea.', 'One! Two!')
        """
        for pattern, new in self.replace:
            text = re.sub(pattern, new, text, flags=re.MULTILINE)
        return self.prepend + text + self.append


def declared_rule(given: Mapping[str, Any]) -> Rule:
    """A rule from its declaration.

    name, description: of the rule. pattern: a regular expression that a reply holds at least `least` times (1), in any line,
    or with `forbidden: true` nowhere. Or ifeval: an instruction id of IFEval, with its `options` (then name and description
    may be left out). rewrite: {append: text}, {prepend: text}, {replace: {pattern: text}}, one or several, makes a text obey, for
    a vector of the rule; without it the rule needs a concept file with texts. Raises ValueError naming the key.

    >>> declared_rule({"name": "tea", "description": "tea is mentioned", "pattern": "(?i)tea"}).score("Green TEA")
    1.0
    """
    where = f"rule {given.get('name') or given.get('ifeval') or given!r}"
    unknown = [key for key in given if key not in KEYS]
    if unknown:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; there are: {', '.join(KEYS)}")
    if ("pattern" in given) == ("ifeval" in given):
        raise ValueError(f"{where}: give pattern (a regular expression) or ifeval (an instruction id), one of the two")
    rewrite = _edit(where, given["rewrite"]) if given.get("rewrite") is not None else None
    if "ifeval" in given:
        for key in ("least", "forbidden"):
            if key in given:
                raise ValueError(f"{where}: {key} belongs to a pattern; leave it out")
        rule = ifeval_rule(str(given["ifeval"]), **(given.get("options") or {}))
        name, description = given.get("name") or rule.name, given.get("description") or rule.description
        return replace(rule, rewrite=rewrite, name=str(name), description=str(description))
    for key in ("name", "description"):
        if not given.get(key):
            raise ValueError(f"{where}: {key} is missing")
    least = given.get("least", 1)
    if isinstance(least, bool) or not isinstance(least, int) or least < 1:
        raise ValueError(f"{where}: least is {least!r}; it is a whole number of at least 1")
    _pattern(where, given["pattern"])
    check = PatternCheck(given["pattern"], least, bool(given.get("forbidden", False)))
    return Rule(str(given["name"]), str(given["description"]), check, rewrite)


def _edit(where: str, given: Any) -> Callable[[str], str]:
    if not isinstance(given, Mapping) or not given or (set(given) - set(REWRITES)):
        raise ValueError(f"{where}: rewrite is {given!r}; give a mapping with {', '.join(REWRITES)}")
    replaced = given.get("replace") or {}
    if not isinstance(replaced, Mapping):
        raise ValueError(f"{where}: replace is {replaced!r}; give a mapping of patterns to texts")
    for pattern, new in replaced.items():
        _pattern(where, pattern)
        try:
            re.sub(pattern, str(new), "")
        except (re.error, IndexError) as error:
            raise ValueError(f"{where}: replacement {new!r}: {error}") from None
    pairs = tuple((str(pattern), str(new)) for pattern, new in replaced.items())
    return Edit(str(given.get("prepend") or ""), str(given.get("append") or ""), pairs)


def _pattern(where: str, pattern: Any) -> None:
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(f"{where}: pattern {pattern!r} is no regular expression: {error}") from None
