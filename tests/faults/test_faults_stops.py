"""A run that is killed, stopped, or run twice: nothing is lost, nothing is computed twice that was kept, the report is the same bytes."""

import signal
import time
from collections import Counter

import pytest
from effort import FULL

EVERY_KILL = [
    *[(moment, k) for k in (1, 2) for moment in ("before", "inside", "after")],
    *[("inside", 1), ("after", 2), ("before", 1)],
    *[("samples", k) for k in (1, 2, 3, 4)],
    *[("rating", 1), ("rated", 1), ("rating", 4), ("rated", 5), ("rating", 2)],
    *[("replace", k) for k in (1, 2, 3, 4, 5, 6, 7)],
]
ONE_OF_EACH = [
    *[("inside", 1), ("before", 2), ("after", 2)],
    *[("samples", 1), ("rating", 1), ("rated", 5), ("replace", 1), ("replace", 5)],
]
KILLS = EVERY_KILL if FULL else ONE_OF_EACH
"""One after the other on one run folder, then a run to the end."""


@pytest.mark.slow
def test_kill_9_at_many_moments_loses_at_most_what_was_in_flight(trial, undisturbed):
    whole, lost, calls = undisturbed.records(), Counter(), trial.asked()
    killed = 0
    for kill in KILLS:
        before = {what: len(trial.noted(what)) for what in ("computed", "rated")}
        code, said = trial.run(kill=kill)
        assert code == -signal.SIGKILL, f"{kill} did not come: {said[-500:]}"
        killed += 1
        kept = trial.records() if (trial.folder / "records.sqlite").is_file() else {}
        assert kept.items() <= whole.items()
        computed = [key for key in trial.noted("computed")[before["computed"] :] if key not in kept]
        rated = [f"judged {key}" for key in trial.noted("rated")[before["rated"] :] if f"judged {key}" not in kept]
        assert len(computed) <= 8  # the batch
        assert len(rated) <= 1  # the judge's concurrency
        lost.update(computed + rated)
    code, said = trial.run()
    assert code == 0, said
    assert trial.records() == whole
    assert trial.reports() == undisturbed.reports()
    done = Counter(trial.noted("computed") + [f"judged {key}" for key in trial.noted("rated")])
    assert done == Counter(whole.keys()) + lost  # each once, and once more for each time it was in flight at a kill
    asked = trial.asked() - calls
    assert asked == undisturbed.judge_calls + sum(n for key, n in lost.items() if key.startswith("judged"))
    print(f"kill -9: {killed} kills, {sum(lost.values())} results in flight computed again, 0 records lost")


def test_a_finished_run_asks_no_model_and_no_judge_again(trial, undisturbed):
    assert trial.run()[0] == 0
    before, calls = (trial.noted("computed"), trial.noted("rated"), trial.reports()), trial.asked()
    assert trial.run()[0] == 0
    assert (trial.noted("computed"), trial.noted("rated"), trial.reports()) == before
    assert trial.asked() == calls
    samples = sorted(trial.folder.rglob("samples_concept_steering*.jsonl"))[-1]
    samples.write_bytes(samples.read_bytes()[:-40])  # cut by something else: written again from the records
    code, said = trial.run()
    assert code == 0, said
    assert (trial.noted("computed"), trial.reports(), trial.asked()) == (before[0], before[2], calls)
    assert before[2] == undisturbed.reports()


@pytest.mark.parametrize(
    ("moment", "k", "number"),
    [("before", 3, signal.SIGTERM), ("rating", 5, signal.SIGINT)],
)
def test_a_signal_stops_after_the_batch_in_flight_with_130_and_the_command_that_goes_on(
    moment, k, number, trial, undisturbed
):
    code, said = trial.run(signals=((moment, k, number),))
    assert code == 130, said
    assert "continue with: steer-bench run" in said
    assert "Traceback" not in said
    assert not (trial.folder / "results.json").exists()
    if moment == "before":  # in the middle of a batch: it is kept before the run ends
        assert set(trial.noted("computed")) == set(trial.records())
    code, said = trial.run()
    assert code == 0, said
    assert trial.reports() == undisturbed.reports()
    assert Counter(trial.noted("computed")) == Counter(undisturbed.noted("computed"))


def test_a_shard_stops_after_its_batch_holds_its_own_lock_and_goes_on(trial, undisturbed):
    command = ("evaluate", str(trial.folder), "--shard", "0/2")
    code, said = trial.run(command=command, signals=(("before", 2, signal.SIGUSR2),))
    assert code == 130, said
    assert said.rstrip().endswith("--shard 0/2")
    assert "Traceback" not in said
    first = trial.start(command=command, pause=("after", 1, 60.0))
    for _ in range(600):
        if trial.noted("paused"):
            break
        time.sleep(0.1)
    code, said = trial.run(command=command)
    assert code == 2
    assert f"process {first.process.pid} on " in said
    code, said = trial.run(command=(*command[:-1], "1/2"))  # another shard may run beside it
    assert code == 0, said
    first.process.kill()
    first.wait()
    code, said = trial.run()  # what shard 0 did not reach is computed here
    assert code == 0, said
    assert trial.reports() == undisturbed.reports()
    assert trial.records() == undisturbed.records()
    assert Counter(trial.noted("computed")) == Counter(undisturbed.noted("computed"))


def test_a_second_signal_stops_at_once(trial):
    code, said = trial.run(signals=(("before", 3, signal.SIGINT), ("inside", 3, signal.SIGINT)))
    assert code == 130, said
    kept, computed = trial.records(), trial.noted("computed")
    assert set(kept) == set(computed[: len(kept)])
    assert 1 <= len(computed) - len(kept) <= 8  # the batch in flight was rolled back


def test_a_second_process_is_refused_with_who_is_at_work_and_a_dead_one_holds_nothing(trial, undisturbed):
    first = trial.start(pause=("after", 2, 60.0))
    for _ in range(600):
        if trial.noted("paused"):
            break
        time.sleep(0.1)
    code, said = trial.run()
    assert code == 2
    assert f"process {first.process.pid} on " in said
    first.process.kill()
    assert first.wait() == -signal.SIGKILL
    code, said = trial.run()
    assert code == 0, said
    assert trial.reports() == undisturbed.reports()
    assert not (trial.folder / ".lock.json").exists()


def test_with_the_network_cut_the_run_is_the_same(trial, undisturbed):
    """The judge's answers are in the records; the model's results are not."""
    import shutil
    import sqlite3

    with (
        sqlite3.connect(undisturbed.folder / "records.sqlite") as whole,
        sqlite3.connect(trial.folder / "records.sqlite") as db,
    ):
        whole.backup(db)  # with what stands in its -wal
        db.execute("DELETE FROM records WHERE value NOT LIKE '{\"ratings\"%'")
    shutil.copytree(undisturbed.folder / "judgements", trial.folder / "judgements")
    code, said = trial.run(offline=True)
    if code == 99:
        pytest.skip("this machine lets no process leave the network")
    assert code == 0, said
    assert trial.reports() == undisturbed.reports()
    assert set(trial.noted("computed")) == set(undisturbed.noted("computed"))
