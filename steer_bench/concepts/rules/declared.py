"""Rules that an experiment's YAML declares as data. No code is read or run.

{name, description, pattern or ifeval, rewrite} -> Rule
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from steer_bench.concepts.rules.checks import Found
from steer_bench.concepts.rules.rule import Rule
from steer_bench.concepts.rules.table import RULES
from steer_bench.names import fault_sentence

Instructions = Callable[..., Rule]
"""IFEval's instructions: called with an instruction's id and its options as keywords, gives the rule."""


class _Declared(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class Edit(_Declared):
    """Change that makes a text obey: text before and after it, and replacements. Equal for equal fields."""

    prepend: str = ""
    append: str = ""
    replace: dict[str, str] = {}
    """Regular expression -> what takes its place, with groups as in `re.sub`."""

    def __call__(self, text: str) -> str:
        """Return the changed text.

        >>> Edit(append=" Have some tea.")("Cats purr."), Edit(replace={r"\\.": "!"})("One. Two.")
        ('Cats purr. Have some tea.', 'One! Two!')
        """
        for pattern, new in self.replace.items():
            text = re.sub(pattern, new, text, flags=re.MULTILINE)
        return self.prepend + text + self.append

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.model_fields_set:
            raise ValueError(f"rewrite is empty; give one or several of {', '.join(Edit.model_fields)}")
        for pattern, new in self.replace.items():
            _check_pattern(pattern)
            try:
                re.sub(pattern, new, "")
            except (re.error, IndexError) as error:
                raise ValueError(f"replacement {new!r}: {error}") from None
        return self


class DeclaredRule(_Declared):
    """One rule of an experiment's YAML.

    >>> DeclaredRule(name="tea", description="tea is mentioned", pattern="(?i)tea").pattern
    '(?i)tea'
    """

    name: str = ""
    description: str = ""
    """What holds for a reply that obeys. Like the name it may be left out where `ifeval` gives one."""
    pattern: str | None = None
    """Regular expression that a reply holds, in any line."""
    least: Annotated[int, Field(strict=True, ge=1)] = 1
    """How often the pattern has to be found."""
    forbidden: bool = False
    """Whether the pattern has to be nowhere."""
    ifeval: str | None = None
    """An instruction's id of IFEval, in place of a pattern."""
    options: dict[str, object] = {}
    """Options of the instruction."""
    rewrite: Edit | None = None
    """Makes a text obey, for a vector of the rule; without it the rule needs a concept file with texts."""

    @field_validator("options", mode="before")
    @classmethod
    def _nothing_is_no_option(cls, given: object) -> object:
        return {} if given is None else given

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.pattern is None) == (self.ifeval is None):
            raise ValueError("give pattern (a regular expression) or ifeval (an instruction id), one of the two")
        if self.pattern is not None:
            if key := next((key for key in ("name", "description") if not getattr(self, key)), None):
                raise ValueError(f"{key} is missing")
            _check_pattern(self.pattern)
        elif key := next((key for key in ("least", "forbidden") if key in self.model_fields_set), None):
            raise ValueError(f"{key} belongs to a pattern; leave it out")
        return self


def declared_rule(given: Mapping[str, object], instructions: Instructions) -> Rule:
    """Return the rule of a declaration; `instructions` makes those that name an instruction of IFEval.

    Raises ValueError naming the rule and the key.
    """
    where = f"rule {given.get('name') or given.get('ifeval') or given!r}"
    try:
        declared = DeclaredRule.model_validate(given)
    except ValidationError as error:
        raise ValueError(
            f"{where}: {fault_sentence(error.errors()[0], (*DeclaredRule.model_fields, *Edit.model_fields))}"
        ) from None
    if declared.ifeval is None:
        check = Found(re.compile(declared.pattern or "", re.MULTILINE), declared.least, declared.forbidden)
        return Rule(declared.name, declared.description, check, declared.rewrite)
    rule = instructions(declared.ifeval, **declared.options)
    return replace(
        rule,
        rewrite=declared.rewrite,
        name=declared.name or rule.name,
        description=declared.description or rule.description,
    )


def rules_of(declared: Iterable[Mapping[str, object]], instructions: Instructions) -> dict[str, Rule]:
    """Return the shipped rules and the declared ones by name.

    Raises ValueError for a declaration that makes no rule, and for two different rules of one name.
    """
    rules = dict(RULES)
    for given in declared:
        rule = declared_rule(given, instructions)
        if rules.setdefault(rule.name, rule) != rule:
            raise ValueError(f"there is another rule named {rule.name!r} already; give the new one another name")
    return rules


def _check_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern {pattern!r} is no regular expression: {error}") from None
