"""The shipped rules by name, and a rule as a concept.

RULES[name] -> score of a reply
RULES[name] + texts -> Concept (texts that obey, the same texts that do not)
"""

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType

from steer_bench.concepts.concept import Concept
from steer_bench.concepts.rules import checks, rewrites
from steer_bench.concepts.rules.checks import contains
from steer_bench.concepts.rules.rewrites import append, prepend
from steer_bench.concepts.rules.rule import Rule, is_blank
from steer_bench.names import hint

_START = "Once upon a time"
_END = "That is all there is to it."
_EMOJI = ("😊", "🌟", "🎉", "👍", "🚀")

_CASE_AND_LETTERS = (
    Rule("all-capitals", "every letter is a capital", checks.is_upper, str.upper),
    Rule("all-lower-case", "no letter is a capital", checks.is_lower, str.lower),
    Rule("capitalised-words", "every word starts with a capital", checks.is_capitalised, rewrites.capitalise),
    Rule(
        "last-letter-d",
        "the last letter of the reply is d",
        partial(checks.has_last_letter, letter="d"),
        partial(append, addition=" The end."),
    ),
    Rule("no-commas", "there is no comma", partial(checks.lacks, pattern=checks.COMMA), rewrites.drop_commas),
    Rule("no-the", 'the word "the" does not occur', partial(checks.lacks, pattern=checks.THE), rewrites.drop_the),
)

_SENTENCES = (
    Rule(
        "exclamation",
        "every sentence ends with an exclamation mark",
        partial(checks.sentences_end_in, marks="!！"),
        partial(rewrites.end_sentences, ending="!"),
        per_sentence=True,
    ),
    Rule(
        "question",
        "every sentence is a question",
        partial(checks.sentences_end_in, marks="?？"),
        partial(rewrites.end_sentences, ending=", don't you think?"),
        per_sentence=True,
    ),
    Rule(
        "final-question",
        "the last sentence is a question",
        partial(checks.last_sentence_ends_in, marks="?？"),
        partial(append, addition="\nWhat do you think about it?"),
    ),
    Rule(
        "one-sentence",
        "the reply is one sentence",
        partial(checks.has_sentences, count=1),
        partial(rewrites.first_sentences, count=1),
    ),
    Rule(
        "three-sentences",
        "the reply has exactly three sentences",
        partial(checks.has_sentences, count=3),
        partial(rewrites.first_sentences, count=3),
    ),
    Rule(
        "double-breaks",
        "an empty line stands between any two sentences",
        checks.has_double_breaks,
        partial(rewrites.join_sentences, between="\n\n"),
    ),
    Rule(
        "separator",
        "a line of dashes, asterisks or the like separates parts of the reply",
        partial(contains, pattern=checks.SEPARATOR),
        partial(rewrites.join_sentences, between="\n\n---\n\n"),
    ),
    Rule(
        "two-paragraphs",
        "the reply has exactly two paragraphs",
        partial(checks.has_paragraphs, count=2),
        rewrites.two_paragraphs,
    ),
    Rule(
        "at-most-50-words",
        "the reply has at most 50 words",
        partial(checks.has_words, most=50),
        partial(rewrites.first_words, most=50),
    ),
    Rule("at-least-100-words", "the reply has at least 100 words", partial(checks.has_words, least=100)),
)

_FORMATS = (
    Rule(
        "numbered-list",
        "there is a list numbered 1., 2., and so on",
        checks.is_numbered,
        partial(rewrites.list_sentences, marker="{n}. "),
    ),
    Rule(
        "bullet-list",
        "there is a list with bullets",
        partial(contains, pattern=checks.BULLET, least=2),
        partial(rewrites.list_sentences, marker="- "),
    ),
    Rule(
        "code-block", "there is a fenced code block", partial(contains, pattern=checks.CODE_BLOCK), rewrites.wrap_code
    ),
    Rule("json", "the whole reply is a JSON object or array", checks.is_json, rewrites.wrap_json),
    Rule("table", "there is a Markdown table", partial(contains, pattern=checks.TABLE), rewrites.tabulate),
    Rule(
        "tagged",
        "one pair of tags like <answer> and </answer> goes round the whole reply",
        partial(contains, pattern=checks.TAGGED),
        rewrites.wrap_tag,
    ),
    Rule("bold", "there are words in bold", partial(contains, pattern=checks.BOLD), rewrites.embolden),
    Rule(
        "heading",
        "the reply starts with a Markdown heading",
        partial(contains, pattern=checks.HEADING),
        partial(prepend, addition="# Answer\n\n"),
    ),
    Rule(
        "title",
        "there is a title in double angular brackets like <<An answer>>",
        partial(contains, pattern=checks.TITLE),
        partial(prepend, addition="<<An answer>>\n\n"),
    ),
    Rule(
        "quotation",
        "one pair of double quotation marks goes round the whole reply",
        checks.is_quoted,
        rewrites.wrap_quotes,
    ),
    Rule(
        "quoted-words",
        "there are words in double quotation marks",
        partial(contains, pattern=checks.QUOTED),
        rewrites.quote_words,
    ),
)

_CONTENT = (
    Rule(
        "keyword-ocean",
        'the word "ocean" occurs',
        partial(checks.has_word, word="ocean"),
        partial(rewrites.mention, phrase=", like the ocean"),
    ),
    Rule(
        "three-times-light",
        'the word "light" occurs at least three times',
        partial(checks.has_word, word="light", least=3),
        partial(rewrites.mention, phrase=" in this light", least=3),
    ),
    Rule(
        "start-phrase",
        f'the reply starts with "{_START}"',
        partial(checks.starts_with, phrase=_START),
        partial(prepend, addition=f"{_START}, "),
    ),
    Rule(
        "end-phrase",
        f'the reply ends with "{_END}"',
        partial(checks.ends_with, phrase=_END),
        partial(append, addition=f"\n{_END}"),
    ),
    Rule(
        "postscript",
        "there is a postscript that starts with P.S.",
        partial(contains, pattern=checks.POSTSCRIPT),
        partial(append, addition="\n\nP.S. There is more to say about this another time."),
    ),
    Rule(
        "emoji",
        "there is an emoji",
        partial(contains, pattern=checks.EMOJI),
        partial(rewrites.follow_sentences, additions=_EMOJI),
    ),
    Rule(
        "hashtags",
        "there are at least two hashtags",
        partial(contains, pattern=checks.HASHTAG, least=2),
        rewrites.add_hashtags,
    ),
    Rule(
        "citation",
        "a source is cited with its URL",
        partial(contains, pattern=checks.CITATION),
        partial(append, addition=" [1]\n\n[1] https://www.example.org/encyclopedia"),
    ),
    Rule(
        "phone-number",
        "there is a phone number",
        partial(contains, pattern=checks.PHONE),
        partial(append, addition="\nFor more, call +1 555-010-0199."),
    ),
    Rule(
        "email",
        "there is an e-mail address",
        partial(contains, pattern=checks.EMAIL),
        partial(append, addition="\nFor more, write to hello@example.org."),
    ),
    Rule(
        "date",
        "there is a date with day and month",
        partial(contains, pattern=checks.DATE),
        partial(prepend, addition="14 March 2024\n\n"),
    ),
)

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
