"""Ranks and shards against one process: the same answers, the same files. Real processes, gloo on this machine's CPU."""

import json
import re
import shutil
from pathlib import Path

import pytest
from small_run import accelerate, command, copy_run, in_ranks, records, torchrun
from steered import PROMPTS, TEXTS, likelihoods, make_arms, replies, rolling, steer, steered_lm, tiny_pair
from tiny import save_tiny

from steer_bench.experiment import run as runs
from steer_bench.experiment.shards import measure_shards, merge, prepare
from steer_bench.experiment.stages import evaluate, judge, report
from steer_bench.harness import ranks
from steer_bench.harness.model import SteeredLM
from steer_bench.models.device import ELSEWHERE, ON_CPU
from steer_bench.records import Records, ShardRecords

TASKS = Path(__file__).parents[2] / "tasks"
LIMITS = {"max_texts": 2, "max_neutral": 2, "max_concepts": 1, "max_words": 8, "max_prompts": 2, "max_new_tokens": 4}


@pytest.fixture(scope="module")
def fitted(small_run, tmp_path_factory):
    """A run up to its arms."""
    return runs.open_run(str(copy_run(small_run, tmp_path_factory.mktemp("fitted") / "run")))


@pytest.fixture(scope="module")
def alone(small_run):
    """The same run evaluated and reported in one process."""
    return runs.open_run(str(small_run))


def again(run, to):
    copy_run(run.folder.path, to)
    return runs.open_run(str(to))


def page(folder):
    return (Path(folder) / "leaderboard.md").read_bytes()


def rows(run):
    return sorted(json.dumps(row, sort_keys=True) for row in json.loads(run.folder.results.read_text())["rows"])


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_shards_in_any_order_then_evaluate_give_the_same_records_rows_and_page_without_weights(
    fitted, alone, tmp_path, count, monkeypatch
):
    run = again(fitted, tmp_path / "run")
    for _ in range(2):  # selection prompts, then the others
        for index in reversed(range(count)):
            measure_shards(run, index, count)
        for target in run.targets:
            held = [len(Records(file)) for file in sorted(run.folder.shards(target).glob("*.sqlite"))]
            assert len(held) == count
            assert min(held) > 0
        with monkeypatch.context() as patch:
            patch.setattr("transformers.AutoModelForCausalLM.from_pretrained", _never)
            evaluate.evaluate(run)
        judge.judge(run)
    report.report(run, figures=False)
    assert records(run.folder.path) == records(alone.folder.path)
    assert rows(run) == rows(alone)
    assert page(run.folder.path) == page(alone.folder.path)
    assert not list((run.folder.path / "shards").rglob("*.sqlite"))


def _never(*_args, **_kwargs):
    raise AssertionError("weights were loaded")


@pytest.mark.slow
def test_what_no_shard_measured_is_computed_by_evaluate(fitted, alone, tmp_path):
    run = again(fitted, tmp_path / "run")
    measure_shards(run, 1, 3)  # the others never ran
    for _ in range(2):
        evaluate.evaluate(run)
        judge.judge(run)
    report.report(run, figures=False)
    assert records(run.folder.path).keys() == records(alone.folder.path).keys()
    assert page(run.folder.path) == page(alone.folder.path)


def test_a_finished_shard_is_a_no_op_and_another_number_of_shards_repeats_nothing(fitted, tmp_path, monkeypatch):
    run = again(fitted, tmp_path / "run")
    target = run.targets[0]
    computed = _counted(monkeypatch)
    measure_shards(run, 0, 2)
    first = len(computed)
    assert first > 0
    measure_shards(run, 0, 2)
    assert len(computed) == first
    for index in range(3):  # the run goes on in three
        if index == 0:
            for name in run.targets:
                prepare(run, name, 3)
        measure_shards(run, index, 3)
    assert len(computed) == len(set(computed))
    assert merge(run, target) == "float32"


def _counted(monkeypatch):
    """Keys of all records that are added, in order."""
    keys, add = [], Records.add

    def counting(self, values):
        keys.extend(values)
        add(self, values)

    monkeypatch.setattr(Records, "add", counting)
    return keys


def test_a_shard_deals_out_whole_batches_each_item_once(tmp_path):
    items = list(range(23))
    dealt = []
    for index in range(3):
        shard = ShardRecords(tmp_path / f"{index}", Records(), index, 3)
        mine = [*shard.mine(items, 4, lambda item: [str(item)]), *shard.mine([100, 101], 4, lambda item: [str(item)])]
        assert all(mine[i : i + 4] == list(range(mine[i], mine[i] + 4)) for i in range(0, len(mine) - 4, 4))
        dealt += mine
    assert sorted(dealt) == [*items, 100, 101]
    shard = ShardRecords(tmp_path / "0", Records(), 0, 3)
    shard.add({str(item): 1 for item in range(4)})
    assert shard.mine(items, 4, lambda item: [str(item)]) == [
        12,
        13,
        14,
        15,
    ]  # batch 0 is in its file, 3 of 0..5 is left
    assert shard.get(["no such key"])["no such key"][0] == "nan"
    with pytest.raises(ValueError, match="numbered 0 to 2"):
        ShardRecords(tmp_path / "3", Records(), 3, 3)


def test_shards_on_other_kinds_of_device_leave_no_request_to_none(tmp_path, monkeypatch):
    model, tokenizer = tiny_pair("llama")
    jobs = [(f"{i:03d} {TEXTS[0]}", steer(factor=1.0)) for i in range(300)]
    for index, most in enumerate((ON_CPU, ELSEWHERE)):
        monkeypatch.setattr("steer_bench.models.steered.model.sizes", lambda _, most=most: most)
        records = ShardRecords(tmp_path / str(index), Records(), index, 2)
        lm = steered_lm(model, tokenizer, make_arms(), batch_size="auto", records=records)
        rolling(lm, jobs)
        lm.steerer.remove()
        records.close()
    assert [len(Records(tmp_path / str(index))) for index in range(2)] == [128 + 44, 128]


def test_several_writers_lose_no_record_and_read_only_readers_see_all(tmp_path):
    code = (
        "import sys; from steer_bench.records import Records; records = Records(sys.argv[1]);"
        "[records.add({f'{sys.argv[2]}-{i}': i, 'shared': sys.argv[2]}) for i in range(200)]; records.close()"
    )
    import subprocess
    import sys

    file = tmp_path / "records.sqlite"
    children = [subprocess.Popen([sys.executable, "-c", code, str(file), name]) for name in "abcd"]
    assert [child.wait() for child in children] == [0] * 4
    assert len(Records(file)) == 4 * 200 + 1


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_run_in_several_processes_gives_the_page_of_one(fitted, alone, tmp_path, count):
    run = again(fitted, tmp_path / "run")
    done = command("-m", "steer_bench", "run", str(run.folder), "--no-figures", "--processes", str(count))
    assert done.returncode == 0, done.stderr[-3000:]
    assert records(run.folder.path) == records(alone.folder.path)
    assert page(run.folder.path) == page(alone.folder.path)


@pytest.mark.parametrize("launch", [in_ranks, pytest.param(torchrun, marks=pytest.mark.slow)])
def test_ranks_of_the_whole_run_extract_and_fit_together(fitted, alone, tmp_path, launch):
    """From nothing, also under torchrun itself; the vectors and arms are the same bytes too."""
    (tmp_path / "run").mkdir()
    shutil.copy(fitted.folder.experiment, tmp_path / "run")
    done = launch(2, "steer_bench", "run", str(tmp_path / "run"), "--no-figures")
    assert done.returncode == 0, done.stderr[-3000:]
    for part in ("vectors", "arms", "maps"):
        files = {file.relative_to(fitted.folder.path) for file in (fitted.folder.path / part).rglob("*.safetensors")}
        assert files
        assert all((tmp_path / "run" / file).read_bytes() == (fitted.folder.path / file).read_bytes() for file in files)
    assert page(tmp_path / "run") == page(alone.folder.path)


def lm_eval(run, out, tasks, *more, n=1, metadata=LIMITS, launch=in_ranks):
    target = run.targets[0]
    words = [
        "lm_eval", "--model", "steer_bench", "--device", "cpu", "--batch_size", "4",
        "--model_args", f"pretrained={target},arms={run.folder.arms(target)},dtype=float32",
        "--tasks", ",".join(str(TASKS / f"{task}.yaml") for task in tasks),
        "--metadata", json.dumps(metadata), "--output_path", str(out), "--log_samples", *more,
    ]  # fmt: skip
    done = launch(n, *words) if n > 1 else command("-m", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(next(out.rglob("results_*.json")).read_text())["results"]
    samples = {
        file.name.split("_2")[0]: [json.loads(line) for line in file.read_text().splitlines()]
        for file in out.rglob("samples_*.jsonl")
    }
    return results, samples


@pytest.mark.parametrize(
    ("two", "three"), [(in_ranks, in_ranks), pytest.param(accelerate, torchrun, marks=pytest.mark.slow)]
)
def test_lm_eval_itself_on_2_and_3_ranks_gives_the_results_and_samples_of_one_also_of_fewer_rows_than_ranks(
    fitted, tmp_path, two, three
):
    """2 ranks, also by accelerate; 3, also by torchrun, that measure 2 rows of each task: lm-eval alone dies of a rank without rows
    (its issue 3511)."""
    tasks = ("concept_likelihood", "steered_perplexity", "concept_steering", "rule_following")
    one, samples = lm_eval(fitted, tmp_path / "1", tasks)
    results, found = lm_eval(fitted, tmp_path / "2", tasks, n=2, launch=two)
    assert results.keys() == one.keys()
    for task, of_task in one.items():
        assert results[task].keys() == of_task.keys()
        for key, value in of_task.items():
            near = pytest.approx(value, rel=1e-5, abs=1e-5) if isinstance(value, float) else value
            assert results[task][key] == near, (task, key)
    few, first = lm_eval(fitted, tmp_path / "3", tasks[:2], "--limit", "2", "--predict_only", n=3, launch=three)
    assert few.keys() == set(tasks[:2])
    for task, expected in samples.items():
        for other, n in ((found, len(expected)), (first, 2)):
            if task not in other:
                continue
            assert [sample["doc"] for sample in other[task]] == [sample["doc"] for sample in expected[:n]]
            for sample, wanted in zip(other[task], expected[:n], strict=True):
                assert _values(sample) == pytest.approx(_values(wanted), abs=1e-5)
                assert _texts(sample) == _texts(wanted)


def _answers(sample):
    return [part for answer in sample["resps"] for one in answer for part in (one if isinstance(one, list) else [one])]


def _values(sample):
    """Log-likelihoods, as lm-eval writes them: numbers, or texts of numbers."""
    return [float(part) for part in _answers(sample) if re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", str(part))]


def _texts(sample):
    return [part for part in _answers(sample) if not re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", str(part))]


def test_what_ranks_hold_is_put_together_as_one_rank_would_have_it():
    rows = [{"doc_id": i, "filter": "none"} for i in range(5)]
    padding = {"doc_id": ranks.PADDING, "filter": "none"}
    parts = [{"t": rows[0::3]}, {"t": rows[1::3]}, {"t": [*rows[2::3], padding]}]
    assert ranks.together(parts) == [{"t": rows}, {"t": []}, {"t": []}]
    metrics = [{"t": {"a": [0, 2], "b": [1]}}, {"t": {"a": [1]}}]
    assert ranks.together(metrics) == [{"t": {"a": [0, 1, 2], "b": [1]}}, {"t": {"a": [], "b": []}}]
    with pytest.raises(ValueError, match="rank 0 has no row of b"):
        ranks.together([{"t": {"a": [1]}}, {"t": {"b": [1]}}])


def test_ranks_on_several_machines_are_refused_with_what_to_do(monkeypatch):
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "a",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="--engine ray"):
        ranks.join()


@pytest.mark.parametrize("given", ["3/3", "1", "a/b", "-1/2"])
def test_a_shard_that_does_not_exist_is_exit_2(fitted, given):
    done = command("-m", "steer_bench", "evaluate", str(fitted.folder), f"--shard={given}")
    assert done.returncode == 2
    assert "give I/N" in done.stderr


def test_with_parallelize_steering_follows_the_layer_that_accelerate_offloads(tmp_path):
    """Half of the blocks on disk, the steered one among them: the same log-likelihoods and replies as in one piece."""
    model, tokenizer = tiny_pair("llama")
    path = save_tiny(tmp_path / "model", model, tokenizer)
    arms = make_arms(layer=2)
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    places |= {f"model.layers.{i}": "cpu" if i < 2 else "disk" for i in range(4)}
    options = {"arms": arms, "dtype": "float32", "device": "cpu", "batch_size": 4}
    offloaded = SteeredLM(path, parallelize=True, device_map=places, offload_folder=str(tmp_path / "disk"), **options)
    assert set(offloaded.model.hf_device_map.values()) == {"cpu", "disk"}
    assert next(offloaded.model.model.layers[2].parameters()).device.type == "meta"
    whole = SteeredLM(path, **options)
    pairs = [(text[:12], text[12:], steer(factor=factor)) for text in TEXTS[:3] for factor in (0.0, 1.0, 2.0)]
    assert likelihoods(offloaded, pairs) == likelihoods(whole, pairs)
    prompts = [(prompt, steer()) for prompt in PROMPTS]
    assert replies(offloaded, prompts) == replies(whole, prompts)
