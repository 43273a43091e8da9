"""Doses: the factors at which vectors do a stated damage, on curves known by hand and on tiny models."""

import math
import random
from typing import NamedTuple

import pytest
from steered import TEXTS, make_arms, tiny_pair

from steer_bench.models.load import Loaded
from steer_bench.models.steered.dosing import COARSE, RUNGS, START, STEP, TOLERANCE, Sought, find_doses
from steer_bench.models.steered.scorer import Scorer
from steer_bench.models.steered.steering import Steering, VectorBank

LEVELS = (1.1, 1.3, 1.6)


class Row(NamedTuple):
    text: str
    steering: Steering


class Answer(NamedTuple):
    log_likelihood: float
    n_tokens: int


class Curves:
    """A scorer whose damage a token is a given function of the factor, the same on every text of ten tokens."""

    def __init__(self, curves):
        self.curves, self.steered, self.factors, self.rows = curves, self, [], 0

    def encode(self, text):
        return text

    def windows(self, ids):
        return [(ids, ids)]

    def row(self, context, _continuation, steering):
        return Row(context, steering)

    def score_rows(self, rows, _what, *, quiet=False):
        self.rows += len(rows)
        self.factors += [row.steering.factor for row in rows]
        return [Answer(-30.0 - 10 * self.lost(row.steering), 10) for row in rows]

    def lost(self, steering):
        return self.curves[steering.arm](steering.factor) if steering.is_steered else 0.0


def doses(curve, levels=LEVELS, sign=1, n_texts=40):
    scorer = Curves({"native": curve})
    return find_doses(
        scorer, [Sought("native", "", "sea", levels, sign)], [f"text {i}" for i in range(n_texts)]
    ), scorer


@pytest.mark.parametrize("curvature", [0.5, 3.0, 40.0])
def test_a_quadratic_curve_gives_the_square_root_of_level_over_curvature_in_few_passes(curvature):
    found, scorer = doses(lambda factor: curvature * factor**2)
    for one in found:
        exact = math.sqrt(math.log(one.level) / curvature)
        assert one.factor == pytest.approx(exact, rel=TOLERANCE)  # damage within 5 %, so the factor within 2.5 %
        assert abs(math.log(one.damage) - math.log(one.level)) <= TOLERANCE * math.log(one.level) + 1e-6
    assert scorer.rows <= (RUNGS + 1) * 2 * COARSE + 6 * 2 * 40


@pytest.mark.parametrize(
    "curve",
    [
        lambda f: 0.3 * f,
        lambda f: max(0.0, f - 0.5) ** 3,
        lambda f: -0.05 * math.sin(6 * f) + f**2,
        lambda f: 0.2 * f**2 if f < 1 else 5 * f,
    ],
    ids=["linear", "dead until 0.5", "better at first", "a cliff"],
)
def test_other_curves_are_met_within_five_percent_or_not_at_all(curve):
    for one in doses(curve)[0]:
        if one.factor is None:
            assert "jumps over" in one.reason
            assert curve(0.999) < math.log(one.level) < curve(1.0)
        else:
            assert abs(curve(one.factor) - math.log(one.level)) <= TOLERANCE * math.log(one.level)


def test_a_level_out_of_reach_is_missing_with_the_reason_and_the_others_stand():
    low, mid, high = doses(lambda factor: 0.3 * (1 - math.exp(-factor)))[0]
    assert low.factor is not None
    assert mid.factor is not None
    assert (high.factor, high.damage) == (None, None)
    assert high.reason == f"damage is at most {math.exp(0.3):.3g}, at factor {START * STEP ** (RUNGS - 1):.3g}"


def test_the_first_crossing_counts_where_damage_falls_again():
    (one,), _ = doses(lambda factor: factor if factor < 0.5 else max(0.0, 1 - factor) + (factor > 3) * factor, (1.3,))
    assert one.factor == pytest.approx(math.log(1.3), rel=TOLERANCE)


def test_a_vector_that_is_subtracted_is_dosed_by_negative_factors():
    found, scorer = doses(lambda factor: 2 * factor**2 if factor < 0 else 0.0, sign=-1)
    assert max(scorer.factors) == 0
    assert [one.factor for one in found] == pytest.approx([math.sqrt(math.log(x) / 2) for x in LEVELS], rel=TOLERANCE)


def test_activations_that_overflow_are_beyond_every_level():
    (one,), _ = doses(lambda factor: factor**2 if factor < 0.6 else math.nan, (1.3,))
    assert one.factor == pytest.approx(math.sqrt(math.log(1.3)), rel=TOLERANCE)


def test_each_vector_has_its_own_dose_and_they_are_what_the_model_does():
    model, tokenizer = tiny_pair("llama")
    arms = make_arms(scale=8.0)
    scorer = Scorer(Loaded("tiny", model, tokenizer), VectorBank(arms))
    wanted = [Sought(e.arm.name, e.source, concept, (1.02, 1.05)) for e in arms.entries for concept in e.concepts]
    found = find_doses(scorer, wanted, TEXTS, quiet=True)
    assert [(one.arm, one.source, one.concept, one.level) for one in found] == [
        (s.arm, s.source, s.concept, level) for s in wanted for level in s.levels
    ]
    reached = [one for one in found if one.factor is not None]
    assert len({one.factor for one in reached}) == len(reached) > 2
    plain = scorer.score_texts(TEXTS)
    for one in reached:
        steered = scorer.score_texts(TEXTS, [Steering(one.arm, one.source, one.concept, one.factor)] * len(TEXTS))
        lost = sum(p.log_likelihood - s.log_likelihood for p, s in zip(plain, steered, strict=True))
        assert math.exp(lost / sum(p.n_tokens for p in plain)) == pytest.approx(one.damage, abs=1e-5)


def test_without_texts_there_is_no_dose():
    with pytest.raises(ValueError, match="doses are found on neutral texts; there are none"):
        doses(lambda factor: factor, n_texts=0)


def test_last_bits_of_the_damage_do_not_change_the_factors_asked_for():
    """A resumed run has other batches, so other last bits; it must still find the records of the rows that it asked before."""

    def asked(noise):
        rng = random.Random(noise)
        scorer = Curves({f"{i}": lambda f, i=i: (0.5 + i) * f**2 + (f > 0) * rng.gauss(0, 3e-8) for i in range(20)})
        sought = [Sought(f"{i}", "", "sea", LEVELS) for i in range(20)]
        return find_doses(scorer, sought, ["a text"] * 40), scorer.factors

    (first, factors), (second, others) = asked(1), asked(2)
    assert factors == others
    assert [dose.factor for dose in first] == [dose.factor for dose in second]


@pytest.mark.parametrize("step", range(40))
def test_a_level_is_found_wherever_it_lies_between_two_rungs(step):
    """Also close to a rung, where the ladder gives two damages one factor, and on a curve that falls before it rises."""
    factor = START * STEP ** (1 + step / 20)
    for curve in (lambda f: f**2, lambda f: -0.3 * f + 2 * f**2, lambda f: 8 * max(f - 0.15, 0) ** 2):
        if curve(factor) > 0.01:
            [one] = doses(curve, (math.exp(curve(factor)),))[0]
            assert one.factor == pytest.approx(factor, rel=0.06), one.reason
