"""Sampled replies: drawn from the right distribution, and the same whatever they are asked together with."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from steered import PROMPTS, ask, make_arms, steer, steered_lm, tiny_pair

from steer_bench.models.steered.sampling import GumbelNoise, row_seed, samplers
from steer_bench.results.rows import Row, Rows
from steer_bench.results.stats.grid import NATIVE
from steer_bench.results.stats.values import task_values

SAMPLED = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 1.0}


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    return tiny_pair("llama")


def requests(settings: dict[str, Any] = SAMPLED, samples: int = 1) -> list[Any]:
    made = []
    for sample in range(samples):
        for prompt in PROMPTS:
            made.append(ask("generate_until", prompt, settings, {"steer": {}, "sample": sample}))
            made.append(ask("generate_until", prompt, settings, steer(factor=0.5) | {"sample": sample}))
    return made


def replies(pair: tuple[Any, Any], asked: list[Any], **options: Any) -> list[str]:
    return steered_lm(*pair, make_arms(), **options).generate_until(asked, disable_tqdm=True)


def test_the_largest_of_scores_and_noise_is_a_draw_from_their_softmax() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -torch.inf]]).repeat(4000, 1)
    drawn = samplers({"temperature": 2.0}, range(4000))(torch.zeros(4000, 1, dtype=torch.long), logits).argmax(dim=-1)
    counts = Counter(drawn.tolist())
    expected = 4000 * torch.softmax(logits[0, :4] / 2.0, dim=-1).double().numpy()
    observed = np.array([counts[i] for i in range(4)], dtype=float)
    assert counts[4] == 0
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 0.001


def test_noise_is_the_rows_own_and_new_at_every_step() -> None:
    both, alone = GumbelNoise([7, 8]), GumbelNoise([8])
    scores = torch.zeros(2, 50)
    ids = torch.zeros(2, 1, dtype=torch.long)
    first, second = both(ids, scores)[1], both(ids, scores)[1]
    assert torch.equal(first, alone(ids[:1], scores[:1])[0])
    assert torch.equal(second, alone(ids[:1], scores[:1])[0])
    assert not torch.equal(first, second)
    assert row_seed(1, "a") == row_seed(1, "a") != row_seed(1, "b")


def test_a_reply_does_not_depend_on_the_batch_or_the_order(pair: tuple[Any, Any]) -> None:
    asked = requests(samples=2)
    whole = replies(pair, asked)
    assert replies(pair, asked, batch_size=1) == whole
    assert replies(pair, asked, batch_size=3) == whole
    assert replies(pair, asked[::-1])[::-1] == whole
    assert [replies(pair, [one])[0] for one in asked[:4]] == whole[:4]


def test_samples_and_seeds_differ_and_greedy_replies_do_not(pair: tuple[Any, Any]) -> None:
    first, second = np.array_split(replies(pair, requests(samples=2)), 2)
    assert (first != second).any()
    assert replies(pair, requests(), seed=1) != replies(pair, requests())
    greedy = {"until": [], "max_gen_toks": 8, "do_sample": False}
    same, again = np.array_split(replies(pair, requests(greedy, samples=2)), 2)
    assert (same == again).all()


def test_sampling_that_leaves_one_token_is_greedy_decoding(pair: tuple[Any, Any]) -> None:
    greedy = replies(pair, requests({"until": [], "max_gen_toks": 8, "do_sample": False}))
    assert replies(pair, requests(SAMPLED | {"top_k": 1})) == greedy
    assert replies(pair, requests(SAMPLED | {"temperature": 1e-6})) == greedy
    assert replies(pair, requests(SAMPLED)) != greedy
    assert replies(pair, requests(SAMPLED | {"temperature": 0.0})) == greedy


def test_equal_requests_without_a_sample_number_get_draws_of_their_own(pair: tuple[Any, Any]) -> None:
    hot = SAMPLED | {"temperature": 5.0}
    asked = [ask("generate_until", PROMPTS[0], hot) for _ in range(4)]
    several = replies(pair, asked)
    assert len(set(several)) == 4
    assert replies(pair, asked[:2]) == several[:2]


def test_stopped_sampling_goes_on_with_the_replies_it_would_have_had(pair: tuple[Any, Any], tmp_path: Path) -> None:
    asked, records = requests(samples=2), str(tmp_path / "r.sqlite")
    replies(pair, asked[:5], records=records)
    lm = steered_lm(*pair, make_arms(), records=records)
    assert len(lm.records) == 5
    assert lm.generate_until(asked, disable_tqdm=True) == replies(pair, asked)


def test_samples_of_a_prompt_are_one_item_of_the_statistics() -> None:
    def row(item: str, value: float | None) -> Row:
        return Row("concept_steering", "t", "", "native", "sea", 0.2, item, "score", value)

    rows = [row("p1#0", 1.0), row("p1#1", 2.0), row("p1#2", None), row("p2#0", None), row("p3", 0.5)]
    found = task_values(Rows.of(rows), "concept_steering", "t", level=0)
    np.testing.assert_array_equal(found.items[NATIVE], [[1.5, math.nan, 0.5]])
    assert (found.scored[NATIVE], found.totals[NATIVE]) == (3, 5)  # three of five replies have a value


def test_settings_are_json(pair: tuple[Any, Any]) -> None:
    settings = steered_lm(*pair).settings(SAMPLED | {"top_p": 0.9})
    assert json.loads(settings.sampling) == {"temperature": 1.0, "top_p": 0.9}
    assert json.loads(settings.options) == {"do_sample": False}
