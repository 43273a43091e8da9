"""The shipped rules by name, and a rule as a concept.

RULES[name] -> score of a reply
RULES[name] + texts -> Concept (texts that obey, the same texts that do not)
"""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from steer_bench.concepts.concept import Concept
from steer_bench.concepts.rules import checks, rewrites
from steer_bench.concepts.rules.checks import Found, n_paragraphs, sentences_end_in, word
from steer_bench.concepts.rules.rewrites import append, end_sentences, first_sentences, join_sentences, mention, prepend
from steer_bench.concepts.rules.rule import Rule, is_blank
from steer_bench.concepts.rules.sentences import WORD, split_sentences
from steer_bench.names import hint

_START = "Once upon a time"
_END = "That is all there is to it."

_CASE_AND_LETTERS = (
    Rule("all-capitals", "every letter is a capital", lambda text: text == text.upper() != text.lower(), str.upper),
    Rule("all-lower-case", "no letter is a capital", lambda text: text == text.lower() != text.upper(), str.lower),
    Rule("capitalised-words", "every word starts with a capital", checks.is_capitalised, rewrites.capitalise),
    Rule("last-letter-d", "the last letter of the reply is d", checks.ends_in_d, append(" The end.")),
    Rule(
        "no-commas", "there is no comma", Found(checks.COMMA, forbidden=True), lambda text: checks.COMMA.sub("", text)
    ),
    Rule("no-the", 'the word "the" does not occur', Found(checks.THE, forbidden=True), rewrites.drop_the),
)

_SENTENCES = (
    Rule(
        "exclamation", "every sentence ends with an exclamation mark",
        lambda reply: sentences_end_in(reply, "!！"), end_sentences("!"), per_sentence=True,
    ),
    Rule(
        "question", "every sentence is a question",
        lambda reply: sentences_end_in(reply, "?？"), end_sentences(", don't you think?"), per_sentence=True,
    ),
    Rule(
        "final-question", "the last sentence is a question",
        lambda reply: sentences_end_in("".join(split_sentences(reply)[-1:]), "?？"),
        append("\nWhat do you think about it?"),
    ),
    Rule(
        "one-sentence", "the reply is one sentence",
        lambda reply: len(split_sentences(reply)) == 1, lambda text: first_sentences(text, 1),
    ),
    Rule(
        "three-sentences", "the reply has exactly three sentences",
        lambda reply: len(split_sentences(reply)) == 3, lambda text: first_sentences(text, 3),
    ),
    Rule(
        "double-breaks", "an empty line stands between any two sentences",
        checks.has_double_breaks, join_sentences("\n\n"),
    ),
    Rule(
        "separator", "a line of dashes, asterisks or the like separates parts of the reply",
        Found(checks.SEPARATOR), join_sentences("\n\n---\n\n"),
    ),
    Rule(
        "two-paragraphs", "the reply has exactly two paragraphs",
        lambda reply: n_paragraphs(reply) == 2, rewrites.two_paragraphs,
    ),
    Rule(
        "at-most-50-words", "the reply has at most 50 words",
        lambda reply: 1 <= len(WORD.findall(reply)) <= 50, lambda text: rewrites.first_words(text, 50),
    ),
    Rule("at-least-100-words", "the reply has at least 100 words", lambda reply: len(WORD.findall(reply)) >= 100),
)  # fmt: skip

_FORMATS = (
    Rule(
        "numbered-list", "there is a list numbered 1., 2., and so on",
        checks.is_numbered, lambda text: rewrites.list_sentences(text, "{n}. "),
    ),
    Rule(
        "bullet-list", "there is a list with bullets",
        Found(checks.BULLET, least=2), lambda text: rewrites.list_sentences(text, "- "),
    ),
    Rule("code-block", "there is a fenced code block", Found(checks.CODE_BLOCK), rewrites.wrap_code),
    Rule(
        "json", "the whole reply is a JSON object or array",
        checks.is_json, lambda text: json.dumps({"answer": text}, ensure_ascii=False),
    ),
    Rule("table", "there is a Markdown table", Found(checks.TABLE), rewrites.tabulate),
    Rule(
        "tagged", "one pair of tags like <answer> and </answer> goes round the whole reply",
        Found(checks.TAGGED), lambda text: f"<answer>\n{text.strip()}\n</answer>",
    ),
    Rule("bold", "there are words in bold", Found(checks.BOLD), rewrites.embolden),
    Rule("heading", "the reply starts with a Markdown heading", Found(checks.HEADING), prepend("# Answer\n\n")),
    Rule(
        "title", "there is a title in double angular brackets like <<An answer>>",
        Found(checks.TITLE), prepend("<<An answer>>\n\n"),
    ),
    Rule(
        "quotation", "one pair of double quotation marks goes round the whole reply",
        checks.is_quoted, rewrites.wrap_quotes,
    ),
    Rule("quoted-words", "there are words in double quotation marks", Found(checks.QUOTED), rewrites.quote_words),
)  # fmt: skip

_CONTENT = (
    Rule("keyword-ocean", 'the word "ocean" occurs', Found(word("ocean")), mention(", like the ocean")),
    Rule(
        "three-times-light", 'the word "light" occurs at least three times',
        Found(word("light"), least=3), mention(" in this light", least=3),
    ),
    Rule(
        "start-phrase", f'the reply starts with "{_START}"',
        lambda reply: checks.starts_with(reply, _START), prepend(f"{_START}, "),
    ),
    Rule(
        "end-phrase", f'the reply ends with "{_END}"',
        lambda reply: checks.ends_with(reply, _END), append(f"\n{_END}"),
    ),
    Rule(
        "postscript", "there is a postscript that starts with P.S.",
        Found(checks.POSTSCRIPT), append("\n\nP.S. There is more to say about this another time."),
    ),
    Rule(
        "emoji", "there is an emoji",
        Found(checks.EMOJI), lambda text: rewrites.follow_sentences(text, "😊🌟🎉👍🚀"),
    ),
    Rule("hashtags", "there are at least two hashtags", Found(checks.HASHTAG, least=2), rewrites.add_hashtags),
    Rule(
        "citation", "a source is cited with its URL",
        Found(checks.CITATION), append(" [1]\n\n[1] https://www.example.org/encyclopedia"),
    ),
    Rule("phone-number", "there is a phone number", Found(checks.PHONE), append("\nFor more, call +1 555-010-0199.")),
    Rule("email", "there is an e-mail address", Found(checks.EMAIL), append("\nFor more, write to hello@example.org.")),
    Rule("date", "there is a date with day and month", Found(checks.DATE), prepend("14 March 2024\n\n")),
)  # fmt: skip

RULES: Mapping[str, Rule] = MappingProxyType(
    {rule.name: rule for rule in (*_CASE_AND_LETTERS, *_SENTENCES, *_FORMATS, *_CONTENT)}
)
"""The shipped rules by name; `rules_of` adds an experiment's own."""


def named_rule(name: str, rules: Mapping[str, Rule] = RULES) -> Rule:
    """Return the rule of that name. Raises ValueError with the nearest name where there is none.

    >>> named_rule("emojis")
    Traceback (most recent call last):
    ValueError: no rule named 'emojis'; did you mean 'emoji'?
    """
    if name in rules:
        return rules[name]
    raise ValueError(f"no rule named {name!r}; {hint(name, rules)}")


def rule_concept(rule: Rule, texts: Sequence[str], *, kind: str = "rule") -> Concept:
    """Return the rule as a concept: positives are the texts rewritten to obey, negatives the same texts unchanged.

    A text that obeys as it stands, or whose rewrite equals that of another text, shows no contrast and is left out of
    both. `kind` is "rule", or "suppress" for a concept whose vector is subtracted. Raises ValueError where the rule has no
    rewrite, the rewrite does not obey, or no text breaks the rule.

    >>> rule_concept(RULES["all-capitals"], ["Cats purr.", "DOGS BARK."]).positives
    ('CATS PURR.',)
    """
    if rule.rewrite is None:
        able = ", ".join(other.name for other in RULES.values() if other.rewrite)
        raise ValueError(f"rule {rule.name!r} has no rewrite to make texts obey it; rules that have one: {able}")
    pairs: dict[str, str] = {}
    for text in dict.fromkeys(texts):
        if is_blank(text) or rule.score(text) in (1.0, None):
            continue
        rewritten = rule.rewrite(text)
        if rule.score(rewritten) != 1.0:
            raise ValueError(f"the rewrite of rule {rule.name!r} does not make this text obey it: {text[:80]!r}")
        pairs.setdefault(rewritten, text)
    if not pairs:
        raise ValueError(f"none of the {len(texts)} texts breaks rule {rule.name!r}; give texts that do not obey it")
    return Concept(
        id=f"{kind}-{rule.name}",
        description=rule.description,
        genre="text",
        positives=tuple(pairs),
        negatives=tuple(pairs.values()),
        kind=kind,
        rule=rule.name,
    )
