"""A grid of factors in two steps: the selection prompts at every factor, the others at the chosen one; nothing else changes."""

import json
from collections import Counter, defaultdict
from statistics import fmean
from types import SimpleNamespace

import pytest
from small_run import command, copy_run, records

from steer_bench.experiment import run as runs
from steer_bench.experiment import selection
from steer_bench.experiment.engines import STAGES, order
from steer_bench.experiment.stages.report import report
from steer_bench.experiment.target import open_lm, task_metadata
from steer_bench.harness.evaluation import Evaluation
from steer_bench.judge.config import EmbeddingConfig
from steer_bench.records import Records
from steer_bench.results.file import load_results
from steer_bench.results.lmeval_samples import load_rows
from steer_bench.results.rows import Row
from steer_bench.results.stats.grid import ArmKey
from steer_bench.results.stats.values import task_values
from steer_bench.vectors.arms import ArmEntry, ArmsCard

FACTORS = (0.2, 0.4)
TASKS = {"concept_steering": (2, 2, 5), "rule_following": (1, 1, 4)}
"""Concepts, prompts of each role, and steering arms: a lone rule has no wrong concept."""


def test_each_role_has_the_rows_of_its_step(small_run):
    run = runs.open_run(str(small_run))
    for target in run.targets:
        rows = load_rows(run.folder.evaluation(target))
        for task, (concepts, prompts, arms) in TASKS.items():
            mine = [row for row in rows if row.task == task]
            found = Counter((row.role, row.factor) for row in mine if row.factor)
            at_one = concepts * prompts * arms
            assert [found["select", factor] for factor in FACTORS] == [at_one, at_one]
            assert sum(found["score", factor] for factor in FACTORS) == at_one
            cells = {
                (row.arm, row.source, row.concept, row.factor) for row in mine if row.role == "score" and row.factor
            }
            assert len(cells) == concepts * arms, "one factor for each arm and concept"
            assert Counter(row.role for row in mine if not row.factor) == dict.fromkeys(
                ("select", "score"), concepts * prompts
            )


def test_the_scored_rows_are_those_at_the_factor_that_all_rows_of_plain_lm_eval_select(small_run, tmp_path):
    """By hand: of one step's selection rows the factor with the best mean, of equals the smaller; then its other rows."""
    run = runs.open_run(str(copy_run(small_run, tmp_path / "run")))
    run.data.protocol.save(run.folder.protocol)
    two_steps = [row for row in load_results(small_run / "results.json").rows if row.task in TASKS]
    for target in run.targets:
        lm = open_lm(run, target)
        metadata = {**task_metadata(run, target, run.experiment.limits), "rate": True}
        Evaluation(lm, list(TASKS), metadata, tmp_path / "plain", chat=True, seed=0, batch_size=4).save()
        lm.steerer.remove()
        selected, scored = defaultdict(lambda: defaultdict(list)), defaultdict(dict)
        for row in (row for row in load_rows(tmp_path / "plain") if row.target == target):
            of = selected if row.role == "select" and row.factor else scored
            key = row.task, row.arm, row.source, row.concept
            if of is selected:
                selected[key][row.factor].append(row.value)
            else:
                scored[key][row.factor, row.item] = row.value
        wanted = {}
        for key, values in scored.items():
            means = {factor: fmean(found) for factor, found in sorted(selected[key].items())}
            best = max(means, key=means.get) if means else 0.0
            wanted |= {(*key, *place): value for place, value in values.items() if place[0] == best}
        found = {
            (row.task, row.arm, row.source, row.concept, row.factor, row.item): row.value
            for row in two_steps
            if row.target == target and (row.role == "score" or not row.factor)
        }
        assert found == pytest.approx(wanted, rel=1e-4)  # results.json holds five digits
        assert len(found) == sum(n * p * (arms + 2) for n, p, arms in TASKS.values())


def test_between_the_steps_each_stage_says_how_to_go_on_and_nothing_is_lost_or_done_twice(
    small_run, tmp_path, monkeypatch
):
    run = runs.open_run(str(copy_run(small_run, tmp_path / "run")))
    computed, add = Counter(), Records.add
    monkeypatch.setattr(Records, "add", lambda self, values: (computed.update(list(values)), add(self, values))[1])
    STAGES["evaluate"](run)
    whole = records(small_run)
    assert 0 < len(records(run.folder.path)) < len(whole)
    assert {
        row.role for target in run.targets for row in load_rows(run.folder.evaluation(target)) if row.task in TASKS
    } == {"select"}
    with pytest.raises(runs.MissingStageError, match=r"steer-bench judge .*, then steer-bench evaluate"):
        report(run)
    done = command("-m", "steer_bench", "evaluate", str(run.folder))
    assert done.returncode == 0, done.stderr
    assert f"run steer-bench judge {run.folder}, then steer-bench evaluate {run.folder}" in done.stderr
    STAGES["judge"](run)
    with pytest.raises(runs.MissingStageError, match=r"run steer-bench evaluate [^,]*$"):
        report(run)
    files = [run.folder.evaluation(target) / "complete.json" for target in run.targets]
    first = [file.read_bytes() for file in files]
    STAGES["evaluate"](run)
    for file, content in zip(files, first, strict=True):  # killed after its samples, before it was said to be complete
        file.write_bytes(content)
    for stage in order(run):
        STAGES[stage](run)
    assert run.folder.results.read_bytes() == (small_run / "results.json").read_bytes()
    assert records(run.folder.path) == whole
    assert set(computed.values()) == {1}
    before = sum(computed.values())
    for stage in order(run):
        STAGES[stage](run)
    assert sum(computed.values()) == before
    assert all(json.loads(file.read_text())["chosen"].keys() == TASKS.keys() for file in files)


def row(arm: str, factor: float, item: str, role: str, value: float | None) -> Row:
    return Row("rule_following", "t", "", arm, "c", factor, item, role, value, reason="" if value is not None else "no")


def test_seeds_of_one_control_choose_together_and_an_arm_without_scored_selection_rows_chooses_nothing(monkeypatch):
    """Alone seed 0 would choose 0.2 (0.9 > 0.8) and seed 1 0.4 (0.7 > 0.1); together 0.4: (0.8 + 0.7) / 2 > (0.9 + 0.1) / 2."""
    of = {("random-0", 0.2): 0.9, ("random-0", 0.4): 0.8, ("random-1", 0.2): 0.1, ("random-1", 0.4): 0.7}
    of |= dict.fromkeys([("native", 0.2), ("native", 0.4)])
    entries = [ArmEntry(adapter="random", variant=seed, method="random", concepts=("c", "other")) for seed in "01"]
    entries.append(ArmEntry(adapter="native", concepts=("c",)))
    monkeypatch.setattr(ArmsCard, "read", lambda _: ArmsCard(arms=entries))
    monkeypatch.setattr(selection, "load_rows", lambda _: [row(*at, "p", "select", value) for at, value in of.items()])
    experiment = SimpleNamespace(grids=["rule_following"], judge=EmbeddingConfig())
    folder = SimpleNamespace(arms=lambda _: None, evaluation=lambda _: None)
    found = selection.choose(SimpleNamespace(experiment=experiment, folder=folder), "t")
    chosen = {"random-0": 0.4, "random-1": 0.4, "native": None}
    assert found == {"rule_following": [[arm, "", "c", factor] for arm, factor in chosen.items()]}


def test_what_was_scored_is_shown_whatever_another_judge_would_have_chosen():
    rows = [row("native", factor, "p", "select", value) for factor, value in ((0.2, 2.0), (0.4, 1.0))]
    rows += [row("native", 0.4, "q", "score", 1.5), row("unsteered", 0.0, "q", "score", 0.5)]
    values = task_values(rows, "rule_following", "t", level=0)
    assert values.value(ArmKey("", "native")).tolist() == [1.5]
    assert values.factors[ArmKey("", "native")].tolist() == [0.4]
