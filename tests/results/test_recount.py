"""Recount: what is not there is found, whatever the run says of itself."""

from synthetic_rows import make_results

from steer_bench.results.file import Results
from steer_bench.results.recount import missing_rows


def without(results: Results, drop) -> Results:
    return Results(results.run, [row for row in results.rows if not drop(row)])


def test_a_whole_run_lacks_nothing_on_levels_and_on_a_grid():
    assert missing_rows(make_results(n_concepts=3, prompt=1.0)) == []
    assert missing_rows(make_results(n_concepts=3, grid=True)) == []


def test_levels_that_an_arm_could_not_reach_are_not_missing():
    results = make_results(n_concepts=3, unreached=[("identity", 1.6)])
    assert missing_rows(results) == []
    silent = Results(results.run.model_copy(update={"unreached": ()}), results.rows)
    # 6 texts and 6 neutral texts of 3 concepts, and 6 prompts of each for the two tasks of replies
    assert missing_rows(silent) == [
        "concept_likelihood on target-model: 36 values of concepts x arms x items are missing",
        "concept_steering on target-model: 18 values of concepts x arms x items are missing",
        "rule_following on target-model: 18 values of concepts x arms x items are missing",
    ]


def test_rows_that_were_lost_are_counted_where_they_are():
    results = make_results(n_concepts=3)
    one = without(
        results,
        lambda row: (row.task, row.arm, row.level, row.item) == ("rule_following", "linear", 1.3, "c01-score-2"),
    )
    assert missing_rows(one) == ["rule_following on target-model: 1 values of concepts x arms x items are missing"]
    concept = without(results, lambda row: (row.task, row.arm, row.concept) == ("rule_following", "random", "c02"))
    assert missing_rows(concept) == ["rule_following on target-model: 18 values of concepts x arms x items are missing"]
    plain = without(results, lambda row: (row.arm, row.item) == ("unsteered", "c01-n2"))
    assert missing_rows(plain) == [
        "concept_likelihood on target-model: 1 values of concepts x arms x items are missing"
    ]


def test_the_count_of_rows_decides_and_not_what_the_run_says():
    results = make_results(run={"expected_rows": 9999}, n_concepts=2)
    assert results.run.complete
    assert missing_rows(results) == [f"{len(results.rows)} of 9999 rows"]
    unfinished = make_results(run={"complete": False}, n_concepts=2)
    assert missing_rows(unfinished) == [f"{len(unfinished.rows)} rows of a run that did not finish"]
