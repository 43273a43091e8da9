"""Headline: lm-eval's one number, by hand."""

import math

import pytest
from level_rows import scores, texts

from steer_bench.results.stats.headline import headline

UNSTEERED = scores("unsteered", {"c": [0.0, 0.0], "d": [0.0]})


def test_of_replies_it_is_the_mean_over_concepts_at_the_level_nearest_to_one_point_three():
    rows = [
        *UNSTEERED, *scores("native", {"c": [1.0, 0.5], "d": [0.25]}, level=1.25),
        *scores("native", {"c": [0.0, 0.0], "d": [0.0]}, level=1.6),
    ]  # fmt: skip
    assert headline(rows, measure="rule_following", target="t") == 0.5  # (0.75 + 0.25) / 2, not (1 + 0.5 + 0.25) / 3


def test_of_likelihood_it_is_the_change_on_the_concepts_texts():
    rows = [*texts("unsteered", "c", [-2.0], [-1.0]), *texts("native", "c", [-1.7], [-1.4])]
    assert headline(rows, measure="concept_likelihood", target="t") == pytest.approx(0.3)


def test_of_perplexity_it_is_the_ratio_a_geometric_mean_over_concepts():
    rows = [
        row
        for concept, lost in (("c", 0.2), ("d", 0.4))
        for row in (
            *texts("unsteered", concept, [], [-1.0], task="steered_perplexity"),
            *texts("native", concept, [], [-1.0 - lost], task="steered_perplexity"),
        )
    ]
    assert headline(rows, measure="steered_perplexity", target="t") == pytest.approx(math.exp(0.3))


def test_of_a_grid_it_is_that_of_the_selected_factors_or_without_selection_of_the_largest():
    rows = [
        *UNSTEERED,
        *scores("native", {"c": [0.5]}, level=0.0, factor=0.2),
        *scores("native", {"c": [0.9]}, level=0.0, factor=0.4),
    ]
    assert headline(rows, measure="rule_following", target="t") == 0.9
    chosen = [
        *scores("native", {"c": [0.4]}, level=0.0, factor=0.2, role="select"),
        *scores("native", {"c": [0.3]}, level=0.0, factor=0.4, role="select"),
    ]
    assert headline([*rows, *chosen], measure="rule_following", target="t") == 0.5


def test_of_nothing_it_is_nan():
    assert math.isnan(headline(UNSTEERED, measure="rule_following", target="t"))
    assert math.isnan(headline(scores("native", {"c": [None]}), measure="rule_following", target="t"))
