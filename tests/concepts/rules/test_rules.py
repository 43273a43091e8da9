"""Rules: every check on texts written for it, every rewrite on passages, and the traps of other rule judges."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from steer_bench.concepts.rules.declared import declared_rule, rules_of
from steer_bench.concepts.rules.rule import Rule, strip_special_tokens
from steer_bench.concepts.rules.sentences import map_sentences, pad_sentences, split_sentences
from steer_bench.concepts.rules.table import RULES, named_rule, rule_concept
from steer_bench.harness.ifeval import ifeval_rule

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
    assert RULES[rule].score(text) == score


def test_every_rule_has_three_texts_that_obey_and_three_that_do_not() -> None:
    assert list(CASES) == list(RULES)
    assert len(RULES) >= 30
    assert all(len(set(texts)) >= 3 for sides in CASES.values() for texts in sides)


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("reply", ["", " \n\t", "<end_of_turn>", " <|im_end|>\n<eos>", "\u200b\ufeff"])
def test_an_empty_reply_is_never_a_pass(rule: str, reply: str) -> None:
    assert RULES[rule].score(reply) == 0.0
    assert RULES[rule].score_suppressed(reply) == 0.0


@pytest.mark.parametrize(("rule", "text", "score"), ROWS)
def test_special_tokens_at_the_end_change_no_score(rule: str, text: str, score: float) -> None:
    for tokens in ("<end_of_turn>", "<|im_end|>\n", " <eos><eos>", "</s>", "<end_of_turn>\n<eos>"):
        assert RULES[rule].score(text + tokens) == score


@pytest.mark.parametrize("name", list(RULES))
def test_check_alone_returns_a_score_for_any_text_with_something_to_see(name: str) -> None:
    for text in (*PASSAGES, "...", "!", "**", "\n---\n", "{", "[" * 100_000, "é", "1", "<", '"', "ß", "ŉ"):
        assert RULES[name].score(text) in (0.0, 1.0, None)


@pytest.mark.parametrize("name", REWRITABLE)
def test_rewritten_passages_obey(name: str) -> None:
    rewrite = RULES[name].rewrite
    assert rewrite is not None
    for passage in PASSAGES:
        assert RULES[name].score(rewrite(passage)) == 1.0, rewrite(passage)


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


@settings(max_examples=examples(150), deadline=None)
@given(text=TEXT)
def test_rewritten_texts_obey(text: str) -> None:
    for name in REWRITABLE:
        rewrite = RULES[name].rewrite
        assert rewrite is not None
        assert RULES[name].score(rewrite(text)) == 1.0, (name, rewrite(text))


def test_rewritten_real_replies_obey() -> None:
    replies = _real_replies()
    for name in REWRITABLE:
        rewrite = RULES[name].rewrite
        assert rewrite is not None
        assert [reply for reply in replies if RULES[name].score(rewrite(reply)) != 1.0] == [], name


def test_real_replies_seldom_obey_unasked() -> None:
    """A rule that plain replies follow anyway measures nothing: all stay under half."""
    replies = _real_replies()
    for name in list(RULES):
        share = sum(RULES[name].score(reply) == 1.0 for reply in replies[::10]) / len(replies[::10])
        assert share < 0.5, (name, share)


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
    assert RULES[given["rule"]].score(given["reply"]) == float(given["obeys"])


def test_every_rule_has_a_real_reply_that_obeys_and_one_that_does_not() -> None:
    assert sorted((given["rule"], given["obeys"]) for given in REAL) == sorted(
        (rule, obeys) for rule in list(RULES) for obeys in (True, False)
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
    assert (RULES[rule].score(reply), RULES[rule].score(reply, cut=True)) == (whole, cut)
    assert RULES[rule].score_suppressed(reply, cut=True) == 1 - cut


# --- declared rules --------------------------------------------------------------------------------------------------


def test_a_declared_rule_is_equal_to_itself_declared_again_and_makes_texts_obey() -> None:
    given = {
        "name": "cheers-2",
        "description": "it ends in Cheers!",
        "pattern": r"Cheers!\s*\Z",
        "rewrite": {"append": " Cheers!"},
    }
    rules = rules_of([given, dict(given)], ifeval_rule)
    rule = rules["cheers-2"]
    assert rule_concept(rule, ["Cats purr."]).positives == ("Cats purr. Cheers!",)
    assert (rule.score("Yes. Cheers!<eos>"), rule.score("Cheers! Yes."), rule.score("")) == (1.0, 0.0, 0.0)
    assert rule_concept(rule, ["Cats purr."], kind="suppress").id == "suppress-cheers-2"
    assert set(rules) - set(RULES) == {"cheers-2"}


def test_two_declarations_of_one_name_are_refused_in_one_experiment_and_fine_in_two() -> None:
    said = [{"name": "tea", "description": "a drink is named", "pattern": pattern} for pattern in ("tea", "mate")]
    with pytest.raises(ValueError, match="another rule named 'tea'"):
        rules_of(said, ifeval_rule)
    with pytest.raises(ValueError, match="another rule named 'json'"):
        rules_of([{**said[0], "name": "json"}], ifeval_rule)
    tea, mate = (rules_of([given], ifeval_rule)["tea"] for given in said)
    assert (tea.score("tea"), mate.score("tea"), mate.score("mate")) == (1.0, 0.0, 1.0)
    assert "tea" not in RULES


def test_the_shipped_rules_can_not_be_changed() -> None:
    with pytest.raises(TypeError):
        RULES["tea"] = RULES["json"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pattern": "("}, "no regular expression"),
        ({"pattern": None, "name": None}, "name is None"),
        ({"pattern": None}, "give pattern"),
        ({"pattern": None, "ifeval": "punctuation:no_comma", "least": 2}, "least belongs to a pattern"),
        ({"patern": "x"}, "unknown key 'patern'; did you mean 'pattern'"),
        ({"ifeval": "punctuation:no_comma"}, "one of the two"),
        ({"least": 0}, "least is 0"),
        ({"least": "2"}, "least is '2'; input should be a valid integer"),
        ({"least": True}, "least is True"),
        ({"forbidden": "perhaps"}, "forbidden is 'perhaps'"),
        ({"pattern": 3, "least": 0.5}, "least is 0.5"),
        ({"options": ["x"]}, "options is"),
        ({"rewrite": {"apend": "x"}}, "unknown key 'rewrite.apend'; did you mean 'append'"),
        ({"rewrite": "x"}, "rewrite is 'x'"),
        ({"rewrite": {}}, "rewrite is empty; give one or several of prepend, append, replace"),
        ({"rewrite": {"replace": ["a"]}}, "rewrite.replace is"),
        ({"rewrite": {"replace": {"(": "a"}}}, "no regular expression"),
        ({"rewrite": {"replace": {"a": r"\9"}}}, "replacement"),
        ({"description": ""}, "description is missing"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_said_in_one_line(changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        declared_rule({"name": "x", "description": "y", "pattern": "z", **changes}, ifeval_rule)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("rule ")


# --- what went wrong elsewhere -------------------------------------------------------------------------------------


def test_json_reaches_the_full_score() -> None:
    """AxBench's JSON rule gives 1 of 2 at most."""
    assert RULES["json"].score(json.dumps({"answer": [1, {"b": None}]})) == 1.0


def test_word_limits_in_a_fresh_interpreter_and_nothing_heavy_is_imported() -> None:
    """AxBench's word limits use a module that is never imported."""
    code = (
        "import sys; from steer_bench.concepts.rules.table import RULES\n"
        "assert RULES['at-most-50-words'].score('a b') == 1.0 and RULES['at-least-100-words'].score('a b') == 0.0\n"
        "heavy = {'torch', 'transformers', 'lm_eval', 'langdetect', 'nltk', 'pandas', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- names, own rules, suppression ---------------------------------------------------------------------------------


def test_unknown_name_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="no rule named 'all-capital'; did you mean 'all-capitals'"):
        named_rule("all-capital")
    with pytest.raises(ValueError, match="there are: 'all-capitals"):
        named_rule("zzzz")
    with pytest.raises(ValueError, match="did you mean 'json'"):
        named_rule("jsn")
    assert named_rule("tea", {"tea": RULES["json"]}) is RULES["json"]


def test_own_rule_is_a_rule_like_any_other() -> None:
    rule = Rule("says-meow", "the reply says meow", lambda reply: "meow" in reply.lower(), lambda text: text + " Meow!")
    assert rule.score("Meow.") == 1.0
    assert rule_concept(rule, ["Cats purr."]).positives == ("Cats purr. Meow!",)


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
    rule = Rule("quarter", "a quarter of it", lambda reply: 0.25)
    assert (rule.score("Yes"), rule.score_suppressed("Yes")) == (0.25, 0.75)


# --- rules as concepts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REWRITABLE)
def test_rule_concept_pairs_rewritten_with_unchanged_texts(name: str) -> None:
    concept = rule_concept(RULES[name], PASSAGES)
    assert (concept.id, concept.kind, concept.rule, concept.genre) == (f"rule-{name}", "rule", name, "text")
    assert concept.description == RULES[name].description
    assert len(concept.positives) == len(concept.negatives) >= 1
    assert set(concept.negatives) <= set(PASSAGES)
    assert all(RULES[name].score(text) == 1.0 for text in concept.positives)
    assert all(RULES[name].score(text) == 0.0 for text in concept.negatives)


def test_rule_concept_leaves_out_texts_that_obey_and_repeats() -> None:
    concept = rule_concept(RULES["one-sentence"], ["Yes.", "Yes. No.", "Yes. Well.", "Yes. No.", "A. B. Then two. Ok."])
    assert concept.negatives == ("Yes. No.", "A. B. Then two. Ok.")
    assert concept.positives == ("Yes.", "A. B. Then two.")


def test_rule_concept_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"'at-least-100-words' has no rewrite.*all-capitals"):
        rule_concept(RULES["at-least-100-words"], PASSAGES)
    with pytest.raises(ValueError, match="none of the 2 texts breaks rule 'no-commas'"):
        rule_concept(RULES["no-commas"], ["Yes.", " "])


def test_rule_concept_refuses_a_rewrite_that_does_not_obey() -> None:
    rule = Rule("broken", "never", lambda reply: False, str.upper)
    with pytest.raises(ValueError, match="rewrite of rule 'broken' does not make this text obey it: 'Cats'"):
        rule_concept(rule, ["Cats"])


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
