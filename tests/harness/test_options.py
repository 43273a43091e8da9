"""Options of the tasks: whose word counts, what is let through, and what is said of one that makes no sense."""

import pytest

from steer_bench.harness.options import read_options


def test_metadata_goes_before_the_experiments_limits_and_those_before_the_yaml():
    metadata = {"limits": {"specificity": {"max_texts": 3, "max_words": 8}, "rule_following": {"max_texts": 9}}}
    block = {"max_texts": 2, "max_neutral": 1}
    options = read_options("specificity", {**metadata, "max_words": 5}, block)
    assert (options.max_texts, options.max_words, options.max_neutral, options.max_rules) == (3, 5, 1, None)


def test_what_else_stands_in_the_metadata_is_the_models_or_lm_evals():
    given = {"pretrained": "m", "version": 1.0, "dtype": "float32", "limits": None, "max_concepts": 2}
    assert read_options("specificity", given).model_dump(exclude_none=True) == {"max_concepts": 2, "rate": True}


def test_factors_are_sorted_and_stand_once_and_one_needs_no_list():
    assert read_options("t", {"factors": [0.4, 1, 0.1, 0.4]}).factors == (0.1, 0.4, 1.0)
    assert read_options("t", {"factors": 0.2, "only_arms": "native"}).model_dump(exclude_none=True) == {
        "factors": (0.2,),
        "only_arms": ("native",),
        "rate": True,
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"factors": []}, r"factors=\[\]: give numbers above 0, such as"),
        ({"factors": [0.0, 0.1]}, r"factors=\[0.0, 0.1\]: give numbers above 0"),
        ({"factors": [True]}, "give numbers above 0"),
        ({"factors": "high"}, "factors=high: give numbers above 0"),
        ({"factors": [float("inf")]}, "give numbers above 0"),
        ({"factors": [float("nan")]}, "give numbers above 0"),
        ({"max_words": 0}, "max_words=0: give a whole number of at least 1"),
        ({"max_texts": True}, "max_texts=True: give a whole number of at least 1"),
        ({"n_samples": 2.0}, "n_samples=2.0: give a whole number of at least 1"),
        ({"temperature": -1}, r"temperature=-1: give a number from 0 \(greedy\)"),
        ({"temperature": "hot"}, "temperature=hot: give a number"),
        ({"only_arms": 3}, "only_arms=3: give names of arms"),
        ({"arms": 3}, "arms=3: give the path of a file"),
        ({"chosen": [["native", "", "sea", "high"]]}, "give .*arm, source, concept, factor"),
        ({"limits": {"t": {"max_rules": -2}}}, "max_rules=-2: give a whole number"),
    ],
)
def test_an_option_that_makes_no_sense_is_named_with_what_would_do(given, said):
    with pytest.raises(ValueError, match=said) as caught:
        read_options("t", given)
    assert "\n" not in str(caught.value)


def test_samples_need_a_temperature_and_a_length_is_kept_without_one():
    assert read_options("t", {"max_new_tokens": 7}).generation_kwargs == {"max_gen_toks": 7}
    warm = read_options("t", {"max_new_tokens": 7, "n_samples": 2, "temperature": 1})
    assert warm.generation_kwargs == {"max_gen_toks": 7, "do_sample": True, "temperature": 1.0}
    assert read_options("t", {"temperature": 0}).generation_kwargs == {}
    with pytest.raises(ValueError, match="n_samples=2 at temperature 0 gives equal replies"):
        _ = read_options("t", {"n_samples": 2, "temperature": 0}).generation_kwargs
