"""Values of concepts, on rows small enough to work out by hand: the sums stand in the comments."""

import math
from dataclasses import replace

import numpy as np
import pytest
from level_rows import scores, texts

from steer_bench.results.rows import Row, Rows
from steer_bench.results.stats.grid import ArmKey
from steer_bench.results.stats.values import REFERENCE, task_levels, task_values

NATIVE, LINEAR, RANDOM, PLAIN, PROMPT = (
    ArmKey("", "native"),
    ArmKey("a", "linear"),
    ArmKey("", "random"),
    ArmKey("", "unsteered"),
    ArmKey("", "prompt"),
)
POOLED = {"wrong-concept-0": "wrong-concept", "wrong-concept-1": "wrong-concept", "random-1": "random"}


def rules(rows: list[Row], level: float = 1.3, **options):
    return task_values(rows, "rule_following", "t", level=level, **options)


class TestLevels:
    rows = [
        *scores("unsteered", {"c": [0.0], "d": [0.2]}),
        *scores("prompt", {"c": [0.9], "d": [0.8]}),
        *scores("native", {"c": [0.1], "d": [0.3]}, level=1.1, factor=0.1),
        *scores("native", {"c": [0.5]}, level=1.3, factor=0.3),
        *scores("linear", {"c": [0.4], "d": [0.6]}, source="a", level=1.6, factor=0.5),
    ]

    def test_a_level_has_its_own_rows_and_factors(self):
        found = rules(self.rows, 1.3)
        assert found.concepts == ("c", "d")
        np.testing.assert_array_equal(found.value(NATIVE), [0.5, math.nan])
        np.testing.assert_array_equal(found.factors[NATIVE], [0.3, math.nan])
        np.testing.assert_array_equal(rules(self.rows, 1.1).value(NATIVE), [0.1, 0.3])

    def test_nothing_nearer_takes_the_place_of_a_level_that_was_not_reached(self):
        assert np.isnan(rules(self.rows, 1.3).value(LINEAR)).all()
        assert rules(self.rows, 1.3).totals[LINEAR] == 0

    def test_what_has_no_factor_stands_at_every_level(self):
        for level in (1.1, 1.3, 1.6):
            found = rules(self.rows, level)
            np.testing.assert_array_equal(found.value(PROMPT), [0.9, 0.8])
            np.testing.assert_array_equal(found.value(PLAIN), [0.0, 0.2])

    def test_levels_are_found_in_the_rows(self):
        assert task_levels(Rows.of(self.rows), "rule_following", "t") == [1.1, 1.3, 1.6]
        assert task_levels(Rows.of(self.rows[:2]), "rule_following", "t") == [0.0]

    def test_an_arm_may_be_listed_that_has_no_rows(self):
        lost = ArmKey("b", "mlp")
        assert np.isnan(rules(self.rows, arms=[lost]).value(lost)).all()

    def test_rows_of_another_target_do_not_enter(self):
        other = [replace(row, target="u", value=1.0) for row in self.rows]
        np.testing.assert_array_equal(rules([*other, *self.rows]).value(NATIVE), rules(self.rows).value(NATIVE))


class TestItems:
    def test_two_concepts_share_no_item_though_it_has_one_name(self):
        rows = [
            *scores("wrong-concept", {"c": [0.1, 0.2], "d": [0.3]}),
            *scores("native", {"c": [0.2, 0.4], "d": [0.9]}),
        ]
        found = rules(rows)
        # c: (0.2 - 0.1 + 0.4 - 0.2) / 2 = 0.15; d: 0.6
        np.testing.assert_allclose(found.differences(NATIVE), [0.15, 0.6])

    def test_an_effect_is_paired_item_by_item(self):
        # The arm's second reply is unscored: only 0.5 - 0.1 is a pair. The difference of means would be 0.5 - 0.5 = 0.
        found = rules([*scores("wrong-concept", {"c": [0.1, 0.9]}), *scores("native", {"c": [0.5, None]})])
        np.testing.assert_allclose(found.differences(NATIVE), [0.4])

    def test_an_unscored_reply_is_counted_and_is_not_zero(self):
        found = rules(scores("native", {"c": [1.0, None, 0.5]}))
        assert found.value(NATIVE) == [0.75]
        assert (found.scored[NATIVE], found.totals[NATIVE]) == (2, 3)

    def test_a_missing_row_is_counted_where_another_arm_has_it(self):
        found = rules([*scores("unsteered", {"c": [0.0, 0.0], "d": [0.0]}), *scores("native", {"c": [1.0]})])
        assert (found.scored[NATIVE], found.totals[NATIVE]) == (1, 2)
        assert (found.scored[PLAIN], found.totals[PLAIN]) == (3, 3)

    def test_wrong_concepts_are_one_arm_item_by_item(self):
        # items: (0.0 + 0.4) / 2 and, the first of them unscored there, 1.0
        rows = [
            *scores("wrong-concept-0", {"c": [0.0, None]}, factor=0.2),
            *scores("wrong-concept-1", {"c": [0.4, 1.0]}, factor=0.4),
            *scores("native", {"c": [0.5, 0.5]}),
        ]
        found = rules(rows, pooled=POOLED)
        np.testing.assert_allclose(found.items[REFERENCE], [[0.2, 1.0]])
        np.testing.assert_allclose(found.differences(NATIVE), [-0.1])
        np.testing.assert_allclose(found.factors[REFERENCE], [0.3])
        assert (found.scored[REFERENCE], found.totals[REFERENCE]) == (3, 4)

    def test_samples_of_a_prompt_are_averaged_before_seeds(self):
        one = [
            replace(row, item=f"{row.item}#{k}")
            for k, v in enumerate((0.0, 0.0, 0.6))
            for row in scores("random-1", {"c": [v]})
        ]
        found = rules([*one, *scores("random", {"c": [1.0]})], pooled=POOLED)
        np.testing.assert_allclose(found.items[RANDOM], [[0.6]])  # (0.2 + 1.0) / 2, not (0.6 + 1.0) / 4
        assert found.totals[RANDOM] == 4

    def test_other_tasks_of_lm_eval_have_unsteered_rows_for_all_concepts(self):
        rows = [
            Row("arc_easy", "t", "", "unsteered", "", 0.0, "q", "score", 0.25),
            *scores("native", {"c": [1.0]}, task="arc_easy"),
        ]
        rows[1] = replace(rows[1], item="q")
        found = task_values(rows, "arc_easy", "t", level=1.3)
        assert (found.value(NATIVE), found.value(PLAIN)) == ([1.0], [0.25])


class TestLikelihood:
    rows = [
        *texts("unsteered", "c", [-2.0, -3.0], [-1.0, -2.0], tokens=(30, 10)),
        *texts("unsteered", "d", [-2.5], [-1.5]),
        *texts("native", "c", [-1.9, -2.7], [-1.1, -2.5], tokens=(30, 10)),
        *texts("native", "d", [-2.6], [-1.8]),
        *texts("wrong-concept", "c", [-2.2, -3.2], [-1.1, -2.5], tokens=(30, 10)),
        *texts("wrong-concept", "d", [-2.8], [-1.8]),
    ]

    def test_the_value_is_the_change_on_the_concepts_texts_and_damage_is_no_part_of_it(self):
        found = task_values(self.rows, "concept_likelihood", "t", level=1.3)
        np.testing.assert_allclose(found.value(NATIVE), [0.2, -0.1])  # (0.1 + 0.3) / 2
        np.testing.assert_allclose(found.differences(NATIVE), [0.4, 0.2])
        np.testing.assert_allclose(found.neutral[NATIVE], [-0.3, -0.3])  # (0.1 + 0.5) / 2 lost
        assert PLAIN not in found.items

    def test_damage_weights_neutral_texts_by_their_tokens(self):
        # (30 x 0.1 + 10 x 0.5) / 40 = 0.2
        found = task_values(self.rows, "concept_likelihood", "t", level=1.3)
        np.testing.assert_allclose(found.damage[NATIVE], np.exp([0.2, 0.3]))

    def test_damage_of_replies_is_that_of_the_perplexity_task_at_the_same_level(self):
        costs = [replace(row, task="steered_perplexity") for row in self.rows if row.role == "neutral"]
        rows = [*costs, *scores("native", {"c": [1.0], "d": [0.5]}), *scores("native", {"c": [1.0]}, level=1.6)]
        np.testing.assert_allclose(rules(rows).damage[NATIVE], np.exp([0.2, 0.3]))
        assert np.isnan(rules(rows, 1.6).damage[NATIVE]).all()

    def test_a_text_that_could_not_be_scored_is_left_out(self):
        rows = [replace(row, value=None) if row.item == "c-1" and row.arm == "native" else row for row in self.rows]
        found = task_values(rows, "concept_likelihood", "t", level=1.3)
        np.testing.assert_allclose(found.value(NATIVE), [0.1, -0.1])
        assert (found.scored[NATIVE], found.totals[NATIVE]) == (5, 6)


class TestGrid:
    def test_the_factor_is_chosen_on_selection_prompts_and_scored_on_the_others(self):
        rows = [
            *scores("native", {"c": [0.9]}, level=0.0, factor=0.2, role="select"),
            *scores("native", {"c": [0.8, 0.6]}, level=0.0, factor=0.2),
            *scores("native", {"c": [0.1]}, level=0.0, factor=0.4, role="select"),
            *scores(
                "native", {"c": [1.0, 1.0]}, level=0.0, factor=0.4
            ),  # better, but chosen on these it would be a leak
        ]
        found = rules(rows, 0.0)
        assert (found.factors[NATIVE], found.value(NATIVE)) == ([0.2], [pytest.approx(0.7)])
        assert found.totals[NATIVE] == 2

    def test_each_arm_and_concept_has_its_own_and_of_equals_the_smallest(self):
        rows = [
            row
            for factor, c, d in ((0.2, 0.5, 0.1), (0.4, 0.5, 0.3))
            for role in ("select", "score")
            for row in scores("native", {"c": [c], "d": [d]}, level=0.0, factor=factor, role=role)
        ]
        assert rules(rows, 0.0).factors[NATIVE].tolist() == [0.2, 0.4]

    def test_a_factor_with_most_of_its_prompts_unscored_is_not_chosen(self):
        rows = [
            *scores("native", {"c": [0.1, 0.1, 0.1]}, level=0.0, factor=0.2, role="select"),
            *scores("native", {"c": [1.0, None, None]}, level=0.0, factor=0.4, role="select"),
            *scores("native", {"c": [0.3]}, level=0.0, factor=0.2),
            *scores("native", {"c": [0.9]}, level=0.0, factor=0.4),
        ]
        assert rules(rows, 0.0).value(NATIVE) == [0.3]

    def test_one_factor_needs_no_selection_and_of_several_none_is_chosen_without(self):
        rows = scores("native", {"c": [0.3]}, level=0.0, factor=0.2)
        assert rules(rows, 0.0).value(NATIVE) == [0.3]
        assert np.isnan(rules([*rows, *scores("native", {"c": [0.9]}, level=0.0, factor=0.4)], 0.0).value(NATIVE)).all()
