"""The dry run counts what the real run does."""

import json
from pathlib import Path
from statistics import median, stdev

import pytest
from small_run import command, small_experiment

from steer_bench.experiment import run as runs
from steer_bench.experiment.data import Data
from steer_bench.experiment.plan import StageTime, TaskCost, count, plan
from steer_bench.experiment.power import SPREAD, power, spread_of
from steer_bench.judge.config import judge_config
from steer_bench.results.board.entries import entries
from steer_bench.results.file import load_results
from steer_bench.results.stats.power import detectable


@pytest.fixture(scope="module")
def experiment(small_run):
    return small_run.with_name("small.yaml")


@pytest.fixture(scope="module")
def run(experiment, tmp_path_factory):
    """A run that is never begun."""
    return runs.open_run(str(experiment), tmp_path_factory.mktemp("small") / "never")


@pytest.fixture(scope="module")
def before(run):
    return plan(run)


def with_judge(run, judge):
    experiment = run.experiment.model_copy(update={"judge": judge_config(judge)})
    return runs.Run(experiment, Data(experiment, run.data.base), run.folder)


def test_samples_and_answers_are_those_of_the_run_and_bytes_are_near(small_run, before):
    assert any(line.startswith("extract") for line in before.missing)
    run = runs.open_run(str(small_run))
    assert plan(run).missing == []
    assert plan(run).costs == before.costs, "the arms that are there are those that were counted before"
    for target in run.targets:
        done = json.loads((run.folder.evaluation(target) / "complete.json").read_text())["samples"]
        assert {task: before.costs[target, task].samples for task in run.experiment.tasks} == done
    total = before.total
    assert total.judged == sum(before.costs[target, "concept_steering"].samples for target in run.targets)
    size = sum(file.stat().st_size for file in run.folder.path.rglob("samples_*.jsonl"))
    assert before.disk["samples"] == pytest.approx(size, rel=0.35)
    arms = sum(run.folder.arms(target).stat().st_size for target in run.targets)
    assert before.disk["arms"] <= arms


def test_counts_by_hand(run):
    """2 test concepts, 1 rule (which has no wrong concept), arms native, identity, linear, random, wrong-concept; 2 levels of damage,
    2 factors of replies, 2 + 2 prompts (1 + 1 of the rule)."""
    target = run.targets[0]
    fixed, linear, square = count(run, target, "rule_following")
    assert (linear.samples, square.samples) == (0, 0)  # more topics are no more rules
    assert fixed.samples == 2 * 1 + 4 * (
        2 + 1
    )  # prompts unsteered, arms x (selection prompt x factors + scoring prompt)
    assert fixed.written == fixed.answers * 4
    fixed, linear, _ = count(run, target, "steered_perplexity")
    pool = run.data.protocol
    own = {key: set(pool.neutral_of(key, 2)) for key in pool.concepts}
    assert (
        fixed.samples == len(set.union(*own.values())) + 2 * 4 * 2
    )  # texts unsteered, each once; texts x arms x levels of the rule
    assert linear.samples == 2 * 2 * 5 * 2  # neutral texts x topics x arms x levels
    fixed, linear, _ = count(run, target, "concept_likelihood")
    topics = run.data.splits.test
    assert fixed.samples == len(own[topics[0]] | own[topics[1]])  # neutral texts, unsteered
    assert linear.samples == 2 * (2 + 5 * 2 * (2 + 2))  # concepts x (unsteered texts + cells x (texts + neutral texts))
    fixed, linear, _ = count(run, target, "concept_steering")
    prompts = [{prompt.id for prompt in pool.prompts_of(key, 4)} for key in topics]
    assert fixed.answers == len(
        prompts[0] | prompts[1]
    )  # unsteered, each prompt is answered once, whichever concepts drew it
    assert fixed.samples + linear.samples == 2 * (4 + 5 * (2 * 2 + 2))


def test_replies_under_suppression_are_counted_and_do_not_grow_with_the_topics(tmp_path):
    tasks = {"rule_suppression": {"max_prompts": 1, "max_new_tokens": 4}}
    path = small_experiment(tmp_path, tasks=tasks, rules=[], suppress=["question"])
    run = runs.open_run(str(path), tmp_path / "run")
    work = plan(run).costs[run.targets[0], "rule_suppression"]
    assert work.samples == 2 * 1 + 4 * (
        2 + 1
    )  # prompts unsteered, arms x (selection prompt x factors + scoring prompt)
    assert work.written == work.answers * 4
    assert plan(run, concepts=20).costs[run.targets[0], "rule_suppression"] == work


def test_twice_the_concepts_and_pairs_are_twice_the_linear_work(run, before):
    double = plan(run, concepts=4)
    for key, work in before.costs.items():
        if key[1] == "rule_following":
            assert double.costs[key] == work
        else:
            fixed, linear, _ = count(run, *key)
            assert double.costs[key] == fixed + linear * 2
    assert plan(run, pairs=6).total.samples == 3 * before.total.samples


def test_a_part_uses_no_more_machines_than_it_has_pieces():
    assert StageTime("fit", 7200, 2).hours(1) == 2
    assert StageTime("fit", 7200, 2).hours(64) == 1
    assert TaskCost(1, 2, 3, 4, 5, 6) + TaskCost(1, 1, 1, 1, 1, 1) * 2 == TaskCost(3, 4, 5, 6, 7, 8)


def test_time_is_work_over_throughput_and_a_server_is_asked_its_concurrency_at_once(run, before):
    found = {stage.name: stage for stage in before.stages(100, 10)}
    assert found["measure"].seconds == pytest.approx(before.total.read / 100 + before.total.written / 10)
    assert found["extract"].seconds == before.extract / 100
    assert (found["judge"].seconds, before.judge_calls) == (0, 0)
    paid = plan(with_judge(run, {"kind": "openai", "model": "m", "concurrency": 4}))
    assert paid.judge_calls == paid.total.judged * 3
    assert {stage.name: stage for stage in paid.stages(1, 1)}["judge"].seconds == paid.judge_calls / 4


def test_the_command_prints_the_table_and_wants_rates_for_hours(run, before, experiment):
    done = command("-m", "steer_bench", "plan", str(experiment), "--scale", "--rates", "100", "10")
    assert done.returncode == 0, done.stderr
    assert f"{before.total.samples:,}" in done.stdout
    assert "64 GPUs" in done.stdout
    done = command("-m", "steer_bench", "plan", str(experiment), "--scale")
    assert done.returncode == 2
    assert "--rates READ WRITTEN" in done.stderr


def test_before_a_run_each_task_says_what_it_can_find_and_what_is_too_few(run):
    """2 directions x 2 transfer arms x 3 tasks are 12 claims: 2 ** -9 x 12 is the first below 0.025."""
    now = {one.task: one for one in power(run)}
    assert {one.fewest for one in now.values()} == {9}
    assert {task: one.n for task, one in now.items()} == {
        "concept_likelihood": 2,
        "concept_steering": 2,
        "rule_following": 1,
    }
    assert str(now["rule_following"]).endswith("from 6: too few concepts, whatever is measured")
    more = {one.task: one for one in power(run, concepts=24)}
    assert more["concept_likelihood"].smallest == pytest.approx(detectable(24, SPREAD["concept_likelihood"], 12))
    assert "an effect of" in str(more["concept_likelihood"])
    assert more["rule_following"].n == 1


def test_the_spread_of_a_finished_run_is_that_of_its_transfer_arms_effects(run, small_run):
    found = spread_of(small_run / "results.json")
    here = [entry for entry in entries(load_results(small_run / "results.json")) if entry.kind == "transfer"]
    of_task = [
        stdev(effects.values())
        for effects in (entry.cells["concept_likelihood"].effects for entry in here)
        if len(effects) > 1
    ]
    assert found["concept_likelihood"] == pytest.approx(median(of_task))
    assert {one.sd for one in power(run, small_run / "results.json") if one.task == "concept_likelihood"} == {
        found["concept_likelihood"]
    }


def test_the_spread_that_plan_takes_is_that_of_the_committed_results():
    committed = Path(__file__).parents[2] / "leaderboards" / "results" / "quickstart.json"
    assert {task: round(sd, 2) for task, sd in spread_of(committed).items()} == SPREAD
