"""Rules: every check on texts written for it, every rewrite on passages, and the traps of other rule judges."""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steer_bench.concepts.rules.declared import declared_rule
from steer_bench.concepts.rules.ifeval import ifeval_ids, ifeval_rule
from steer_bench.concepts.rules.rule import Rule, strip_special_tokens
from steer_bench.concepts.rules.sentences import map_sentences, pad_sentences, split_sentences
from steer_bench.concepts.rules.table import RULES, add_rule, check_rule, check_suppressed, rule_concept, rule_names

AXBENCH = Path(__file__).parents[4] / "shared" / "axbench"

# rule: (texts that obey, texts that do not)
CASES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "all-capitals": (
        ("CATS PURR.", "IN 1969, MEN WALKED ON THE MOON!", "ÜBER ALLE BERGE"),
        ("Cats purr.", "CATS PURR, says she.", "1969"),
    ),
    "all-lower-case": (
        ("cats purr.", "in 1969, men walked on the moon!", "über alle berge"),
        ("Cats purr.", "cats purr, says Amy.", "1969"),
    ),
    "capitalised-words": (
        ("Cats Purr", "The 3 Wise Men Aren't Here", "A Well-known Book"),
        ("Cats purr", "the Cats", "1969"),
    ),
    "last-letter-d": (
        ("We are glad.", "THE END", "It is good! (2)"),
        ("We are happy.", "1969", "Good day"),
    ),
    "no-commas": (
        ("Cats and dogs.", "1000 mice; no more.", "Yes"),
        ("Cats, dogs.", "1,000 mice", "猫、犬"),
    ),
    "no-the": (
        ("Cats purr.", "Then they went.", "A theory of other things"),
        ("The cat", "over THE hill", "She saw the."),
    ),
    "exclamation": (
        ("Yes!", 'Great! He said "wow!" **Good!**', "One!\n\n- two!\n- three!"),
        ("Yes.", "Great! Good.", "Really!? Why?"),
    ),
    "question": (
        ("Why?", 'Who is it? "You?"', "どうして？何？"),
        ("Because.", "Why? Because.", "Title\nWhy?"),
    ),
    "final-question": (
        ("I like it. Do you?", "Why?", 'He asked: "Why?"'),
        ("Why? I do not know.", "Yes.", "Who knows? Me!"),
    ),
    "one-sentence": (
        ("Cats purr.", "Dr. Lee paid 3.50 for it.", "A title without a mark"),
        ("Cats purr. Dogs bark.", "One\nTwo", "Why? Because."),
    ),
    "three-sentences": (
        ("One. Two. Three.", "Yes! No? Well...", "- a\n- b\n- c"),
        ("One. Two.", "One. Two. Three. Four.", "one, two, three"),
    ),
    "double-breaks": (
        ("One.\n\nTwo.", "One.\n\nTwo.\n\n\nThree!", "- One.\n \n- Two."),
        ("One. Two.", "One.\nTwo.", "One.\n\nTwo. Three."),
    ),
    "separator": (
        ("One.\n\n---\n\nTwo.", "One.\n*****\nTwo.", "One.\n  ====  \nTwo."),
        ("One -- two.", "One.\n\nTwo.", "| a |\n| --- |\n| b |"),
    ),
    "two-paragraphs": (
        ("One.\n\nTwo.", "One. One.\n \nTwo.", "One.\n\n\n\nTwo."),
        ("One.\nTwo.", "One.", "One.\n\nTwo.\n\nThree."),
    ),
    "at-most-50-words": (
        ("Yes.", "word " * 50, "don't " * 50),
        ("word " * 51, "one, two; " * 26, "no\n" * 80),
    ),
    "at-least-100-words": (
        ("word " * 100, "one, two; " * 50, "no\n" * 140),
        ("Yes.", "word " * 99, "don't " * 60),
    ),
    "numbered-list": (
        ("1. tea\n2. milk", "You need:\n\n1) tea\n2) milk\n3) sugar", "**1.** tea\n\n**2.** milk"),
        ("1. tea", "- tea\n- milk", "2. tea\n3. milk"),
    ),
    "bullet-list": (
        ("- tea\n- milk", "You need:\n* tea\n* milk", "  • tea\n  • milk"),
        ("- tea", "tea - milk - sugar", "---\n---"),
    ),
    "code-block": (
        ("```\nx = 1\n```", "So:\n\n```python\nx = 1\n```\nDone.", "````\n```\n````"),
        ("x = 1", "`x = 1`", "```\n\n```"),
    ),
    "json": (
        ('{"a": 1}', "[1, 2, 3]", '```json\n{"a": {"b": null}}\n```'),
        ("Cats purr.", '{"a": 1', "42"),
    ),
    "table": (
        ("| a | b |\n| --- | --- |\n| 1 | 2 |", "See:\n\n| a |\n|:---:|\n| 1 |\n", "|a|\n|----|\n|1|\n|2|"),
        ("a | b", "| a | b |\n| 1 | 2 |", "| a |\n| --- |"),
    ),
    "tagged": (
        ("<answer>Yes.</answer>", "<p>\nOne.\nTwo.\n</p>", '<div class="x">Yes</div>'),
        ("Yes.", "<answer>Yes.", "So: <b>yes</b>"),
    ),
    "bold": (
        ("**Cats** purr.", "They **really do** purr.", "* **Cats:** purr"),
        ("Cats purr.", "*Cats* purr.", "2 ** 3 ** 4"),
    ),
    "heading": (
        ("# Cats\nThey purr.", "## Cats", "###### Cats and dogs\n\nBark."),
        ("Cats", "#cats", "They purr.\n# Cats"),
    ),
    "title": (
        ("<<Cats>>\nThey purr.", "Here: <<A poem of joy>>", "<<1984>>"),
        ("<Cats>", "cout << x >> y", "<<>>"),
    ),
    "quotation": (
        ('"Cats purr."', "“Cats purr.”", "\"He said 'no'.\""),
        ("Cats purr.", '"No" is not "yes"', '"Cats'),
    ),
    "quoted-words": (
        ('A "cat" purrs.', "A “big cat” purrs.", '"Yes," she said.'),
        ("A 'cat' purrs.", 'It is 5" long.', '" "'),
    ),
    "keyword-ocean": (
        ("The ocean is deep.", "OCEAN", "Five oceans, one world."),
        ("The sea is deep.", "Oceanic air", "o c e a n"),
    ),
    "three-times-light": (
        ("Light, light and light.", "Lights on. A light. Light!", "light\nlight\nlight\nlight"),
        ("Light and light.", "Lighter, lightest, lightning, daylight", "Dark."),
    ),
    "start-phrase": (
        ("Once upon a time there was a cat.", "**Once upon a time**, it rained.", '"once upon a time'),
        ("There was once a cat.", "It was, once upon a time, so.", "Once"),
    ),
    "end-phrase": (
        ("Cats purr. That is all there is to it.", "that is all there is to it!", "So **that is all there is to it.**"),
        ("That is all there is to it. Or not.", "Cats purr.", "That is all."),
    ),
    "postscript": (
        ("Yes.\n\nP.S. Write soon.", "Yes.\nPS: Write soon.", "Yes.\n\n**P.P.S.** Do!"),
        ("Yes.", "P.S. is how it starts.", "Yes.\nThe PS is nothing\n"),
    ),
    "emoji": (
        ("Yes 😊", "❤️", "Done ✅ and 🇫🇷"),
        ("Yes :-)", "a → b ✓", "5 # *"),
    ),
    "hashtags": (
        ("#cats #dogs", "I love #cats, and #big_dogs!", "Yes.\n\n#one\n#two"),
        ("#cats", "# One\n# Two", "#include <a>\n#include <b>"),
    ),
    "citation": (
        ("See [here](https://example.org/a).", "So [1].\n\n[1] https://example.org/a", "Source: https://example.org/a"),
        ("See [1].", "https://example.org/a", "See [here](there)."),
    ),
    "phone-number": (
        ("Call 555-010-0199.", "+44 20 7946 0958", "(212) 555-0199 or 020 7946 0958"),
        ("Call me.", "2024-03-14", "100-2000 people, 1990 2000 2010"),
    ),
    "email": (
        ("amy@example.org", "Write to a.b+c@mail.example.co.uk!", "<X_1@EXAMPLE.COM>"),
        ("amy at example.org", "@amy", "a@b"),
    ),
    "date": (
        ("14 March 2024", "On March 3rd, it rained.", "2024-03-14 or 14.03.2024 or 3/14/2024"),
        ("March 2024", "2024-13-14", "It may 5 be."),
    ),
    "language-en": (
        (
            "The weather is nice today and we will walk to the lake.",
            "SHE READS BOOKS IN THE EVENING.",
            "Where are the keys?",
        ),
        ("Das Wetter ist heute schön.", "Il fait beau aujourd'hui.", "안녕하세요, 만나서 반갑습니다."),
    ),
    "language-fr": (
        ("Il fait beau aujourd'hui et nous allons au lac.", "Où est la bibliothèque ?", "JE NE SAIS PAS POURQUOI."),
        ("The weather is nice today.", "Das Wetter ist heute schön.", "Hace buen tiempo hoy en Madrid."),
    ),
    "language-de": (
        (
            "Das Wetter ist heute schön.",
            "Können Sie mir bitte sagen, wo die Bibliothek ist?",
            "ICH WEISS NICHT, WARUM DAS SO IST.",
        ),
        ("The weather is nice today.", "Il fait beau aujourd'hui.", "Hace buen tiempo hoy en Madrid."),
    ),
    "language-es": (
        (
            "Hace buen tiempo hoy en Madrid.",
            "¿Dónde está la biblioteca?",
            "NO SÉ POR QUÉ NO QUIERE VENIR A LA PLAYA CON NOSOTROS.",
        ),
        ("The weather is nice today.", "Il fait beau aujourd'hui.", "Das Wetter ist heute schön."),
    ),
    "language-it": (
        (
            "Oggi il tempo è bello e andiamo al lago.",
            "Dove sono le chiavi della macchina?",
            "NON SO PERCHÉ NON VUOLE VENIRE.",
        ),
        ("The weather is nice today.", "Il fait beau aujourd'hui.", "Das Wetter ist heute schön."),
    ),
    "script-arabic": (
        ("مرحبا بالعالم", "الطقس جميل اليوم، أليس كذلك؟", "نعم! 1969"),
        ("Hello", "Marhaba, مرحبا", "שלום עולם"),
    ),
    "script-chinese": (
        ("你好，世界。", "今天天气很好，我们去湖边。", "我爱 AI 和编程语言研究工作"),
        ("Hello", "ni hao 你好", "こんにちは、元気ですか。"),
    ),
    "script-greek": (
        ("Καλημέρα κόσμε", "Ο καιρός είναι καλός σήμερα.", "Ναι! 1969"),
        ("Hello", "π is a number", "Привет мир"),
    ),
    "script-hindi": (
        ("नमस्ते दुनिया", "आज मौसम अच्छा है।", "हाँ! 1969"),
        ("Hello", "Namaste, नमस्ते", "হ্যালো"),
    ),
    "script-japanese": (
        ("こんにちは、元気ですか。", "今日は天気がいいですね。", "カメラとテレビ"),
        ("Hello", "你好，世界。", "Konnichiwa, こん"),
    ),
    "script-korean": (
        ("안녕하세요.", "오늘 날씨가 참 좋네요! 1969", "저는 서울에 사는 Kim입니다. 반갑습니다."),
        ("Hello", "Annyeong, 안녕", "こんにちは"),
    ),
    "script-russian": (
        ("Привет, мир.", "Сегодня хорошая погода!", "Да, 1969"),
        ("Hello", "Privet, мир", "Καλημέρα κόσμε"),
    ),
}
ROWS = [
    (rule, text, score)
    for rule, sides in CASES.items()
    for texts, score in zip(sides, (1.0, 0.0), strict=True)
    for text in texts
]
REWRITABLE = [name for name, rule in RULES.items() if rule.rewrite]

PASSAGES = (
    "The ship left the harbour at dawn. By noon, the wind had turned, and the crew took in the sails. Nobody spoke.",
    "Certainly! Here are some ideas:\n\n* **Walk more:** It helps, a lot.\n* **Sleep well.**\n\nDo you want more?",
    "1. Boil the water.\n2. Add the tea; wait 3.5 minutes.\n3. Serve.",
    "Cats purr",
    'Dr. Lee said, "Come in." She did. "Why?" he asked... It was 5 p.m. by then, i.e. too late.',
    "# Title\n\nSome text, with the code:\n\n```python\nprint('hi')\n```\n\nThat is it.",
    "A table:\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\nSee the [page](https://example.org).",
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it "
    "was the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the season of "
    "Darkness, it was the spring of hope, it was the winter of despair.",
    "One paragraph.\r\n\r\nAnother one! And a third sentence, at last?\n\n\n\nThe end is near, etc. Bye.",
    "Great 😊 news! Mr. Fox, Jr. won the U.S. Open. 🎉",
)


@pytest.mark.parametrize(("rule", "text", "score"), ROWS)
def test_check(rule: str, text: str, score: float) -> None:
    assert check_rule(rule, text) == score


def test_every_rule_has_three_texts_that_obey_and_three_that_do_not() -> None:
    assert list(CASES) == rule_names()
    assert len(RULES) >= 30
    assert all(len(set(texts)) >= 3 for sides in CASES.values() for texts in sides)


@pytest.mark.parametrize("rule", rule_names())
@pytest.mark.parametrize("reply", ["", " \n\t", "<end_of_turn>", " <|im_end|>\n<eos>", "\u200b\ufeff"])
def test_an_empty_reply_is_never_a_pass(rule: str, reply: str) -> None:
    assert check_rule(rule, reply) == 0.0
    assert check_suppressed(rule, reply) == 0.0


@pytest.mark.parametrize(("rule", "text", "score"), ROWS)
def test_special_tokens_at_the_end_change_no_score(rule: str, text: str, score: float) -> None:
    for tokens in ("<end_of_turn>", "<|im_end|>\n", " <eos><eos>", "</s>", "<end_of_turn>\n<eos>"):
        assert check_rule(rule, text + tokens) == score


@pytest.mark.parametrize("name", rule_names())
def test_check_alone_returns_a_score_for_any_text_with_something_to_see(name: str) -> None:
    for text in (*PASSAGES, "...", "!", "**", "\n---\n", "{", "[" * 100_000, "é", "1", "<", '"', "ß", "ŉ"):
        assert check_rule(name, text) in (0.0, 1.0, None)


def test_scores_are_the_same_on_every_call() -> None:
    undecided = (
        "Hotel taxi radio"  # langdetect's answer for such a text changes from call to call when it is not seeded
    )
    assert len({check_rule("language-it", undecided) for _ in range(10)}) == 1


@pytest.mark.parametrize("rule", [name for name in RULES if name.startswith(("language", "script"))])
def test_undetectable_language_is_unscored(rule: str) -> None:
    assert check_rule(rule, "2 + 2 = 4!") is None
    assert check_suppressed(rule, "2 + 2 = 4!") is None


@pytest.mark.parametrize("name", REWRITABLE)
def test_rewritten_passages_obey(name: str) -> None:
    rewrite = RULES[name].rewrite
    assert rewrite is not None
    for passage in PASSAGES:
        assert check_rule(name, rewrite(passage)) == 1.0, rewrite(passage)


TOKENS = [
    "the",
    "cat,",
    "Dr.",
    "3.5",
    '"so"',
    "don't",
    "**big**",
    "e.g.",
    "(very)",
    "U.S.",
    "light;",
    "naïve",
    "🎉",
    "a*",
    "x_y",
]
SENTENCE = st.builds(
    lambda words, mark: " ".join(["Well", *words]) + mark,
    st.lists(st.sampled_from(TOKENS), max_size=12),
    st.sampled_from([".", "!", "?", "...", ":", '."', "", "!!"]),
)
GAP = st.sampled_from([" ", "\n", "\n\n", "\n* ", "\n\n1. ", "\n\n---\n\n", "\n# "])
TEXT = st.builds(
    lambda first, rest: first + "".join(gap + sentence for gap, sentence in rest),
    SENTENCE,
    st.lists(st.tuples(GAP, SENTENCE), max_size=8),
)


@settings(max_examples=150, deadline=None)
@given(text=TEXT)
def test_rewritten_texts_obey(text: str) -> None:
    for name in REWRITABLE:
        rewrite = RULES[name].rewrite
        assert rewrite is not None
        assert check_rule(name, rewrite(text)) == 1.0, (name, rewrite(text))


def test_rewritten_real_replies_obey() -> None:
    replies = _real_replies()
    for name in REWRITABLE:
        rewrite = RULES[name].rewrite
        assert rewrite is not None
        assert [reply for reply in replies if check_rule(name, rewrite(reply)) != 1.0] == [], name


def test_real_replies_seldom_obey_unasked() -> None:
    """A rule that plain replies follow anyway measures nothing: all but English stay under half."""
    replies = _real_replies()
    for name in rule_names():
        share = sum(check_rule(name, reply) == 1.0 for reply in replies[::10]) / len(replies[::10])
        assert (share > 0.9) if name == "language-en" else (share < 0.5), (name, share)


def _real_replies() -> list[str]:
    if not AXBENCH.exists():
        pytest.skip(f"AxBench's data is not in {AXBENCH}")
    import pandas as pd

    data = pd.read_parquet(AXBENCH / "concept10" / "prod_2b_l10_v1" / "train_data.parquet")
    return list(dict.fromkeys(data.loc[data.concept_genre == "text", "output"]))


REAL = [
    json.loads(line) for line in (Path(__file__).parents[2] / "files" / "real_replies.jsonl").read_text().splitlines()
]
"""Replies of the two offline models, greedy, as they were given: plain ones, and ones after examples that obey."""


@pytest.mark.parametrize("given", REAL, ids=lambda given: f"{given['rule']}-{given['obeys']}")
def test_a_real_reply_is_checked(given: dict) -> None:
    assert check_rule(given["rule"], given["reply"]) == float(given["obeys"])


def test_every_rule_has_a_real_reply_that_obeys_and_one_that_does_not() -> None:
    assert sorted((given["rule"], given["obeys"]) for given in REAL) == sorted(
        (rule, obeys) for rule in rule_names() for obeys in (True, False)
    )


# --- replies that were cut -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "reply", "whole", "cut"),
    [
        ("exclamation", "Great! So good! And then we", 0.0, 1.0),
        ("exclamation", "Great. So good! And then we", 0.0, 0.0),
        ("exclamation", "And then we", 0.0, 0.0),
        ("question", "Why? Who is it? It is", 0.0, 1.0),
        ("question", "Why? It is. And", 0.0, 0.0),
        ("one-sentence", "One. And then", 0.0, 0.0),
        ("all-lower-case", "one. and Then", 0.0, 0.0),
    ],
)
def test_a_cut_reply_is_not_failed_for_its_unfinished_sentence(rule: str, reply: str, whole: float, cut: float) -> None:
    assert (check_rule(rule, reply), check_rule(rule, reply, cut=True)) == (whole, cut)
    assert check_suppressed(rule, reply, cut=True) == 1 - cut


# --- declared rules --------------------------------------------------------------------------------------------------


def test_a_declared_rule_is_equal_to_itself_declared_again_and_makes_texts_obey() -> None:
    given = {
        "name": "cheers-2",
        "description": "it ends in Cheers!",
        "pattern": r"Cheers!\s*\Z",
        "rewrite": {"append": " Cheers!"},
    }
    add_rule(rule := declared_rule(given))
    try:
        add_rule(declared_rule(dict(given)))
        assert rule_concept("cheers-2", ["Cats purr."]).positives == ("Cats purr. Cheers!",)
        assert (rule.score("Yes. Cheers!<eos>"), rule.score("Cheers! Yes."), rule.score("")) == (1.0, 0.0, 0.0)
        assert rule_concept("cheers-2", ["Cats purr."], kind="suppress").id == "suppress-cheers-2"
    finally:
        del RULES[rule.name]


def test_an_ifeval_instruction_is_declared_with_its_options() -> None:
    given = {"ifeval": "keywords:existence", "options": {"keywords": ["tide"]}, "rewrite": {"append": " High tide."}}
    rule = declared_rule(given)
    assert rule == declared_rule(given)
    assert (rule.score("High tide."), rule.score("Low water.")) == (1.0, 0.0)
    assert rule.rewrite is not None
    assert rule.rewrite("Cats.") == "Cats. High tide."


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pattern": "("}, "no regular expression"),
        ({"pattern": None, "name": None}, "no regular expression|name is missing"),
        ({"patern": "x"}, "unknown key 'patern'"),
        ({"ifeval": "punctuation:no_comma"}, "one of the two"),
        ({"least": 0}, "least is 0"),
        ({"rewrite": {"apend": "x"}}, "rewrite is"),
        ({"rewrite": {"replace": {"a": r"\9"}}}, "replacement"),
        ({"description": ""}, "description is missing"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_said_in_one_line(changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        declared_rule({"name": "x", "description": "y", "pattern": "z", **changes})
    assert "\n" not in str(caught.value)


# --- what went wrong elsewhere -------------------------------------------------------------------------------------


def test_json_reaches_the_full_score() -> None:
    """AxBench's JSON rule gives 1 of 2 at most."""
    assert check_rule("json", json.dumps({"answer": [1, {"b": None}]})) == 1.0


@pytest.mark.parametrize("mark", ["<end_of_turn>", "<end_of_turn>\n", "<|im_end|>", "<eos>", "<|endoftext|>", "</s>"])
def test_korean_with_an_end_of_turn_mark_passes(mark: str) -> None:
    """AxBench's Korean rule takes the letters of the mark for English."""
    assert check_rule("script-korean", "네." + mark) == 1.0


def test_word_limits_in_a_fresh_interpreter_and_nothing_heavy_is_imported() -> None:
    """AxBench's word limits use a module that is never imported."""
    code = (
        "import sys; from steer_bench.concepts.rules.table import check_rule\n"
        "assert check_rule('at-most-50-words', 'a b') == 1.0 and check_rule('at-least-100-words', 'a b') == 0.0\n"
        "heavy = {'torch', 'transformers', 'lm_eval', 'langdetect', 'nltk', 'pandas', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- names, own rules, suppression ---------------------------------------------------------------------------------


def test_unknown_name_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="no rule named 'all-capital'; did you mean 'all-capitals'"):
        check_rule("all-capital", "Yes")
    with pytest.raises(ValueError, match="there are: 'all-capitals"):
        check_rule("zzzz", "Yes")


@pytest.fixture
def own_rule() -> Iterator[Rule]:
    rule = Rule("says-meow", "the reply says meow", lambda reply: "meow" in reply.lower(), lambda text: text + " Meow!")
    add_rule(rule)
    yield rule
    del RULES[rule.name]


def test_own_rule_is_a_rule_like_any_other(own_rule: Rule) -> None:
    assert check_rule("says-meow", "Meow.") == 1.0
    assert rule_concept("says-meow", ["Cats purr."]).positives == ("Cats purr. Meow!",)
    add_rule(own_rule)
    with pytest.raises(ValueError, match="another rule named 'says-meow'"):
        add_rule(Rule("says-meow", "something else", lambda reply: True))


def test_rule_refuses_bad_names_empty_descriptions_and_scores_outside_0_to_1() -> None:
    with pytest.raises(ValueError, match="rule name 'a b'"):
        Rule("a b", "x", lambda reply: True)
    with pytest.raises(ValueError, match="no description"):
        Rule("a", " ", lambda reply: True)
    with pytest.raises(ValueError, match="scored 2"):
        Rule("a", "x", lambda reply: 2.0).score("Yes")
    with pytest.raises(ValueError, match="scored nan"):
        Rule("a", "x", lambda reply: float("nan")).score("Yes")


def test_a_partial_score_is_kept_and_suppressed_to_its_rest() -> None:
    add_rule(rule := Rule("quarter", "a quarter of it", lambda reply: 0.25))
    try:
        assert (check_rule("quarter", "Yes"), check_suppressed("quarter", "Yes")) == (0.25, 0.75)
    finally:
        del RULES[rule.name]


# --- rules as concepts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REWRITABLE)
def test_rule_concept_pairs_rewritten_with_unchanged_texts(name: str) -> None:
    concept = rule_concept(name, PASSAGES)
    assert (concept.id, concept.kind, concept.rule, concept.genre) == (f"rule-{name}", "rule", name, "text")
    assert concept.description == RULES[name].description
    assert len(concept.positives) == len(concept.negatives) >= 1
    assert set(concept.negatives) <= set(PASSAGES)
    assert all(check_rule(name, text) == 1.0 for text in concept.positives)
    assert all(check_rule(name, text) == 0.0 for text in concept.negatives)


def test_rule_concept_leaves_out_texts_that_obey_and_repeats() -> None:
    concept = rule_concept("one-sentence", ["Yes.", "Yes. No.", "Yes. Well.", "Yes. No.", "A. B. Then two. Ok."])
    assert concept.negatives == ("Yes. No.", "A. B. Then two. Ok.")
    assert concept.positives == ("Yes.", "A. B. Then two.")


def test_rule_concept_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"'language-fr' has no rewrite.*all-capitals"):
        rule_concept("language-fr", PASSAGES)
    with pytest.raises(ValueError, match="none of the 2 texts breaks rule 'no-commas'"):
        rule_concept("no-commas", ["Yes.", " "])
    with pytest.raises(ValueError, match="did you mean 'json'"):
        rule_concept("jsn", PASSAGES)


def test_rule_concept_refuses_a_rewrite_that_does_not_obey() -> None:
    add_rule(rule := Rule("broken", "never", lambda reply: False, str.upper))
    try:
        with pytest.raises(ValueError, match="rewrite of rule 'broken' does not make this text obey it: 'Cats'"):
            rule_concept("broken", ["Cats"])
    finally:
        del RULES[rule.name]


# --- sentences -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Dr. Lee met Mrs. Fox.", ["Dr. Lee met Mrs. Fox."]),
        ("J. K. Rowling wrote it. I do. So.", ["J. K. Rowling wrote it.", "I do.", "So."]),
        ("It costs 3.50, i.e. little.", ["It costs 3.50, i.e. little."]),
        ("Tea, milk, etc. are here. Tea etc. Then", ["Tea, milk, etc. are here.", "Tea etc.", "Then"]),
        ('"Why?" he said. "No." Then left.', ['"Why?" he said.', '"No."', "Then left."]),
        ("Well... maybe. Well... Maybe.", ["Well... maybe.", "Well...", "Maybe."]),
        ("all lower. no capitals! right? yes", ["all lower.", "no capitals!", "right?", "yes"]),
        ("# Title\n\n1. one\n2) two\n* **three.** Four", ["Title", "one", "two", "**three.**", "Four"]),
        ("---\n\n...\n😊", []),
        ("今日は。元気？はい", ["今日は。", "元気？", "はい"]),
        ("See example.org/a.html now.", ["See example.org/a.html now."]),
        ("", []),
    ],
)
def test_split_sentences(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@given(text=st.text(alphabet="aB1.!? \n\"'*-#…。|", max_size=80))
def test_sentences_lose_no_letter_and_mapping_with_nothing_changes_nothing(text: str) -> None:
    kept = [character for sentence in split_sentences(text) for character in sentence if character.isalpha()]
    assert kept == [character for character in text if character.isalpha()]
    assert map_sentences(text, str) == text
    assert len(split_sentences(pad_sentences(text, 5))) >= 5


def test_special_tokens_are_stripped_at_the_end_only() -> None:
    assert strip_special_tokens("Say <eos> twice.<eos>\n<|eot_id|>") == "Say <eos> twice."
    assert strip_special_tokens("<answer>Yes</answer>") == "<answer>Yes</answer>"


# --- IFEval --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instruction", "options", "obeys", "breaks"),
    [
        ("punctuation:no_comma", {}, "Cats and dogs", "Cats, dogs"),
        ("keywords:existence", {"keywords": ["tide"]}, "High tide", "Low water"),
        ("keywords:forbidden_words", {"forbidden_words": ["tide"]}, "Low water", "High tide"),
        ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "One two three", "One two"),
        ("detectable_format:json_format", {}, '{"a": 1}', "a: 1"),
        ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n* b", "* a"),
        ("startend:quotation", {}, '"Yes"', "Yes"),
        ("language:response_language", {"language": "de"}, "Das Wetter ist heute schön.", "The weather is nice today."),
        ("change_case:english_capital", {}, "THE WEATHER IS NICE TODAY.", "The weather is nice today."),
    ],
)
def test_ifeval_rule_scores_as_lm_eval_does(instruction: str, options: dict, obeys: str, breaks: str) -> None:
    rule = ifeval_rule(instruction, **options)
    assert rule.name.startswith("ifeval-" + instruction.replace(":", "-"))
    assert (rule.score(obeys + "<end_of_turn>"), rule.score(breaks), rule.score(" ")) == (1.0, 0.0, 0.0)


def test_ifeval_undetectable_language_is_unscored_not_followed() -> None:
    assert ifeval_rule("language:response_language", language="ko").score("2 + 2 = 4") is None
    assert ifeval_rule("change_case:english_capital").score("2 + 2 = 4") == 0.0


def test_ifeval_rules_with_other_options_have_other_names() -> None:
    words = partial(ifeval_rule, "length_constraints:number_words", relation="at least")
    assert words(num_words=3).name != words(num_words=4).name
    assert words(num_words=3).name == words(num_words=3).name
    assert "at least 3 words" in words(num_words=3).description


def test_ifeval_errors_name_the_way_on() -> None:
    with pytest.raises(ValueError, match="did you mean 'punctuation:no_comma'"):
        ifeval_rule("punctuation:no_commas")
    with pytest.raises(ValueError, match="takes num_words, relation, not num_words"):
        ifeval_rule("length_constraints:number_words", num_words=3)
    with pytest.raises(ValueError, match="takes no options, not keyword"):
        ifeval_rule("punctuation:no_comma", keyword="x")
    with pytest.raises(ValueError, match=r"do not fit.*at least"):
        ifeval_rule("length_constraints:number_words", num_words=3, relation="exactly")
    with pytest.raises(ValueError, match="do not fit"):
        ifeval_rule("language:response_language", language="klingon")


def test_all_ifeval_instructions_are_reached() -> None:
    assert len(ifeval_ids()) == 25


NLTK_RULES = [
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, "One. Two.", "One."),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}, "ONE TWO", "ONE"),
]


@pytest.mark.parametrize(("instruction", "options", "obeys", "breaks"), NLTK_RULES)
def test_ifeval_without_nltk_data_says_so(
    instruction: str, options: dict, obeys: str, breaks: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import nltk

    ifeval_ids()  # its import may look for the data in the places that are taken away next
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(
        ValueError, match=r"punkt_tab, which is missing here; run `python -m nltk.downloader punkt_tab`"
    ):
        ifeval_rule(instruction, **options)


@pytest.mark.parametrize(("instruction", "options", "obeys", "breaks"), NLTK_RULES)
def test_ifeval_with_nltk_data_scores(
    instruction: str, options: dict, obeys: str, breaks: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import nltk

    english = tmp_path / "tokenizers" / "punkt_tab" / "english"
    english.mkdir(parents=True)
    for name in ("abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt"):
        (english / name).write_text("")
    ifeval_ids()
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    rule = ifeval_rule(instruction, **options)
    assert (rule.score(obeys), rule.score(breaks)) == (1.0, 0.0)


@pytest.mark.parametrize("package", ["immutabledict", "nltk", "langdetect"])
def test_ifeval_without_its_packages_names_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("lm_eval.tasks.ifeval")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"{package}.*pip install lm_eval\[ifeval\]"):
        ifeval_rule("punctuation:no_comma")
