"""IFEval's checkers, which lm-eval has, as rules.

    instruction id, its options -> Rule

Zhou et al. 2023, arXiv 2311.07911. Three things differ from calling them directly: a reply whose language cannot be
detected is unscored (there it counts as followed), langdetect is seeded, and an option that is left out is an error
(there it is drawn at random).
"""

import contextlib
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from steer_bench.concepts.rules.rule import Rule
from steer_bench.names import hint

NEEDS_NLTK_DATA = frozenset({"length_constraints:number_sentences", "change_case:capital_word_frequency"})
"""Instructions that split with NLTK's punkt_tab; the others need the package only."""

_READS_LANGUAGE = {"language:response_language", "change_case:english_capital", "change_case:english_lowercase"}


class Checker(Protocol):
    """One of lm-eval's checkers of an instruction."""

    def get_instruction_args_keys(self) -> list[str]:
        """Return the names of its options."""
        ...

    def build_description(self, **options: object) -> str:
        """Take the options and return the instruction in words."""
        ...

    def check_following(self, reply: str) -> bool:
        """Return whether the reply follows it."""
        ...


@dataclass(frozen=True)
class IFEvalCheck:
    """A checker of IFEval with its options. Equal for equal instruction and options."""

    instruction_id: str
    options: str
    """As JSON."""
    instruction: Checker = field(compare=False, repr=False)
    """lm-eval's checker, set to the options."""

    def __call__(self, reply: str) -> float | None:
        """Return 1 or 0; None where it is followed but the language cannot be told."""
        language = detect_language(reply) if self.instruction_id in _READS_LANGUAGE else ""  # also seeds langdetect
        followed = bool(self.instruction.check_following(reply))
        return None if followed and language is None else float(followed)


def ifeval_rule(instruction_id: str, **kwargs: object) -> Rule:
    """Return an IFEval instruction, e.g. `ifeval_rule("keywords:existence", keywords=["tide"])`, as a rule without rewrite.

    Its name is `ifeval-…`, with a hash of the options where there are any. Raises ValueError for an unknown id (the
    nearest is named), wrong options, a missing package or missing NLTK data.
    """
    checkers = ifeval_checkers()
    if instruction_id not in checkers:
        raise ValueError(f"no IFEval instruction {instruction_id!r}; {hint(instruction_id, checkers)}")
    if instruction_id in NEEDS_NLTK_DATA:
        import nltk

        try:
            nltk.data.find("tokenizers/punkt_tab/english")
        except LookupError:
            raise ValueError(
                f"IFEval instruction {instruction_id!r} needs NLTK's data punkt_tab, which is missing here; "
                "run `python -m nltk.downloader punkt_tab`, or set NLTK_DATA to a folder that holds it"
            ) from None
    options = {key: value for key, value in kwargs.items() if value is not None}
    instruction = checkers[instruction_id](instruction_id)
    wanted = set(instruction.get_instruction_args_keys())
    if wanted != set(options):
        raise ValueError(
            f"IFEval instruction {instruction_id!r} takes {', '.join(sorted(wanted)) or 'no options'}, "
            f"not {', '.join(sorted(options)) or 'none'}; give exactly these"
        )
    try:
        description = instruction.build_description(**options)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"options {options} of IFEval instruction {instruction_id!r} do not fit: {error}") from error

    as_json = json.dumps(options, sort_keys=True)
    name = "ifeval-" + instruction_id.replace(":", "-")
    if options:
        name += f"-{hashlib.sha256(as_json.encode()).hexdigest()[:8]}"
    return Rule(name, description, IFEvalCheck(instruction_id, as_json, instruction))


def detect_language(text: str) -> str | None:
    """Return langdetect's ISO 639-1 code, seeded, so that equal texts get equal answers; None where nothing can be told.

    Sound from a sentence of about six words; of a shorter text it may be wrong.

    >>> detect_language("Das Wetter ist heute schön, wir gehen an den See."), detect_language("2 + 2")
    ('de', None)
    """
    from langdetect import DetectorFactory, LangDetectException, detect

    DetectorFactory.seed = 0  # its sampling is random otherwise
    try:
        return str(detect(text.lower() if text.isupper() else text))
    except LangDetectException:
        return None


def ifeval_checkers() -> dict[str, Callable[[str], Checker]]:
    """Return lm-eval's checkers by id of their instruction. Raises ValueError where a package is missing."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints, and tries to download punkt_tab, on import
            from lm_eval.tasks.ifeval import instructions_registry
    except ImportError as error:
        raise ValueError(
            f"IFEval's checkers need a package that is missing: {error}; pip install lm_eval[ifeval]"
        ) from error
    return dict(instructions_registry.INSTRUCTION_DICT)
