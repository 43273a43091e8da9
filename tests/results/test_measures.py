"""The table of measures: one line for each shipped task, and a default for tasks of others."""

from pathlib import Path

from steer_bench.results.measures import DEFAULT_TASKS, HEADLINES, JUDGED, MEASURES, REPLIES, in_order, measure_of

SHIPPED = Path(__file__).parents[2] / "tasks"


def test_every_shipped_steering_task_has_its_line_and_every_line_its_task():
    assert {file.stem for file in SHIPPED.glob("*.yaml")} - {"capability_choices"} == set(MEASURES)


def test_the_tasks_that_write_replies_are_those_whose_yaml_generates():
    generating = {file.stem for file in SHIPPED.glob("*.yaml") if "generate_until" in file.read_text()}
    assert set(REPLIES) == generating
    assert JUDGED in REPLIES


def test_verdicts_come_from_tasks_without_a_judge_first():
    assert HEADLINES == ("concept_likelihood", "rule_following", "concept_steering")
    assert DEFAULT_TASKS == ("concept_likelihood", "steered_perplexity", "concept_steering", "rule_following")


def test_a_task_of_others_has_a_column_under_its_own_name_and_more_is_better():
    other = measure_of("hellaswag")
    assert (other.title, other.scores_arms, other.higher_is_better, other.replies) == ("hellaswag", True, True, False)
    assert not measure_of("steered_perplexity").higher_is_better
    assert in_order(["b", "rule_following", "a", "concept_likelihood"]) == [
        "concept_likelihood",
        "rule_following",
        "a",
        "b",
    ]
