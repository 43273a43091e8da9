"""Vectors and their reliability from the means of groups of texts."""

import math

import pytest
import torch

from steer_bench.experiment.data import TextSide
from steer_bench.experiment.means import Group, diff_means, reliability
from steer_bench.models.activations import Mean


def means(vectors):
    """Means whose DiffMean is the given vector: {(concept, half, few): vector}."""
    made = {}
    for (concept, half, few), vector in vectors.items():
        plus = torch.tensor(vector, dtype=torch.float64)
        made[Group(TextSide(concept, "+"), half, few)] = Mean(plus + 1, 5)
        made[Group(TextSide(concept, "-"), half, few)] = Mean(torch.ones_like(plus), 7)
    return made


def test_a_vector_is_positive_minus_negative_of_the_texts_asked_for():
    found = means(
        {
            ("sea", "", 0): [3.0, 4.0],
            ("sea", "b", 0): [1.0, 0.0],
            ("sea", "b", 2): [0.0, 1.0],
            ("law", "", 0): [5.0, 0.0],
        }
    )
    assert {key: vector.tolist() for key, vector in diff_means(found).items()} == {"sea": [3.0, 4.0], "law": [5.0, 0.0]}
    assert diff_means(found, "b")["sea"].tolist() == [1.0, 0.0]
    assert diff_means(found, "b", 2)["sea"].tolist() == [0.0, 1.0]
    assert diff_means(found, "a") == {}


def test_reliability_is_the_cosine_of_two_halves_over_the_tested_concepts_that_have_them():
    halves = {
        ("sea", "a", 0): [1.0, 0.0],
        ("sea", "b", 0): [1.0, 1.0],
        ("law", "a", 0): [0.0, 2.0],
        ("law", "b", 0): [0.0, 1.0],
    }
    found = reliability(means({**halves, ("tea", "", 0): [1.0, 1.0]}), ["sea", "law", "tea"], [])
    assert found is not None
    assert found["n"] == 2
    assert found["cosine"] == pytest.approx((math.cos(math.pi / 4) + 1) / 2)
    assert found["retrieval"] == 1.0
    assert reliability(means({("tea", "", 0): [1.0, 1.0]}), ["tea"], []) is None
