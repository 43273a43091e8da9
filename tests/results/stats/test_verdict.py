"""Verdicts: each rule by an example that only it decides."""

import math

import numpy as np
import pytest
from scipy import stats

from steer_bench.results.stats.grid import NATIVE, ArmKey
from steer_bench.results.stats.simulate import values_of
from steer_bench.results.stats.values import REFERENCE, TaskValues
from steer_bench.results.stats.verdict import Case, Verdict, controls_of, equivalent, native_verdict, verdicts

LINEAR, MLP, RANDOM, MEAN = ArmKey("a", "linear"), ArmKey("a", "mlp"), ArmKey("", "random"), ArmKey("", "mean")
LOST = math.nan


def measured(n: int = 12, **arms: float | list[float]) -> TaskValues:
    """Values of one item a concept; a number is the mean over n concepts that vary around it a little."""
    wobble = np.linspace(-0.01, 0.01, n)
    keys = {"native": NATIVE, "wrong": REFERENCE, "linear": LINEAR, "mlp": MLP, "random": RANDOM, "mean": MEAN}
    items = {}
    for place, (name, value) in enumerate(arms.items()):
        values = value if isinstance(value, list) else value + np.roll(wobble, 5 * place)
        items[keys[name]] = np.array(values, float)[:, None]
    return values_of(items)


def judged(values: TaskValues, *controls: ArmKey, arm: ArmKey = LINEAR) -> Verdict:
    return verdicts([Case(values, arm, (REFERENCE, *controls))])[0]


class TestRules:
    def test_an_arm_that_beats_every_control_transfers(self):
        got = judged(measured(native=1.0, wrong=0.0, linear=0.5, random=0.1), RANDOM)
        assert got == ("transfers", "it beats every control (p = 0.00024 after Holm, 12 concepts)", False)

    def test_every_control_has_to_be_beaten_not_only_wrong_concept(self):
        got = judged(measured(native=1.0, wrong=0.0, linear=0.5, mean=0.6), MEAN)
        assert (got.word, got.why) == ("no evidence", "against mean, p = 1 after Holm (12 concepts)")

    def test_a_control_that_does_not_reach_the_level_does_not_count_as_beaten(self):
        nowhere = judged(measured(native=1.0, wrong=0.0, linear=0.5, random=[LOST] * 12), RANDOM)
        assert nowhere.word == "no evidence"
        assert nowhere.why == "it cannot beat random: both reach the level on 0 concepts, 6 needed"
        five = judged(measured(native=1.0, wrong=0.0, linear=0.5, random=[0.0] * 5 + [LOST] * 7), RANDOM)
        assert five.word == "no evidence"
        assert "random: both reach the level on 5 concepts" in five.why

    def test_a_control_without_some_concepts_is_compared_on_the_others_and_the_verdict_says_so(self):
        got = judged(measured(native=1.0, wrong=0.0, linear=0.5, random=[0.0] * 9 + [LOST] * 3), RANDOM)
        assert got.word == "transfers"
        assert "random without 3" in got.why

    def test_where_native_does_not_steer_no_arm_has_anything_to_transfer(self):
        values = measured(native=0.0, wrong=0.0, linear=0.5)
        assert judged(values).word == "native itself does not steer"
        assert native_verdict(values).word == "native itself does not steer"
        assert native_verdict(measured(native=1.0, wrong=0.0)) is None

    def test_without_wrong_concept_or_native_there_is_no_verdict(self):
        got = verdicts([Case(measured(native=1.0, linear=0.5, mean=0.0), LINEAR, (MEAN,))])[0]
        assert (got.word, got.why) == ("no evidence", "the run has no wrong-concept to compare with")
        assert judged(measured(wrong=0.0, linear=0.5)).why == "the run has no native to compare with"

    def test_controls_of_another_source_do_not_count(self):
        other, own = ArmKey("b", "identity"), ArmKey("a", "identity")
        assert controls_of(LINEAR, [other, own, RANDOM]) == (RANDOM, own)

    def test_items_are_no_units(self):
        # 6 concepts of 50 items each: p is 1 / 64 of concepts, whatever the items
        items = {NATIVE: np.ones((6, 50)), REFERENCE: np.zeros((6, 50)), LINEAR: np.full((6, 50), 0.5)}
        assert "p = 0.016" in judged(values_of(items)).why


class TestTooFew:
    @pytest.mark.parametrize("n", [2, 4, 5])
    def test_four_rules_and_two_concepts_can_never_pass(self, n):
        got = judged(measured(n, native=1.0, wrong=0.0, linear=1.0))
        assert got.word == "too few concepts"
        assert got.why == f"native has an effect on {n} concepts; 6 are the fewest that can pass"

    def test_the_fewest_grow_with_the_claims(self):
        # 7 concepts all above 0: p = 1 / 128; four claims make it 1 / 32, above 0.025. With 8 it is 1 / 64.
        def of_four(n: int) -> list[str]:
            values = measured(n, native=1.0, wrong=0.0, linear=0.5)
            return [one.word for one in verdicts([Case(values, LINEAR, (REFERENCE,))] * 4)]

        assert of_four(7) == ["too few concepts"] * 4
        assert of_four(8) == ["transfers"] * 4

    def test_holm_may_let_a_small_task_pass_beside_large_ones(self):
        # Three claims of 12 concepts, then one of 7 with p = 1 / 128, the last of four: times 1.
        large, small = (measured(n, native=1.0, wrong=0.0, linear=0.5) for n in (12, 7))
        got = verdicts([Case(values, LINEAR, (REFERENCE,)) for values in (large, large, large, small)])
        assert [one.word for one in got] == ["transfers"] * 4

    def test_so_many_draws_that_many_claims_can_pass(self):
        values = measured(40, native=1.0, wrong=0.0, linear=0.5)
        assert (
            verdicts([Case(values, LINEAR, (REFERENCE,))] * 300)[0].word == "transfers"
        )  # of 10,000 draws p would be 0.0001, times 300


class TestFamilies:
    values = measured(6, native=1.0, wrong=0.0, linear=0.5, mlp=0.5)

    def test_exploratory_arms_cost_claims_nothing_and_are_marked(self):
        # 6 concepts: p = 1 / 64 passes alone, not twice
        claim, further = Case(self.values, LINEAR, (REFERENCE,)), Case(self.values, MLP, (REFERENCE,), claimed=False)
        got = verdicts([claim, *[further] * 16])
        assert (got[0].word, got[0].exploratory) == ("transfers", False)
        assert {(one.word, one.exploratory) for one in got[1:]} == {("transfers", True)}  # Benjamini-Hochberg: 16 of 16
        assert "after Benjamini-Hochberg" in got[1].why
        assert [one.word for one in verdicts([claim, claim])] == ["too few concepts"] * 2

    def test_among_exploratory_arms_one_of_many_does_not_pass(self):
        none = Case(measured(6, native=1.0, wrong=0.0, linear=0.0), LINEAR, (REFERENCE,), claimed=False)
        one = Case(self.values, MLP, (REFERENCE,), claimed=False)
        assert verdicts([one, none])[0].word == "no evidence"  # 1 / 64 x 2


class TestEquivalence:
    @pytest.mark.parametrize(
        ("ratio", "expected"), [(1.0, True), (0.95, True), (0.9, False), (1.1, False), (1.3, False)]
    )
    def test_it_is_two_one_sided_t_tests_against_nine_and_eleven_tenths_of_native(self, ratio, expected):
        native = np.linspace(0.5, 1.5, 21)
        arm = ratio * native + 0.05 * np.sin(np.arange(21)) * np.where(np.arange(21) % 2, 1, -1)
        values = measured(21, native=native.tolist(), wrong=[0.0] * 21, linear=arm.tolist())
        sides = (arm - 0.9 * native, 1.1 * native - arm)
        by_t = all(stats.ttest_1samp(side, 0, alternative="greater").pvalue < 0.04 for side in sides)
        assert (equivalent(values, LINEAR), by_t) == (expected, expected)

    def test_an_equivalent_arm_also_has_to_beat_the_controls(self):
        values = measured(native=1.0, wrong=0.0, linear=1.0, mean=1.0)
        assert judged(values).word == "equivalent to native"
        assert judged(values, MEAN).word == "no evidence"
