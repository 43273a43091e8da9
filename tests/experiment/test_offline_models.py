"""The real offline models from their texts to the report: in one process, in several, and on Ray."""

import json
import statistics

import pytest
import yaml
from small_run import command, copy_run

from steer_bench import shipped
from steer_bench.experiment import run as runs
from steer_bench.experiment.stages import dose, evaluate, extract, fit, judge, report
from steer_bench.results.file import load_results

pytestmark = pytest.mark.real
TARGET = "smollm2-135m-instruct"


def _few_texts():
    """Yield the first 3 shipped concepts, with 8 texts each, and 10 negatives."""
    for line in map(json.loads, (shipped("tasks") / "data" / "concepts.jsonl").read_text().splitlines()):
        if line["genre"] == "passage" and line.get("id", "") in ("sea", "cooking", "space", ""):
            texts = {side: line[side][:n] for side, n in (("positives", 8), ("negatives", 10)) if side in line}
            yield line | texts


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The quickstart into one of its models, with all of its tasks and very few rows, done in this process."""
    content = yaml.safe_load((shipped("experiments") / "quickstart.yaml").read_text())
    folder = tmp_path_factory.mktemp("offline")
    (folder / "few.jsonl").write_text("".join(json.dumps(line) + "\n" for line in _few_texts()))
    content |= {"concepts": {"source": str(folder / "few.jsonl"), "held_out": 3}, "splits": {"fit": 2, "test": 1}}
    content |= {"rules": ["question"], "rule_texts": 10, "adapters": ["native", "linear"], "claims": ["linear"]}
    content |= {"pairs": [["gemma-3-270m", TARGET]], "damage": [1.1], "dose": {"texts": 4, "max_words": 8}}
    content["neutral"] = content["neutral"] | {"map_limit": 10}
    for limits in content["tasks"].values():
        limits |= {key: 2 for key in limits if key in ("max_texts", "max_neutral", "max_prompts")}
        limits |= {"max_new_tokens": 4} if "max_new_tokens" in limits else {}
    (folder / "real.yaml").write_text(yaml.safe_dump(content))
    run = runs.open_run(str(folder / "real.yaml"), folder / "run")
    for stage in (extract.extract, fit.fit, dose.dose, evaluate.evaluate, judge.judge):
        stage(run)
    report.report(run, figures=False)
    return run


def test_the_offline_models_run_from_extract_to_report(finished):
    """A native vector raises the likelihood of its concept's texts."""
    results = load_results(finished.folder.results)
    assert results.run.complete
    assert not results.run.unreached
    assert {row.arm for row in results.rows} == {"unsteered", "native", "linear"}
    assert {row.task for row in results.rows} == set(finished.experiment.tasks)
    values = {
        arm: [row.value for row in results.rows if (row.arm, row.task, row.role) == (arm, "concept_likelihood", "concept")]
        for arm in ("unsteered", "native")
    }  # fmt: skip
    assert statistics.mean(values["native"]) > statistics.mean(values["unsteered"])
    assert "smollm2" in (finished.folder.path / "leaderboard.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["--processes 2", "--processes 3", "--engine ray"])
def test_ranks_and_ray_give_the_bytes_of_one_process(finished, tmp_path, way):
    if "ray" in way:
        pytest.importorskip("ray", reason="needs the extra [ray]: pip install 'steer-bench[ray]'")
    other = copy_run(finished.folder.path, tmp_path / "other")
    done = command("-m", "steer_bench", "run", str(other), "--no-figures", *way.split())
    assert done.returncode == 0, done.stderr[-3000:]
    assert (other / "leaderboard.md").read_bytes() == (finished.folder.path / "leaderboard.md").read_bytes()
