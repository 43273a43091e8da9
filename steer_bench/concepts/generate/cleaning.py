"""Cleaning: from a chat model's reply to one plain paragraph, or to the reason why it is none."""

import re
from collections import Counter
from typing import NamedTuple

_ASCII = {
    **{ord(fancy): plain for fancy, plain in zip("\u2018\u2019\u201c\u201d\u2013\u00a0", "''\"\"- ", strict=True)},
    **{ord("\u2014"): " - ", ord("\u2026"): "..."},
}
_REFUSAL = re.compile(
    r"\bas an? (ai|artificial|language model)|\blanguage model\b|\bI('m| am) (sorry|unable|an ai)\b|\bI (cannot|can't|can not) "
    r"(help|assist|write|provide|fulfil|generate|create)|\bknowledge cutoff\b",
    re.IGNORECASE,
)
_CHAT = re.compile(
    r"\b(let me know|feel free to|I hope this|hope this helps|would you like me|here's (a|an|the|my|your)|here is (a|an|the|my|your)"
    r"|\d+[- ]words?\b|this (passage|paragraph|article|essay|story|prompt)|the (user|prompt)\b|uncategorized|in conclusion|in summary"
    r"|(first|second|third) person\b|newcomer|(a|your|this|the) local newspaper report"
    r"|click here|https?:|www\.|copyright|rewritten|word count)",
    re.IGNORECASE,
)
_PREAMBLE = re.compile(
    r"^(sure|certainly|of course|okay|ok|absolutely|here('s| is| are)|below is|the following)\b[^\n]*?[:!]\s+", re.I
)
_LIST = re.compile(r"^\s*([-*+]\s|\d+[.)]\s|#|\||>|[A-Z][\w ]{0,30}:\s)")
_ENDS = re.compile(r"[.!?][\"')]*$")
_SENTENCE = re.compile(
    r"(?:(?<=[.!?])|(?<=[.!?][\"')]))(?<!\bMr\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bSt\.)(?<!\bMrs\.)(?<!\b[A-Z]\.)\s+(?=[\"'(]?[A-Z0-9])"
)


class Cleaned(NamedTuple):
    """A reply as a passage, or why it is none."""

    text: str
    reason: str
    """"" if kept; else empty, refusal, layout, chat, ascii, short, broken or loop."""


def clean(reply: str, *, words: tuple[int, int] = (25, 60)) -> Cleaned:
    """Cut a reply to its first whole sentences, at most words[1] words, in one ASCII paragraph without preamble or markdown.

    >>> clean("Sure! Here is a passage:\\n\\n**Gulls** cried over the quay. The boat", words=(3, 60))
    Cleaned(text='Gulls cried over the quay.', reason='')
    """
    text = reply.translate(_ASCII).strip()
    if not text:
        return Cleaned("", "empty")
    if _REFUSAL.search(text):
        return Cleaned("", "refusal")
    if "```" in text:
        return Cleaned("", "layout")
    lines = [
        line.strip()
        for line in re.sub(r"\*\*|__|(?<!\w)[*_](?=\w)|(?<=\w)[*_](?!\w)", "", text).split("\n")
        if line.strip()
    ]
    while lines and (stripped := _PREAMBLE.sub("", lines[0] + " ").strip()) != lines[0]:
        lines[:1] = [stripped] if stripped else []
    if len(lines) > 1 and not _ENDS.search(lines[0]):  # a title
        lines = lines[1:]
    kept = []
    for i, line in enumerate(lines):
        if _LIST.match(line) or (i < len(lines) - 1 and not _ENDS.search(line)):
            break
        kept.append(line)
    if not kept:
        return Cleaned("", "layout")
    sentences = _SENTENCE.split(" ".join(" ".join(kept).split()).strip())
    whole: list[str] = []
    for sentence in sentences:
        if not _ENDS.search(sentence) or sum(len(s.split()) for s in whole) + len(sentence.split()) > words[1]:
            break
        if _CHAT.search(sentence):
            if not whole:
                return Cleaned("", "chat")
            break
        whole.append(sentence)
    text = " ".join(whole)
    if text.count('"') == 2 and text.startswith('"') and text.endswith('"'):
        text = text.strip('"')
    return Cleaned(*_judged(text, words[0]))


def _judged(text: str, least: int) -> tuple[str, str]:
    if not text.isascii():
        return "", "ascii"
    if len(text.split()) < least:
        return "", "short"
    brackets = text.count('"') % 2 or text.count("(") != text.count(")") or re.search(r"[\[{<_|\\^~]|\w\.{3}\w", text)
    if brackets or not re.match(r"[\"'(]?[A-Z0-9]", text):
        return "", "broken"
    return ("", "loop") if loops(text) else (text, "")


def loops(text: str) -> bool:
    """Return whether the text repeats itself.

    That is a sentence twice, "X and X", three sentences of one start, a long word too often, or a tenth of the word
    triples seen before.
    """
    words = re.findall(r"[a-z0-9']+", text.lower())
    sentences = [sentence.lower() for sentence in _SENTENCE.split(text)]
    triples = list(zip(words, words[1:], words[2:], strict=False))
    starts = Counter(" ".join(sentence.split()[:2]) for sentence in sentences)
    return (
        len(set(sentences)) < len(sentences)
        or max(starts.values(), default=0) > 2
        or re.search(r"\b(\w{3,})(,? and| or|,|)( an?| the|) \1\b", text.lower()) is not None
        or len(set(triples)) < 0.9 * len(triples)
        or any(count > max(3, 0.09 * len(words)) for word, count in Counter(words).items() if len(word) > 4)
    )


def stem(word: str) -> str:
    """Strip the commonest English endings off a word: "cooking", "cooks" and "cook" become one."""
    word = word.lower().removesuffix("'s")
    for ending in ("ing", "ers", "er", "ies", "es", "ed", "s", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word


_PLAIN = frozenset({"about", "and", "are", "for", "from", "into", "its", "such", "that", "the", "their", "with"})


def keyword_overlap(text: str, concept: str) -> bool:
    """Return whether a word of the concept's description, whatever its ending, stands in the text."""
    wanted = {stem(word) for word in re.findall(r"\w+", concept) if len(word) > 2 and word.lower() not in _PLAIN}
    return bool(wanted & {stem(word) for word in re.findall(r"\w+", text)})
