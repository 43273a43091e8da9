"""IFEval's checkers as rules, and rules that are declared with them."""

import sys
from functools import partial
from pathlib import Path

import pytest

from steer_bench.concepts.rules.declared import declared_rule, rules_of
from steer_bench.harness.ifeval import ifeval_checkers, ifeval_rule


def test_an_ifeval_instruction_is_declared_with_its_options() -> None:
    given = {"ifeval": "keywords:existence", "options": {"keywords": ["tide"]}, "rewrite": {"append": " High tide."}}
    rule = declared_rule(given, ifeval_rule)
    assert rule == declared_rule(given, ifeval_rule)
    assert (rule.score("High tide."), rule.score("Low water.")) == (1.0, 0.0)
    assert rule.rewrite is not None
    assert rule.rewrite("Cats.") == "Cats. High tide."


def test_a_language_that_langdetect_finds_unsure_is_scored_alike_on_every_call() -> None:
    undecided = (
        "Hotel taxi radio"  # langdetect's answer for such a text changes from call to call when it is not seeded
    )
    rule = ifeval_rule("language:response_language", language="it")
    assert len({rule.score(undecided) for _ in range(10)}) == 1


def test_an_undetectable_language_is_unscored_when_it_is_to_be_suppressed_too() -> None:
    assert ifeval_rule("language:response_language", language="ko").score_suppressed("2 + 2 = 4!") is None


def test_declared_instructions_stand_beside_the_shipped_rules_by_their_own_names() -> None:
    given = {"ifeval": "keywords:existence", "options": {"keywords": ["tide"]}}
    rules = rules_of([{**given, "name": "tide"}, given, given], ifeval_rule)
    assert rules["tide"].score("High tide") == rules[ifeval_rule("keywords:existence", keywords=["tide"]).name].score(
        "tide"
    )
    assert "all-capitals" in rules


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
    assert len(ifeval_checkers()) == 25


NLTK_RULES = [
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, "One. Two.", "One."),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}, "ONE TWO", "ONE"),
]


@pytest.mark.parametrize(("instruction", "options", "obeys", "breaks"), NLTK_RULES)
def test_ifeval_without_nltk_data_says_so(
    instruction: str, options: dict, obeys: str, breaks: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import nltk

    ifeval_checkers()  # its import may look for the data in the places that are taken away next
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
    ifeval_checkers()
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
