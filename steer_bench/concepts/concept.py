"""A concept with its texts, a prompt, and the names that may become file names.

Knows nothing of files: the checks here raise ValueError without a place, which the loaders add.
"""

from dataclasses import dataclass

from steer_bench.files import check_id

KINDS = ("topic", "rule", "suppress")


@dataclass(frozen=True)
class Concept:
    """A concept and its texts. Raises ValueError where a field makes no sense; the loaders add file and line."""

    id: str
    """Also a file name: matches [A-Za-z0-9][A-Za-z0-9._-]{0,99}."""
    description: str
    genre: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    """Texts of the same genre without the concept."""
    kind: str = "topic"
    """"topic"; "rule": then `rule` is the name of a rule; "suppress": the instruction asks for that rule, the vector,
    subtracted, forbids it."""
    rule: str = ""

    def __post_init__(self) -> None:
        check_id(self.id)
        for name in ("description", "genre"):
            check_text(getattr(self, name), name)
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}; it can be 'topic', 'rule' or 'suppress'")
        if self.has_rule:
            check_text(self.rule, "rule")
        elif self.rule:
            raise ValueError(f'rule is {self.rule!r} but kind is \'topic\'; a rule concept needs "kind": "rule"')
        seen: dict[str, str] = {}
        for side in ("positives", "negatives"):
            texts = getattr(self, side)
            if not texts:
                raise ValueError(f"{side} is empty; a concept needs at least one text on each side")
            for i, text in enumerate(texts):
                place = f"{side}[{i}]"
                check_text(text, place)
                if (first := seen.setdefault(text if self.has_rule else text_key(text), place)) != place:
                    raise ValueError(f"{place} is the same text as {first}; each text can stand once, on one side")

    @property
    def has_rule(self) -> bool:
        """Whether a rule checks the replies, followed or suppressed; such a concept is in no split."""
        return self.kind != "topic"


@dataclass(frozen=True)
class Prompt:
    """An instruction given to the steered model."""

    id: str
    instruction: str


def check_text(text: str, name: str) -> None:
    """Raise ValueError if `text`, called `name` in the message, is empty or not Unicode."""
    if not text.strip():
        raise ValueError(f"{name} is an empty text")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{name} holds half a surrogate pair, which is not Unicode text")


def text_key(text: str) -> str:
    """Return what makes two texts the same: everything but white space."""
    return " ".join(text.split())


def cut(text: str, words: int | None) -> str:
    """Return the first words of a text, all of it where `words` is None."""
    return text if words is None else " ".join(text.split()[:words])


def short(text: str) -> str:
    """Return `text` quoted, and cut where it is long, for messages."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
