"""Rewrites: functions that make a text obey a rule, so that a rule has texts like any concept.

    text -> [rewrite] -> text that passes the rule's check

Each keeps the text's own words where it can, so that the pair differs in the rule and little else.
"""

import re
from collections.abc import Callable, Sequence
from itertools import cycle

from steer_bench.concepts.rules.checks import BOLD, THE
from steer_bench.concepts.rules.sentences import (
    CLOSERS,
    WORD,
    map_sentences,
    pad_sentences,
    sentence_spans,
    split_sentences,
)

Rewrite = Callable[[str], str]

_TAIL = re.compile(rf"[.!?…。！？:;,]*([{re.escape(CLOSERS)}]*)[.!?…。！？:;,]*\Z")


def append(addition: str) -> Rewrite:
    """Put the addition after the text.

    >>> append(" The end.")("Cats purr. ")
    'Cats purr. The end.'
    """
    return lambda text: text.rstrip() + addition


def prepend(addition: str) -> Rewrite:
    """Put the addition before the text.

    >>> prepend("# Cats: ")("Cats purr.")
    '# Cats: Cats purr.'
    """
    return lambda text: addition + text.lstrip()


def capitalise(text: str) -> str:
    """Start every word with a capital.

    >>> capitalise("don't wake 3 cats")
    "Don't Wake 3 Cats"
    """
    return WORD.sub(lambda word: word[0][0].upper() + word[0][1:], text)


def drop_the(text: str) -> str:
    """Remove the word "the"; sentences still start with a capital.

    >>> drop_the("The cat saw the dog.")
    'Cat saw dog.'
    """

    def shorten(sentence: str) -> str:
        shorter = re.sub(rf"{THE.pattern}\s*", "", sentence, flags=THE.flags)
        return shorter[:1].upper() + shorter[1:] if sentence[:1].isupper() else shorter

    return map_sentences(text, shorten)


def end_sentences(ending: str) -> Rewrite:
    """End every sentence with this ending in place of its mark.

    >>> end_sentences("!")('Cats purr. He said "no."')
    'Cats purr! He said "no!"'
    """

    def change(sentence: str) -> str:
        tail = _TAIL.search(sentence)
        if tail is None or sentence.rstrip(CLOSERS).endswith(ending[-1]):
            return sentence
        return sentence[: tail.start()] + ending + tail[1]

    return lambda text: map_sentences(text, change)


def follow_sentences(text: str, additions: Sequence[str]) -> str:
    """Put the next of the additions after every sentence, over and over.

    >>> follow_sentences("One. Two. Three.", ["😊", "🌟"])
    'One. 😊 Two. 🌟 Three. 😊'
    """
    turn = cycle(additions)
    return map_sentences(text, lambda sentence: f"{sentence} {next(turn)}")


def mention(phrase: str, least: int = 1) -> Rewrite:
    """Put the phrase before the mark of every sentence, of which there are then at least `least`.

    >>> mention(", like the ocean")("Cats purr.")
    'Cats purr, like the ocean.'
    """

    def change(sentence: str) -> str:
        tail = _TAIL.search(sentence)
        return sentence if tail is None else sentence[: tail.start()] + phrase + tail[0]

    return lambda text: map_sentences(pad_sentences(text, least), change)


def join_sentences(between: str) -> Rewrite:
    """Join the sentences, at least two, by `between`.

    >>> join_sentences(" / ")("One. Two.")
    'One. / Two.'
    """
    return lambda text: between.join(split_sentences(pad_sentences(text, 2)))


def list_sentences(text: str, marker: str) -> str:
    """Make a list of the sentences, at least two; `{n}` in the marker is the number.

    >>> list_sentences("One. Two.", "{n}. ")
    '1. One.\\n2. Two.'
    """
    sentences = split_sentences(pad_sentences(text, 2))
    return "\n".join(marker.format(n=n) + sentence for n, sentence in enumerate(sentences, start=1))


def first_sentences(text: str, count: int) -> str:
    """Keep the first sentences as they stand, filled up to the count.

    >>> first_sentences("One. Two. Three.", 2)
    'One. Two.'
    """
    padded = pad_sentences(text, count)
    return padded[: sentence_spans(padded)[count - 1][1]]


def first_words(text: str, most: int) -> str:
    """Keep as many first sentences as fit into `most` words; where not one fits, the first words.

    >>> first_words("One two. Three four five.", 4), first_words("One two three.", 2)
    ('One two.', 'One two.')
    """
    words = [match.end() for match in WORD.finditer(text)]
    if len(words) <= most:
        return text
    whole = [end for _, end in sentence_spans(text) if end <= words[most - 1] + 1 and text[:end].strip()]
    return text[: whole[-1]] if whole else text[: words[most - 1]] + "."


def two_paragraphs(text: str) -> str:
    """Put the sentences, at least two, into two paragraphs.

    >>> two_paragraphs("One. Two. Three.")
    'One. Two.\\n\\nThree.'
    """
    padded = pad_sentences(text, 2)
    spans = sentence_spans(padded)
    half = (len(spans) + 1) // 2
    parts = padded[: spans[half - 1][1]], padded[spans[half][0] :]
    return "\n\n".join(re.sub(r"\s*\n\s*\n\s*", "\n", part.strip()) for part in parts)


def wrap_code(text: str) -> str:
    """Put the text into a code block, with a fence longer than any in it.

    >>> wrap_code("x = 1")
    '```\\nx = 1\\n```'
    """
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{text.strip()}\n{fence}"


def wrap_quotes(text: str) -> str:
    """Put the text into double quotation marks; those inside become single.

    >>> wrap_quotes('Say "hi".')
    '"Say \\'hi\\'."'
    """
    return '"' + text.strip().replace('"', "'") + '"'


def quote_words(text: str) -> str:
    """Put the longest word of every sentence into double quotation marks.

    >>> quote_words("Cats purr gently.")
    'Cats purr "gently".'
    """

    def change(sentence: str) -> str:
        word = max(WORD.finditer(sentence), key=lambda match: len(match[0]))
        return f'{sentence[: word.start()]}"{word[0]}"{sentence[word.end() :]}'

    return map_sentences(text, change)


def embolden(text: str) -> str:
    """Set the first word of every sentence in bold, unless something in the sentence is.

    >>> embolden("Cats purr. Dogs bark.")
    '**Cats** purr. **Dogs** bark.'
    """
    return map_sentences(text, lambda s: s if BOLD.search(s) else re.sub(r"[^\W_]+", r"**\g<0>**", s, count=1))


def tabulate(text: str) -> str:
    """Make the sentences the rows of a Markdown table.

    >>> print(tabulate("One. Two."))
    | No. | Point |
    | --- | --- |
    | 1 | One. |
    | 2 | Two. |
    """
    rows = [f"| {n} | {s.replace('|', '/')} |" for n, s in enumerate(split_sentences(text), start=1)]
    return "\n".join(["| No. | Point |", "| --- | --- |", *rows])


def add_hashtags(text: str) -> str:
    """Put hashtags of the three longest words after the text, filled up where it has fewer.

    >>> add_hashtags("Cats purr gently.")
    'Cats purr gently.\\n\\n#gently #cats #purr'
    """
    words = dict.fromkeys(word.lower() for word in re.findall(r"[A-Za-z]{3,}", text))
    longest = sorted(words, key=len, reverse=True)[:3]
    return f"{text.rstrip()}\n\n" + " ".join(f"#{word}" for word in [*longest, "answer", "today"][:3])
