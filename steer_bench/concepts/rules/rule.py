"""Rule: a deterministic check of a reply, and how to make a text obey it.

reply -> strip special tokens -> check -> score in [0, 1], or None: unscored
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from steer_bench.concepts.rules.sentences import finished_sentences

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,94}")
_SPECIAL_TOKEN = re.compile(
    r"(?:<(?:start_of_turn|end_of_turn|bos|eos|pad|unk|unused\d+)>|</?s>|<\|[^<>|\s]{1,40}\|>|<｜[^<>｜\s]{1,40}｜>|\[/?INST\])\Z"
)


@dataclass(frozen=True)
class Rule:
    """What a reply has to look like. Equal for equal fields."""

    name: str
    """Letters, digits, `.`, `_` and `-`, 95 at most: the concept of the rule is called `rule-NAME`."""
    description: str
    """What holds for a reply that obeys, as one clause."""
    check: Callable[[str], float | None]
    """Reply -> score in [0, 1]; True and False count as 1 and 0; None where it cannot be told."""
    rewrite: Callable[[str], str] | None = None
    """Text -> a text that passes the check; None where no such function comes naturally."""
    per_sentence: bool = False
    """Whether every sentence has to obey: of a reply cut at the token limit the unfinished sentence is then left out."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"rule name {self.name!r}: use 1 to 95 letters, digits, '.', '_' or '-', a letter first")
        if not self.description.strip():
            raise ValueError(f"rule {self.name!r} has no description; say what a reply that obeys looks like")

    def score(self, reply: str, *, cut: bool = False) -> float | None:
        """Score a reply in [0, 1]: 0 if there is nothing to see in it, None where the rule cannot tell.

        cut: the reply ended at its token limit, perhaps within a sentence.

        >>> Rule("short", "at most 5 characters", lambda reply: len(reply) <= 5).score("Yes.<end_of_turn>")
        1.0
        """
        reply = strip_special_tokens(reply)
        if is_blank(reply):
            return 0.0
        if cut and self.per_sentence:
            reply = finished_sentences(reply)
        value = self.check(reply)
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"rule {self.name!r} scored {value}; its check has to return a number in [0, 1] or None")
        return None if value is None else float(value)

    def score_suppressed(self, reply: str, *, cut: bool = False) -> float | None:
        """Score a reply that should *not* obey: 1 minus its score; an empty reply scores 0 here too.

        >>> rule = Rule("yes", "it says yes", lambda reply: "yes" in reply)
        >>> rule.score_suppressed("no"), rule.score_suppressed("yes"), rule.score_suppressed(" ")
        (1.0, 0.0, 0.0)
        """
        score = self.score(reply, cut=cut)
        return score if score is None or is_blank(strip_special_tokens(reply)) else 1.0 - score

    def ask(self, instruction: str) -> str:
        """Return the instruction with a request to obey: what a suppressing vector has to work against.

        >>> Rule("emoji", "there is an emoji", lambda reply: None).ask("Tell me about your day.")
        'Tell me about your day. Write your reply so that this holds: there is an emoji.'
        """
        return f"{instruction.rstrip()} Write your reply so that this holds: {self.description}."


def strip_special_tokens(reply: str) -> str:
    """Return the reply without white space around it and without special tokens at its end.

    >>> strip_special_tokens(" Yes.<end_of_turn>\\n<|im_end|><eos> ")
    'Yes.'
    """
    reply = reply.strip()
    while token := _SPECIAL_TOKEN.search(reply, max(0, len(reply) - 64)):  # none is longer
        reply = reply[: token.start()].rstrip()
    return reply


def is_blank(reply: str) -> bool:
    """Return whether nothing of the reply can be seen: only white space and characters without a shape.

    >>> is_blank(" \\u200b\\n"), is_blank("?")
    (True, False)
    """
    return not any(character.isprintable() and not character.isspace() for character in reply)
