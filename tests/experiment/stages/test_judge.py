"""Judging a run: after the evaluation, by several judges, against a scripted server on loopback.

Run: python -m pytest tests/experiment/stages/test_judge.py
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import children
import pytest
import yaml
from fakes.judge_server import JudgeServer, by_prompt, every, kill, ok, status
from pytest_httpserver import HTTPServer
from small_run import small_experiment, small_models
from tiny import tiny_gemma3, tiny_llama

from steer_bench import shipped
from steer_bench.experiment import run as runs
from steer_bench.experiment.ratings import all_ratings, ratings_file, replies_of
from steer_bench.experiment.stages import dose, evaluate, extract, fit, judge, report
from steer_bench.experiment.target import open_lm
from steer_bench.files import file_digest
from steer_bench.judge.config import EmbeddingConfig, OpenAIConfig, judge_id
from steer_bench.judge.judgement import ASPECTS, JudgeError
from steer_bench.judge.ratings import load_ratings
from steer_bench.results.file import load_results
from steer_bench.results.lmeval_samples import load_rows
from steer_bench.vectors.arms import ArmsCard

CANARY = "canary-77ab3d90c1"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEER_JUDGE_API_KEY", CANARY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def fake() -> Iterator[JudgeServer]:
    with HTTPServer(host="127.0.0.1", threaded=True) as server:
        yield JudgeServer(server)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment on two tiny models: two concepts, two arms, one factor, four prompts."""
    folder = tmp_path_factory.mktemp("models")
    builds = {"m0": (tiny_llama, 48, False), "m1": (tiny_gemma3, 40, True)}
    names = small_models(folder, builds, blank=259)  # replies of whole pieces of words, none empty
    return small_experiment(
        folder,
        names,
        name="judged",
        pairs=[[names[1], names[0]]],
        concepts={"source": "concepts.jsonl", "limit": 6, "held_out": 4},
        rule_texts=8,
        neutral={"map": "neutral_map.jsonl", "map_limit": 12, "perplexity": "neutral.jsonl"},
        adapters=["native", {"random": {"seeds": 1}}, "prompt"],
        factors=[0.4],
        tasks={
            "concept_steering": {"max_prompts": 4, "max_new_tokens": 5},
            "rule_following": {"max_prompts": 2, "max_new_tokens": 4},
        },
    )


# rows of concept_steering: 2 concepts x 4 prompts x (unsteered + prompt + 2 arms)
ROWS = 2 * 4 * (1 + 1 + 2)


@pytest.fixture(scope="module")
def fitted(experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that experiment after extract, fit and dose, which ask no judge."""
    run = runs.open_run(str(experiment), tmp_path_factory.mktemp("fitted") / "run")
    extract.extract(run)
    fit.fit(run)
    dose.dose(run)
    return run.folder.path


@pytest.fixture(scope="module")
def generated(fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after an evaluation that asked no judge; its own judge is an openai judge that is not there."""
    folder = tmp_path_factory.mktemp("generated") / "run"
    shutil.copytree(fitted, folder)
    run = with_judge(folder, {"kind": "openai", "model": "fake", "base_url": "http://127.0.0.1:9/v1"})
    evaluate.evaluate(run)
    return folder


def with_judge(folder: Path, judge: dict[str, Any] | OpenAIConfig) -> runs.Run:
    """The run with another judge written into its experiment."""
    file = folder / "experiment.yaml"
    content = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(content | {"judge": judge if isinstance(judge, dict) else judge.model_dump()}))
    return runs.open_run(str(folder))


def at(fake: JudgeServer, **more: Any) -> OpenAIConfig:
    return OpenAIConfig(model="fake", base_url=fake.base_url, **more)


def spec(fake: JudgeServer, *more: str) -> str:
    return ",".join(["openai:fake", f"base_url={fake.base_url}", *more])


@pytest.fixture
def copy(generated: Path, tmp_path: Path) -> runs.Run:
    """A run of its own, generated and not judged."""
    shutil.copytree(generated, tmp_path / "run")
    return runs.open_run(str(tmp_path / "run"))


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return checked(children.command("-m", "steer_bench", *words, env=environment))


def without_torch(*words: str) -> subprocess.CompletedProcess[str]:
    """The command, whose last line says whether it imported torch: so in an interpreter of its own."""
    code = (
        "import sys, atexit; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr));"
        f"sys.argv = ['steer-bench', *{list(words)!r}]; from steer_bench.cli import main; main()"
    )
    return checked(children.fresh("-c", code))


def checked(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert "Traceback" not in done.stderr, done.stderr
    return done


by_reply = by_prompt(
    [("show this concept", ok("It does.\nRating: [[1]]")), ("asked a language", ok("It answers.\nRating: [[2]]"))],
    ok("Fluent.\nRating: [[2]]"),
)


def n_questions(run: runs.Run) -> int:
    """Different questions: concept by (concept, reply), instruction by (instruction, reply), fluency by reply."""
    replies = [reply for target in run.targets for reply in replies_of(run, target)]
    concept = {(reply.key[2], reply.text) for reply in replies}
    return len(concept) + len({(one.instruction, one.text) for one in replies}) + len({one.text for one in replies})


# --- after an evaluation, which asks no judge ---


def test_an_evaluation_leaves_replies_unrated_and_scores_rules(generated: Path) -> None:
    run = runs.open_run(str(generated))
    assert not (generated / "judgements").exists()
    rows = load_rows(run.folder.evaluation(run.targets[0]))
    replies = [row for row in rows if row.task == "concept_steering"]
    assert len(replies) == ROWS
    assert {(row.value, row.reason) for row in replies} == {(None, "not judged")}
    assert all(row.ratings.keys() == {"distinct_2", "perplexity"} for row in replies)
    assert {row.value for row in rows if row.task == "rule_following"} <= {0.0, 1.0}


def test_a_rating_reaches_the_report_from_the_judges_file_only(copy: runs.Run) -> None:
    """Samples of a run begun before hold ratings of their own; what the report shows is what the file says, or nothing."""
    run = with_judge(copy.folder.path, {"kind": "embedding"})
    [file] = judge.judge(run)
    report.report(run, figures=False)
    shown = rated(run)
    assert len(shown) == ROWS
    assert all({*ASPECTS, "distinct_2", "perplexity"} == set(row.ratings) for row in shown)
    said = {key: one.score for key, one in load_ratings(file).judgements.items()}
    values = {(row.arm, row.source, row.concept, row.factor, row.item): row.value for row in shown}
    assert values == pytest.approx(said, rel=1e-4)  # results.json holds five digits
    page = (run.folder.path / "leaderboard.md").read_text()
    samples = next(run.folder.evaluation(run.targets[0]).rglob("samples_concept_steering_*.jsonl"))
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    for line in lines:
        row = line[line["metrics"][0]]
        row |= {"value": 1.75, "reason": "", "ratings": row["ratings"] | dict.fromkeys(ASPECTS, 1.75)}
    samples.write_text("".join(json.dumps(line) + "\n" for line in lines))
    complete = run.folder.evaluation(run.targets[0]) / "complete.json"
    done = json.loads(complete.read_text())
    done["files"][str(samples.relative_to(complete.parent))] = file_digest(samples)
    complete.write_text(json.dumps(done))
    report.report(run, figures=False)
    assert rated(run) == shown
    assert (run.folder.path / "leaderboard.md").read_text() == page
    shutil.rmtree(run.folder.path / "judgements")
    report.report(run, figures=False)
    assert {(row.value, row.reason) for row in rated(run)} == {(None, "not judged")}
    assert all(row.ratings.keys() == {"distinct_2", "perplexity"} for row in rated(run))


def test_judging_within_plain_lm_eval_gives_what_stage_judge_gives(copy: runs.Run) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    run = with_judge(copy.folder.path, {"kind": "embedding"})
    [target], [file] = run.targets, judge.judge(run)
    run.data.protocol.save(run.folder.protocol)  # with this judge
    limits = {"concept_steering": {"max_prompts": 4, "max_new_tokens": 5}}
    metadata = {"arms": str(run.folder.arms(target)), "records": str(run.folder.records), "limits": limits}
    manager = TaskManager(include_path=str(shipped("tasks")), include_defaults=False, metadata=metadata)
    lm = open_lm(run, target)
    found = simple_evaluate(
        model=lm, tasks=["concept_steering"], task_manager=manager, bootstrap_iters=0,
        apply_chat_template=lm.tokenizer.chat_template is not None,
    )  # fmt: skip
    rows = [sample[sample["metrics"][0]] for sample in found["samples"]["concept_steering"]]
    said = load_ratings(file).judgements
    assert len(rows) == len(said) == ROWS
    for row in rows:
        judgement = said[row["arm"], row["source"], row["concept"], row["factor"], row["item"]]
        assert (row["value"], row["reason"]) == (judgement.score, "")
        assert judgement.ratings.items() <= row["ratings"].items()


def test_a_reply_picked_from_nan_is_not_rated_and_stays_so_in_the_report(copy: runs.Run) -> None:
    samples = next(copy.folder.evaluation(copy.targets[0]).rglob("samples_concept_steering_*.jsonl"))
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    broken = next(line for line in lines if line["doc"]["arm"] == "native")
    for metric in broken["metrics"]:
        broken[metric] |= {"value": None, "reason": "non_finite", "ratings": {}}
    samples.write_text("".join(json.dumps(line) + "\n" for line in lines))
    complete = copy.folder.evaluation(copy.targets[0]) / "complete.json"
    done = json.loads(complete.read_text())
    done["files"][str(samples.relative_to(complete.parent))] = file_digest(samples)
    complete.write_text(json.dumps(done))
    run = with_judge(copy.folder.path, {"kind": "embedding"})
    [file] = judge.judge(run)
    assert load_ratings(file).card.total == ROWS - 1
    report.report(run, figures=False)
    assert [row.arm for row in rated(run) if row.reason == "non_finite"] == ["native"]


def rated(run: runs.Run) -> list[Any]:
    return [row for row in load_results(run.folder.results).rows if row.task == "concept_steering"]


def test_the_embedding_judges_thresholds_are_in_the_run(copy: runs.Run) -> None:
    run = with_judge(copy.folder.path, {"kind": "embedding"})
    [file] = judge.judge(run)
    calibration = load_ratings(file).card.calibration
    assert set(calibration.concepts) == set(run.data.splits.test)
    marks = ArmsCard.read(run.folder.arms(run.targets[0])).yardstick
    scored = {one.instruction for one in replies_of(run, run.targets[0])}
    assert len(marks) >= 20
    assert not scored & {instruction for instruction, _, _ in marks}
    assert calibration.unsteered_perplexity == pytest.approx(
        median(mark[2] for mark in marks if mark[1].strip()), rel=1e-5
    )
    assert all(scale["zero"] < scale["two"] for scale in calibration.concepts.values())


def test_the_prompt_arm_asks_for_the_concept_and_is_judged_on_the_plain_instruction(generated: Path) -> None:
    run = runs.open_run(str(generated))
    file = next(run.folder.evaluation(run.targets[0]).rglob("samples_concept_steering_*.jsonl"))
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    asked = [sample for sample in samples if sample["doc"]["arm"] == "prompt"]
    plain = {(s["doc"]["concept"], s["doc"]["item"]): s for s in samples if s["doc"]["arm"] == "unsteered"}
    assert len(asked) == 2 * 4
    for sample in asked:
        doc, context = sample["doc"], sample["arguments"]["gen_args_0"]["arg_0"]
        assert doc["text"] == plain[doc["concept"], doc["item"]]["doc"]["text"]
        assert doc["text"] in context
        assert run.data.concepts[doc["concept"]].description in context
        steered = sample["arguments"]["gen_args_0"]["arg_2"]["steer"]
        assert (steered["arm"], steered["factor"]) == ("unsteered", 0.0)
    rules = next(run.folder.evaluation(run.targets[0]).rglob("samples_rule_following_*.jsonl")).read_text()
    assert '"arm": "prompt"' in rules


# --- another judge on the same run ---


def test_a_second_judge_stands_beside_the_first_with_their_agreement(fake: JudgeServer, copy: runs.Run) -> None:
    run = with_judge(copy.folder.path, {"kind": "embedding"})
    judge.judge(run)
    first = {file: file.read_bytes() for file in (run.folder.path / "judgements").rglob("*.jsonl")}
    fake.default = by_reply
    judge.judge(run, at(fake))
    assert len(fake.calls) == n_questions(run)
    assert {file: file.read_bytes() for file in first} == first
    report.report(run, figures=False)
    results = load_results(run.folder.results)
    own, other = judge_id(EmbeddingConfig()), judge_id(at(fake))
    assert [one.id for one in results.run.judges] == [own, other]
    lines = {line.aspect: line for line in results.run.agreement}
    assert set(lines) == {*ASPECTS, "score"}
    assert all(line.judges == (own, other) and line.n == ROWS for line in lines.values())
    assert lines["fluency"].spearman is None  # the fake says 2 to all: no order
    # by hand: kappa = 1 - mean (a - b)^2 / mean over all pairs (a - b)^2; with b always 2 both means are the same
    assert lines["fluency"].kappa == pytest.approx(0.0, abs=1e-9)
    assert "embedding" in results.run.judge.name
    page = (run.folder.path / "leaderboard.md").read_text()
    assert "Agreement of judges" in page


def test_the_report_shows_either_judge(fake: JudgeServer, copy: runs.Run) -> None:
    run = with_judge(copy.folder.path, {"kind": "embedding"})
    fake.default = by_reply
    judge.judge(run, at(fake))
    report.report(run, figures=False, judge="openai")
    results = load_results(run.folder.results)
    rated = [row for row in results.rows if row.task == "concept_steering"]
    assert {row.value for row in rated} == {3 / (1 + 1 / 2 + 1 / 2)}
    assert results.run.judge.name == "fake at 127.0.0.1"
    report.report(run, figures=False)
    results = load_results(run.folder.results)
    assert {row.value for row in results.rows if row.task == "concept_steering"} == {
        None
    }  # its own judge rated nothing
    with pytest.raises(ValueError, match=r"rated none of its replies.*openai-fake"):
        report.report(run, figures=False, judge="local")


def test_judging_again_asks_nothing_and_changes_nothing(fake: JudgeServer, copy: runs.Run) -> None:
    fake.default = by_reply
    [file] = judge.judge(copy, at(fake))
    before = file.read_bytes()
    fake.calls.clear()
    judge.judge(copy, at(fake, concurrency=3))  # how fast it is asked makes no other judge
    assert fake.calls == []
    assert file.read_bytes() == before


def test_ratings_of_other_replies_are_not_used(fake: JudgeServer, copy: runs.Run) -> None:
    [file] = judge.judge(copy, at(fake))
    samples = next(copy.folder.evaluation(copy.targets[0]).rglob("samples_concept_steering_*.jsonl"))
    lines = samples.read_text().splitlines()
    changed = json.loads(lines[-1])
    changed["resps"] = [["another reply"]]
    samples.write_text("\n".join([*lines[:-1], json.dumps(changed)]) + "\n")
    assert all_ratings(copy) == {}
    fake.calls.clear()
    judge.judge(copy, at(fake))
    assert len(fake.calls) == 3  # the three aspects of the new reply
    assert load_ratings(file).card.total == ROWS


# --- exit codes and faults ---


def test_j5_a_judge_that_is_not_there_is_exit_2_before_anything_is_loaded(fitted: Path, tmp_path: Path) -> None:
    shutil.copytree(fitted, tmp_path / "run")
    with_judge(tmp_path / "run", {"kind": "openai", "model": "fake", "base_url": "http://127.0.0.1:9/v1"})
    done = without_torch("run", str(tmp_path / "run"))
    assert (done.returncode, done.stderr.strip().splitlines()[-1]) == (2, "False"), done.stderr
    assert "http://127.0.0.1:9/v1" in done.stderr
    assert not (tmp_path / "run" / "evaluation").exists()
    done = command("evaluate", str(tmp_path / "run"), "--predict-only")  # which asks no judge, with the flag or without
    assert done.returncode == 0, done.stderr
    run = runs.open_run(str(tmp_path / "run"))
    assert len(replies_of(run, run.targets[0])) == ROWS


def test_j4_a_judge_that_stops_in_a_run_costs_no_reply(fake: JudgeServer, fitted: Path, tmp_path: Path) -> None:
    shutil.copytree(fitted, tmp_path / "run")
    # One question at a time: of several in flight the refusal of one may end another whose answer is on its way.
    run = with_judge(tmp_path / "run", at(fake, concurrency=1))
    fake.then(*[by_reply] * 6)  # the probe, then five
    fake.default = status(401, f"Incorrect API key provided: {CANARY}")
    done = command("run", str(run.folder), "--no-figures")
    assert done.returncode == 4, done.stderr
    assert f"steer-bench judge {run.folder}" in done.stderr
    assert len(replies_of(run, run.targets[0])) == ROWS
    fake.default = by_reply
    fake.calls.clear()
    done = without_torch("judge", str(run.folder))
    assert done.stderr.strip().splitlines()[-1] == "False", "judging needs no torch"
    assert done.returncode == 0, done.stderr
    assert len(fake.calls) == 1 + n_questions(run) - 5
    report.report(run, figures=False)
    assert load_results(run.folder.results).run.judges[0].unscored == 0
    files = b"".join(path.read_bytes() for path in run.folder.path.rglob("*") if path.is_file())
    assert len(files) > 10_000
    assert CANARY.encode() not in files


def test_j10_too_many_unscored_is_exit_3_and_the_rest_is_rated(fake: JudgeServer, copy: runs.Run) -> None:
    fake.default = by_prompt([("show this concept: the sea", status(413, "too long"))], by_reply)
    name = copy.data.concepts[copy.data.splits.test[0]].description
    fake.default = by_prompt([(f"show this concept: {name}", status(413, "too long"))], by_reply)
    done = command("judge", str(copy.folder), "--judge", spec(fake))
    assert done.returncode == 3, done.stderr
    assert (
        f"incomplete: {ROWS // 2} of {ROWS} replies unscored ({ROWS // 2} http_413) = 50.0% (limit 2.0%)" in done.stderr
    )
    allowed = command("judge", str(copy.folder), "--judge", spec(fake), "--max-unscored", "0.6")
    assert allowed.returncode == 0
    fake.default = by_reply
    fake.calls.clear()
    mended = command("judge", str(copy.folder), "--judge", spec(fake))
    assert mended.returncode == 0
    assert 0 < len(fake.calls) <= 1 + ROWS // 2  # the probe, and only what had no rating


def test_a_third_of_calls_answered_429_costs_no_judgement(fake: JudgeServer, copy: runs.Run) -> None:
    fake.default = every(3, status(429, headers={"Retry-After-Ms": "20"}), by_reply)
    [file] = judge.judge(copy, at(fake))
    ratings = load_ratings(file)
    assert ratings.unscored == 0
    assert ratings.card.total == ROWS
    assert ratings.card.usage.retries == len(fake.calls) - n_questions(copy)
    assert ratings.card.usage.retries >= n_questions(copy) // 3


@pytest.mark.parametrize(
    "when", [pytest.param("first", marks=pytest.mark.slow), "middle", pytest.param("last", marks=pytest.mark.slow)]
)
def test_a_killed_judging_goes_on_with_the_missing_calls_only(fake: JudgeServer, copy: runs.Run, when: str) -> None:
    total = n_questions(copy)
    position = {"first": 1, "middle": total // 2, "last": total}[when]
    code = (
        "import sys; print('ready', flush=True); sys.stdin.readline()\n"
        f"sys.argv = ['steer-bench', 'judge', {str(copy.folder)!r}, '--judge', {spec(fake, 'concurrency=1')!r}]\n"
        "from steer_bench.cli import main; main()"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    fake.then(*[by_reply] * position, kill(child.pid))  # one more: the probe
    child.communicate("go\n", timeout=120)
    assert child.returncode == -9
    fake.calls.clear()
    fake.default = by_reply
    [file] = judge.judge(copy, at(fake))
    assert len(fake.calls) == total - (position - 1)
    assert load_ratings(file).unscored == 0


def test_a_judge_that_stops_leaves_earlier_ratings_as_they_are(fake: JudgeServer, copy: runs.Run) -> None:
    name = copy.data.concepts[copy.data.splits.test[0]].description
    fake.default = by_prompt([(f"show this concept: {name}", status(413, "too long"))], by_reply)
    [file] = judge.judge(copy, at(fake))
    before = file.read_bytes()
    fake.default = status(401, "no")
    with pytest.raises(JudgeError, match=f"steer-bench judge {copy.folder}"):
        judge.judge(copy, at(fake))
    assert file.read_bytes() == before


def test_the_probe_takes_no_time_where_nothing_is_left_to_rate(fake: JudgeServer, copy: runs.Run) -> None:
    run = with_judge(copy.folder.path, at(fake))
    judge.judge(run)
    fake.calls.clear()
    start = time.monotonic()
    done = command("run", str(run.folder), "--no-figures")
    assert done.returncode == 0, done.stderr
    assert fake.calls == []
    assert time.monotonic() - start < 300


# --- the words of the judge ---


def test_each_rating_comes_with_the_judges_words_and_all_of_them_where_it_was_asked_again(
    fake: JudgeServer, copy: runs.Run
) -> None:
    fake.default = by_reply
    fake.then(ok("Hm"), ok("Hm again"))
    judge.judge(copy, at(fake, concurrency=1))
    ratings = load_ratings(ratings_file(copy, at(fake), copy.targets[0]))
    assert set(ratings.judgements) == {reply.key for reply in replies_of(copy, copy.targets[0])}
    assert all(set(one.explanation) == set(ASPECTS) for one in ratings.judgements.values())
    again = [one for one in ratings.judgements.values() if one.raw]
    assert again
    assert all(one.raw["concept"] == ("Hm", "Hm again", "It does.\nRating: [[1]]") for one in again)
    assert sum(ratings.card.reasked.values()) == 2 * len(again)


# --- the check ---


def test_the_check_goes_into_the_provenance_and_onto_the_page(fake: JudgeServer, copy: runs.Run) -> None:
    """A judge that finds every concept in every text, and only shuffled words broken: 0.5 and 1."""
    run = with_judge(copy.folder.path, at(fake))
    whole = {
        text
        for sides in run.data.vector_and_held_out_texts.values()
        for text in (*sides[0].positives, *sides[0].negatives)
    }

    def answer(request: Any, body: dict[str, Any]) -> Any:
        prompt = body["messages"][-1]["content"]
        shuffled = "fluent person" in prompt and not any(text in prompt for text in whole)
        return ok(f"So.\nRating: [[{0 if shuffled else 2}]]")(request, body)

    fake.default = answer
    done = command("judge", str(run.folder), "--check", "--limit", "3")
    assert done.returncode == 0, done.stderr
    found = {
        line.split("|")[1].strip(): line.split("|")[3].strip() for line in done.stdout.splitlines() if "| all" in line
    }
    assert (found["concept"], found["fluency"]) == ("0.500", "1.000")
    judge.judge(run)
    report.report(run, figures=False)
    check = load_results(run.folder.results).run.judge.check
    assert (check.auroc["concept"], check.auroc["fluency"], check.unscored) == (0.5, 1.0, 0.0)
    assert "fluency AUROC 1" in (run.folder.path / "leaderboard.md").read_text()
