"""Specificity: a matrix small enough to work out by hand."""

import numpy as np
import pytest

from steer_bench.results.rows import Row
from steer_bench.results.stats.grid import ArmKey
from steer_bench.results.stats.specificity import specificity

SEEDS = {f"random-{seed}": "random" for seed in range(1, 6)}
NATIVE, RANDOM = ArmKey("", "native"), ArmKey("", "random")


def text(arm: str, concept: str, item: str, value: float | None) -> Row:
    """A row of the task `specificity`; the item names the concept of its text."""
    factor = 0.0 if arm == "unsteered" else 0.3
    return Row("specificity", "t", "", arm, concept, factor, item, item.rpartition("-")[0], value, 10)


class TestSpecificity:
    plain = [text("unsteered", "", f"{c}-{i}", -3.0 - i) for c in ("law", "sea") for i in (0, 1)]

    def matrix(self, arm: str = "native", *, miss: float | None = -3.2) -> list[Row]:
        # changes     law texts             sea texts
        # law vector  +0.5, +0.3: mean 0.4  -0.1, +0.3: mean 0.1
        # sea vector  -0.2, -0.2: mean -0.2 +0.6, +0.4: mean 0.5
        values = {("law", "law"): (-2.5, -3.7), ("law", "sea"): (-3.1, -3.7), ("sea", "sea"): (-2.4, -3.6)}
        rows = [text(arm, v, f"{c}-{i}", value) for (v, c), two in values.items() for i, value in enumerate(two)]
        return [*rows, text(arm, "sea", "law-0", miss), text(arm, "sea", "law-1", None if miss is None else -4.2)]

    def test_rows_are_vectors_and_columns_the_concepts_of_the_texts(self):
        found = specificity([*self.plain, *self.matrix()], "t")[NATIVE]
        assert found.concepts == ("law", "sea")
        np.testing.assert_allclose(found.matrix, [[0.4, 0.1], [-0.2, 0.5]])
        np.testing.assert_allclose(found.own, [0.4, 0.5])
        np.testing.assert_allclose(found.others, [0.1, -0.2])
        # (0.4 - 0.1 + 0.5 + 0.2) / 2 = 0.5; two concepts are too few for an interval
        assert found.difference == (pytest.approx(0.5), None, None, 2)
        assert found.top1 == 1.0

    def test_a_vector_that_raises_other_texts_more_is_not_its_own_concepts(self):
        shifted = [
            text("native", v, i, -2.0) for v in ("law", "sea") for i in ("law-0",)
        ]  # +1.0 on law, whatever the vector
        shifted += [text("native", v, "sea-0", -2.8) for v in ("law", "sea")]
        found = specificity([*self.plain, *shifted], "t")[NATIVE]
        np.testing.assert_allclose(found.matrix, [[1.0, 0.2], [1.0, 0.2]])
        assert found.top1 == 0.5
        assert found.difference.value == pytest.approx(0.0)

    def test_an_unmeasured_cell_is_missing_and_its_row_does_not_count_as_whole(self):
        found = specificity([*self.plain, *self.matrix(miss=None)], "t")[NATIVE]
        assert np.isnan(found.matrix[1, 0])
        assert found.top1 == 1.0  # of the one whole row
        assert found.difference == (pytest.approx(0.3), None, None, 1)

    def test_seeds_of_random_are_one_matrix_of_their_means(self):
        first, second = self.matrix("random-1"), [text("random-2", r.concept, r.item, -3.0) for r in self.matrix()]
        found = specificity([*self.plain, *first, *second], "t", SEEDS)
        assert list(found) == [RANDOM]
        # random-2 says -3 of every text: changes 0 (first text) and +1 (second), mean 0.5. Half of [0.4 0.1; -0.2 0.5] + 0.5:
        np.testing.assert_allclose(found[RANDOM].matrix, [[0.45, 0.3], [0.15, 0.5]])
