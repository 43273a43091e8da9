"""Checks of a reply: pure functions of the text, True where it obeys; None where that cannot be told.

    reply -> [check] -> score

A check is given a reply without special tokens at its end and with something to see in it (`Rule.score` takes care
of both). Most checks are one search for one of the patterns below.
"""

import json
import re
from dataclasses import dataclass
from itertools import pairwise

from steer_bench.concepts.rules.sentences import CLOSERS, WORD, sentence_spans, split_sentences

_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?"
    r"|Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)"
)
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"

EMOJI = re.compile(
    "[\U0001f1e6-\U0001f1ff\U0001f300-\U0001f64f\U0001f680-\U0001f6ff\U0001f7e0-\U0001f7eb"
    "\U0001f90c-\U0001f9ff\U0001fa70-\U0001faff]"
    "|[⌚⌛⏩-⏬⏰⏳◽◾☔☕♈-♓♿⚓⚡⚪⚫⚽⚾⛄⛅⛎⛔⛪⛲⛳⛵⛺⛽✅✊✋✨❌❎❓-❕❗➕-➗➰➿⬛⬜⭐⭕❤]"
    "|[\u203c-\u3299©®]\ufe0f|[0-9#*]\ufe0f?\u20e3"
)
"""What is shown as an emoji by default or by a variation selector (Unicode TR 51); ✓ and → alone are text."""
BOLD = re.compile(r"\*\*[^*\s](?:[^*\n]*[^*\s])?\*\*")
BULLET = re.compile(r"^[ \t]*[-*+•][ \t]+\S", re.MULTILINE)
CITATION = re.compile(
    r"\[[^\]\n]{1,200}\]\(https?://[^\s)]+\)|\[\d+\][^\n]*https?://\w\S*\.\w"
    r"|\b(?:sources?|references?)\b[^\n]*https?://\w\S*\.\w",
    re.IGNORECASE,
)
CODE_BLOCK = re.compile(r"^[ \t]*(`{3,})[^`\n]*\n(?!\s*\1[ \t]*$)[\s\S]+?\n[ \t]*\1[ \t]*$", re.MULTILINE)
COMMA = re.compile(r"[,，、]")
DATE = re.compile(
    rf"\b{_DAY}(?:st|nd|rd|th)?(?: of)? {_MONTH}\b|\b{_MONTH}\.? {_DAY}(?:st|nd|rd|th)?\b"
    rf"|\b\d{{4}}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])\b"
    rf"|\b{_DAY}[/.](?:0?[1-9]|1[0-2])[/.]\d{{4}}\b|\b(?:0?[1-9]|1[0-2])/{_DAY}/\d{{4}}\b"
)
EMAIL = re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){0,5}\.[A-Za-z]{2,24}\b")
HASHTAG = re.compile(r"(?<![\w#&/])#(?!(?:include|define|if|ifdef|ifndef|endif|else|pragma)\b)[^\W\d_]\w+")
HEADING = re.compile(r"\A#{1,6}[ \t]+\S")
PHONE = re.compile(
    r"(?<![\w.+-])(?:\+(?=(?:[ .()-]{0,2}\d){8})\d{1,3}(?:[ .-]?\(?\d{2,4}\)?){2,5}"
    r"|(?:1[ .-])?\(\d{3}\) ?\d{3}[ .-]\d{4}|(?:1[.-])?\d{3}[.-]\d{3}[.-]\d{4}|0\d{2,4}[ -]\d{3,4}[ -]?\d{3,4})(?![\w-])"
)
"""With a country code, an area code in brackets, three groups, or a leading 0; `100-2000` is a range."""
POSTSCRIPT = re.compile(r"\n[ \t]*[*_]*P\.? ?(?:P\.? ?)?S\b[.:*_ ]*\s*\w", re.IGNORECASE)
QUOTED = re.compile(r"(?<!\w)[\"“](?=\w)[^\"“”\n]{1,60}(?<=[\w.,!?])[\"”]")
SEPARATOR = re.compile(r"^[ \t]*(?:-{3,}|\*{3,}|_{3,}|={3,})[ \t]*$", re.MULTILINE)
TABLE = re.compile(r"^[ \t]*\|.+\|[ \t]*\n[ \t]*\|(?:[ \t]*:?-{3,}:?[ \t]*\|)+[ \t]*\n[ \t]*\|.+\|", re.MULTILINE)
TAGGED = re.compile(r"\A<([A-Za-z][\w-]*)(?: [^<>\n]*)?>\s*\S[\s\S]*</\1>\Z")
THE = re.compile(r"\bthe\b", re.IGNORECASE)
TITLE = re.compile(r"<<(?! )[^<>\n]+(?<! )>>")

_NUMBERED = re.compile(r"^[ \t]*[*_]*(\d{1,3})[.)][*_]*[ \t]+\S", re.MULTILINE)
_EMPTY_LINE = re.compile(r"\n[ \t\r]*\n")
_FENCED = re.compile(r"\A```[A-Za-z]*\s*\n([\s\S]*?)\n?```\Z")


@dataclass(frozen=True)
class Found:
    """Check that a pattern is found at least `least` times, or, `forbidden`, nowhere. Equal for equal fields.

    >>> Found(HASHTAG)("One #cat"), Found(HASHTAG, least=2)("One #cat"), Found(COMMA, forbidden=True)("Cats, dogs")
    (True, False, False)
    """

    pattern: re.Pattern[str]
    least: int = 1
    forbidden: bool = False

    def __call__(self, reply: str) -> bool:
        """Return whether the reply obeys."""
        if self.forbidden:
            return self.pattern.search(reply) is None
        return sum(1 for _ in self.pattern.finditer(reply)) >= self.least


def word(word: str) -> re.Pattern[str]:
    """Return the pattern of a word, in any case, also as a plural with s.

    >>> Found(word("ocean"))("Oceans rise."), Found(word("ocean"))("The Oceanside")
    (True, False)
    """
    return re.compile(rf"\b{re.escape(word)}s?\b", re.IGNORECASE)


def starts_with(reply: str, phrase: str) -> bool:
    """Return whether the reply opens with the phrase, in any case; quotes and emphasis before it do not matter.

    >>> starts_with("**Once upon a time**, there was", "Once upon a time")
    True
    """
    return reply.lstrip("\"'“*_ \n").casefold().startswith(phrase.casefold())


def ends_with(reply: str, phrase: str) -> bool:
    """Return whether the reply closes with the phrase, in any case; marks, quotes and emphasis after it do not matter.

    >>> ends_with("So be it. **THE END!**", "the end."), ends_with("The end is near.", "the end.")
    (True, False)
    """
    after = CLOSERS + ".!? \n"
    return reply.rstrip(after).casefold().endswith(phrase.rstrip(after).casefold())


def is_capitalised(reply: str) -> bool:
    """Return whether every word that starts with a letter starts with a capital.

    >>> is_capitalised("The 3 Wise Men"), is_capitalised("The wise Men")
    (True, False)
    """
    first = [word[0] for word in WORD.findall(reply)]
    return any(letter.isupper() for letter in first) and not any(letter.islower() for letter in first)


def ends_in_d(reply: str) -> bool:
    """Return whether the last letter of the reply is a d.

    >>> ends_in_d("The END. (2)"), ends_in_d("42")
    (True, False)
    """
    return next((character for character in reversed(reply) if character.isalpha()), "").lower() == "d"


def sentences_end_in(reply: str, marks: str) -> bool:
    """Return whether every sentence ends in one of the marks.

    >>> sentences_end_in('Yes! "No!"', "!"), sentences_end_in("Yes! No.", "!")
    (True, False)
    """
    sentences = split_sentences(reply)
    return bool(sentences) and all(sentence.rstrip(CLOSERS).endswith(tuple(marks)) for sentence in sentences)


def has_double_breaks(reply: str) -> bool:
    r"""Return whether an empty line stands between any two sentences, and there are two.

    >>> has_double_breaks("One.\n\nTwo."), has_double_breaks("One.\n\nTwo. Three."), has_double_breaks("One.")
    (True, False, False)
    """
    gaps = [reply[end:start] for (_, end), (start, _) in pairwise(sentence_spans(reply))]
    return bool(gaps) and all(_EMPTY_LINE.search(gap) for gap in gaps)


def n_paragraphs(reply: str) -> int:
    r"""Count the paragraphs, which empty lines set apart.

    >>> n_paragraphs("One.\n\nTwo."), n_paragraphs("One.\nTwo.")
    (2, 1)
    """
    return sum(bool(part.strip()) for part in _EMPTY_LINE.split(reply))


def is_numbered(reply: str) -> bool:
    r"""Return whether the reply holds a numbered list: lines 1., 2., … in order, at least two.

    >>> is_numbered("First:\n1. tea\n2. milk"), is_numbered("1. tea\n3. milk"), is_numbered("2. tea")
    (True, False, False)
    """
    numbers = [int(number) for number in _NUMBERED.findall(reply)]
    return len(numbers) >= 2 and numbers == list(range(1, len(numbers) + 1))


def is_json(reply: str) -> bool:
    r"""Return whether the whole reply, or the code block it consists of, is a JSON object or array.

    >>> is_json('{"a": 1}'), is_json("```json\n[1, 2]\n```"), is_json('Sure: {"a": 1}'), is_json("42")
    (True, True, False, False)
    """
    fenced = _FENCED.match(reply)
    try:
        return isinstance(json.loads(fenced[1] if fenced else reply), dict | list)
    except (ValueError, RecursionError):
        return False


def is_quoted(reply: str) -> bool:
    """Return whether one pair of double quotation marks goes round the whole reply.

    >>> is_quoted('"Well said."'), is_quoted('"No" is not "yes"')
    (True, False)
    """
    inner = reply[1:-1]
    return bool(inner.strip()) and reply[0] + reply[-1] in ('""', "“”", "«»") and not set(inner) & {reply[0], reply[-1]}
