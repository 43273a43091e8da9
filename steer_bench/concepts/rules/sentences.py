"""Sentences and words of a reply: where they stand, and how a text is changed sentence by sentence.

    text -> [spans] -> checks, rewrites

A line break always ends a sentence; list markers and heading signs at the start of a line belong to none.
"""

import re
from collections.abc import Callable

WORD = re.compile(r"\w+(?:['’-]\w+)*")
"""A word as a reader counts it: don't and well-known are one. Runs of Chinese or Japanese count as one word."""

CLOSERS = "\"'”’»)]*_`）」』"
"""What may stand between the mark that ends a sentence and the next sentence."""

_MARKS = (".", "!", "?", "…", "。", "！", "？")
_MARKER = re.compile(r"[ \t]*(?:(?:[-*+•>]|#{1,6}|\d{1,3}[.)])[ \t]+)*")
_END = re.compile(rf"[.!?…]+[{re.escape(CLOSERS)}]*(?=\s)|[。！？]+[{re.escape(CLOSERS)}]*")
_LAST_TOKEN = re.compile(r"[^\s(\[\"'“]+\Z")
_NEVER_LAST = frozenset({"mr", "mrs", "ms", "dr", "prof", "st", "vs", "e.g", "i.e", "cf", "fig", "approx"})
_SOMETIMES_LAST = re.compile(r"etc|inc|ltd|jr|sr|co|(?:[A-Za-z]\.)+[A-Za-z]", re.IGNORECASE)
_FILLERS = ("There is more to say.", "That is one part of it.", "The rest follows from this.")


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return start and end of every sentence with a letter or digit; `text[start:end]` has no white space around it.

    >>> sentence_spans("Hi. You?")
    [(0, 3), (4, 8)]
    """
    spans = []
    offset = 0
    for line in text.split("\n"):
        marker = _MARKER.match(line)
        start = marker.end() if marker else 0
        ends = [mark.end() for mark in _END.finditer(line, start) if _ends_sentence(line, mark)]
        for end in [*ends, len(line)]:
            piece = line[start:end]
            if any(character.isalnum() for character in piece):
                spans.append((offset + end - len(piece.lstrip()), offset + start + len(piece.rstrip())))
            start = end
        offset += len(line) + 1
    return spans


def _ends_sentence(line: str, mark: re.Match[str]) -> bool:
    """Return whether a mark ends a sentence: not after `Dr.`, an initial, or inside `"Why?" he said`."""
    following = line[mark.end() :].lstrip()[:1]
    if mark[0][0] in "。！？":
        return True
    if mark[0] != ".":
        runs_on = len(mark[0]) > 1 and mark[0] not in ("!!", "??", "!?", "?!", "!!!", "???")
        return not (runs_on and following.islower())
    token = _LAST_TOKEN.search(line, max(0, mark.start() - 20), mark.start())
    word = token[0] if token else ""
    if word.lower() in _NEVER_LAST or (len(word) == 1 and word.isupper() and word != "I"):
        return False
    return not (_SOMETIMES_LAST.fullmatch(word) and following.islower())


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text, in order.

    >>> split_sentences("Dr. Lee paid 3.50 for it. Why? Tea!")
    ['Dr. Lee paid 3.50 for it.', 'Why?', 'Tea!']
    >>> split_sentences("# Title\\n- one\\n- two")
    ['Title', 'one', 'two']
    """
    return [text[start:end] for start, end in sentence_spans(text)]


def finished_sentences(text: str) -> str:
    """Return the text up to the end of its last sentence with a mark; all of it where no sentence has one.

    >>> finished_sentences("One! Two! And then"), finished_sentences("And then")
    ('One! Two!', 'And then')
    """
    ends = [end for start, end in sentence_spans(text) if text[start:end].rstrip(CLOSERS).endswith(_MARKS)]
    return text[: ends[-1]] if ends else text


def map_sentences(text: str, change: Callable[[str], str]) -> str:
    """Apply `change` to every sentence; what stands between sentences stays.

    >>> map_sentences("- one.\\n- two.", str.upper)
    '- ONE.\\n- TWO.'
    """
    parts = []
    last = 0
    for start, end in sentence_spans(text):
        parts += [text[last:start], change(text[start:end])]
        last = end
    return "".join([*parts, text[last:]])


def pad_sentences(text: str, least: int) -> str:
    """Add plain sentences until the text has `least`, for rules that need several.

    >>> pad_sentences("Cats purr", 2)
    'Cats purr\\nThere is more to say.'
    """
    missing = least - len(sentence_spans(text))
    if missing <= 0:
        return text
    return "\n".join([text.rstrip(), *(_FILLERS[i % len(_FILLERS)] for i in range(missing))])
