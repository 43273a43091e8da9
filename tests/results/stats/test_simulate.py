"""Simulation: the statistics keep their promises on values of known truth, and a wrong method is seen."""

import numpy as np
import pytest

from steer_bench.results.stats import estimate, simulate, verdict
from steer_bench.results.stats.simulate import Rate, error_rates


@pytest.fixture(scope="module")
def rates() -> list[Rate]:
    return error_rates(150, seed=1, sizes=(5, 12))


def test_every_kind_of_interval_and_claim_is_measured_at_every_n(rates):
    assert {rate.what.partition(":")[0] for rate in rates} == {"coverage", "false transfers", "false equivalence"}
    kinds = {"mean", "effect", "recovered fraction", "pooled fraction"}
    assert {rate.what.partition(": ")[2] for rate in rates if rate.what.startswith("coverage")} == kinds
    assert {rate.n for rate in rates} == {5, 12}


def test_all_promises_are_kept(rates):
    assert [rate for rate in rates if not rate.passed] == []


def test_the_seed_decides():
    assert (
        error_rates(10, seed=3, sizes=(6,))
        == error_rates(10, seed=3, sizes=(6,))
        != error_rates(10, seed=4, sizes=(6,))
    )


def test_an_interval_a_third_too_narrow_is_seen(monkeypatch):
    right = estimate._student
    monkeypatch.setattr(estimate, "_student", lambda level, n: 0.67 * right(level, n))
    assert any(not rate.passed for rate in error_rates(100, sizes=(12,)) if rate.what.startswith("coverage"))


def test_a_test_that_takes_items_for_units_is_seen(monkeypatch):
    def of_items(values, arm, other=simulate.REFERENCE):
        return (values.items[arm] - values.items[other]).ravel()

    monkeypatch.setattr(verdict.TaskValues, "differences", of_items)
    monkeypatch.setattr(verdict.TaskValues, "value", lambda values, arm: values.items[arm].ravel())
    failed = [
        rate for rate in error_rates(40, sizes=(12,)) if not rate.passed and rate.what.startswith("false transfers")
    ]
    assert failed
    assert max(rate.rate for rate in failed) > 0.1


def test_a_rate_may_differ_from_its_limit_by_the_error_of_the_simulation():
    assert Rate("coverage: mean", "normal", 12, 0.91, 1000, 0.93, 0.97).passed  # 3 x sqrt(0.93 x 0.07 / 1000) = 0.024
    assert not Rate("coverage: mean", "normal", 12, 0.90, 1000, 0.93, 0.97).passed
    assert Rate("coverage: mean", "normal", 12, 0.99, 1000, 0.93, 0.97).passed  # wider than need be, but true
    assert Rate("false transfers: 1", "rules", 12, 0.039, 1000, 0.0, 0.025).passed
    assert not Rate("false transfers: 1", "rules", 12, 0.041, 1000, 0.0, 0.025).passed


def test_draws_have_the_means_they_are_said_to_have():
    rng = np.random.default_rng(0)
    for name, (draw, mean, _) in simulate.MEANS.items():
        assert draw(rng, (400, 1000)).mean() == pytest.approx(mean, rel=0.01), name
    for name, (_, noise) in simulate.FRACTIONS.items():
        assert noise(rng, (400, 1000)).mean() == pytest.approx(0, abs=0.001), name
