"""Screening: the gradient is that of the log-likelihood lm-eval would give, and ranks a bank as exact passes do."""

import numpy as np
import pytest
import torch
from steered import TEXTS, make_arms, rolling, steer, steered_lm, tiny_pair

from steer_bench.models.load import Loaded
from steer_bench.models.steered.screening import screen
from steer_bench.models.steered.steering import Steering, VectorBank

FAMILIES = ("llama", "gemma3")


def bank(n=40, d=32, norm=0.2, seed=0):
    made = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return norm * made / made.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_order_lift_is_the_slope_of_the_exact_lift(family):
    loaded = Loaded("tiny", *tiny_pair(family))
    small, vectors = 1e-2, bank(6, norm=1.0)
    one = screen(loaded, 1, TEXTS, small * vectors, points=1, top=6, sample=0)
    other = screen(loaded, 1, TEXTS, -small * vectors, points=1, top=6, sample=0)
    for i in range(6):
        slope = (one.exact[i] - other.exact[i]) / 2  # the curvature cancels
        assert one.first_order[i] == pytest.approx(slope, rel=0.02, abs=2e-5)
    assert not loaded.model.model.layers[1]._forward_hooks


@pytest.mark.parametrize("family", FAMILIES)
def test_exact_lifts_are_those_of_rolling_log_likelihoods_under_the_same_steering(family):
    model, tokenizer = tiny_pair(family)
    arms = make_arms()
    entries = [(arm.name, arm.source, concept) for arm, concept in arms.vectors]
    rows = VectorBank(arms).rows([Steering(*entry, 0.5) for entry in entries])[:, 0]
    found = screen(Loaded("tiny", model, tokenizer), arms.layer, TEXTS, rows, top=2, sample=4)
    lm = steered_lm(model, tokenizer, arms)
    base = rolling(lm, [(text,) for text in TEXTS])
    assert found.n_tokens == sum(value.n_tokens for value in base)
    assert set(found.sample) == set(found.exact) == set(range(4))
    for i, (arm, source, concept) in enumerate(entries):
        steered = rolling(lm, [(text, steer(arm, concept, 0.5, source)) for text in TEXTS])
        assert found.exact[i] == pytest.approx((sum(steered) - sum(base)) / found.n_tokens, abs=1e-4)


def test_the_ranking_is_that_of_exact_lifts_and_the_top_is_run():
    loaded = Loaded("tiny", *tiny_pair("llama"))
    found = screen(loaded, 1, TEXTS, bank(), points=3, top=5, sample=40)
    assert found.correlation > 0.95
    assert set(found.order[:5]) <= set(found.exact)
    assert found.order == sorted(range(40), key=lambda i: -found.first_order[i])
    exact = np.array([found.exact[i] for i in range(40)])
    assert np.argsort(-exact)[0] in found.order[:5]


def test_gradients_along_the_way_see_what_all_vectors_do_alike():
    """All vectors share a large part: the gradient where nothing is added misses how its effect bends, two points do not."""
    loaded = Loaded("tiny", *tiny_pair("llama"))
    common = 1.5 * torch.nn.functional.normalize(torch.randn(1, 32, generator=torch.Generator().manual_seed(3)))
    vectors = common + bank(20, norm=0.1)
    plain = screen(loaded, 1, TEXTS, vectors, points=1, top=20, sample=0)
    along = screen(loaded, 1, TEXTS, vectors, points=3, top=20, sample=0)
    exact = np.array([plain.exact[i] for i in range(20)])
    assert np.abs(along.first_order - exact).mean() < 0.3 * np.abs(plain.first_order - exact).mean()


def test_a_bank_of_another_width_and_no_texts_are_refused():
    loaded = Loaded("tiny", *tiny_pair("llama"))
    with pytest.raises(ValueError, match="d_model 32"):
        screen(loaded, 1, TEXTS, torch.randn(3, 16))
    with pytest.raises(ValueError, match="no texts"):
        screen(loaded, 1, [], bank())
    assert screen(loaded, 1, TEXTS, bank(), top=1, sample=0).correlation is None
