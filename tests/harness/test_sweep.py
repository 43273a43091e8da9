"""A sweep: the numbers of one lm-eval run a vector, from one loaded model and one pass of all requests."""

import json

import pytest
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from steered import TEXTS, make_arms, steered_lm, tiny_pair
from tiny import save_tiny
from typer.testing import CliRunner

from steer_bench.cli import app
from steer_bench.harness.model import SteeredLM
from steer_bench.harness.sweep import steerings, sweep
from steer_bench.models.steered.steering import Steering

CHOICE = """
task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: 0
doc_to_choice: "{{{{choices}}}}"
metric_list: [{{metric: acc}}]
"""
REPLY = """
task: tiny_reply
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "e"
generation_kwargs: {{until: [], max_gen_toks: 4, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""


@pytest.fixture
def tasks(tmp_path):
    data = tmp_path / "data.jsonl"
    docs = [{"question": text[:20], "choices": [text[20:40], "no", " and so on"]} for text in TEXTS]
    data.write_text("\n".join(map(json.dumps, docs)))
    for name, text in (("choice", CHOICE), ("reply", REPLY)):
        (tmp_path / f"{name}.yaml").write_text(text.format(data=data))
    return [str(tmp_path / "choice.yaml"), str(tmp_path / "reply.yaml")]


def metrics(results):
    return {(task, key): value for task, of in results.items() for key, value in of.items() if "," in key}


def test_a_sweep_is_one_run_a_vector(tasks):
    model, tokenizer = tiny_pair("llama")
    arms = make_arms()
    pool = steerings(((arm.name, arm.source, key) for arm, key in arms.vectors), arms=["native"], factors=[0.5, 2.0])
    assert pool[0] == Steering()
    assert len(pool) == 1 + 2 * 2
    lm = SteeredLM(pretrained=model, tokenizer=tokenizer, arms=arms, batch_size=8)
    manager = TaskManager(include_defaults=False)
    found = dict(sweep(lm, manager.load(tasks), pool))
    lm.steerer.remove()
    for steering in pool:
        alone = steered_lm(model, tokenizer, arms)
        alone.default = steering
        results = simple_evaluate(alone, tasks=tasks, task_manager=manager, bootstrap_iters=0)["results"]
        alone.steerer.remove()
        assert metrics(found[steering]["results"]) == metrics(results)


def test_every_request_is_answered_once_for_all_vectors(tasks):
    model, tokenizer = tiny_pair("llama")
    arms = make_arms()
    lm = SteeredLM(pretrained=model, tokenizer=tokenizer, arms=arms, batch_size=64)
    pool = steerings([("native", "", "sea"), ("native", "", "law")], factors=[1.0, 2.0])
    passes, found = [], []
    handle = model.register_forward_pre_hook(lambda *_: passes.append(1))
    for _ in sweep(lm, TaskManager(include_defaults=False).load(tasks), pool):
        found.append(len(passes))
    handle.remove()
    assert found[0] > 0
    assert set(found) == {found[0]}  # nothing is run after the first vector


def test_names_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="unknown arm 'nativ'"):
        steerings([("native", "", "sea")], arms=["nativ"])
    with pytest.raises(ValueError, match="unknown concept"):
        steerings([("native", "", "sea")], concepts=["see"])


def test_the_commands_run(tasks, tmp_path):
    path = save_tiny(tmp_path / "model", *tiny_pair("llama"))
    make_arms().save(tmp_path / "arms.safetensors")
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join(json.dumps({"id": str(i), "text": text}) for i, text in enumerate(TEXTS)))
    common = ["--model", path, "--device", "cpu", "--dtype", "float32"]
    swept = CliRunner().invoke(
        app,
        ["sweep", str(tmp_path / "arms.safetensors"), "--tasks", ",".join(tasks), "--arm", "native", "--factors", "0.5",
         "--out", str(tmp_path / "sweep.json"), *common],
    )  # fmt: skip
    assert swept.exit_code == 0, swept.output
    assert len(json.loads((tmp_path / "sweep.json").read_text())["sweep"]) == 3
    screened = CliRunner().invoke(app, ["screen", str(tmp_path / "arms.safetensors"), "--texts", str(texts), *common])
    assert screened.exit_code == 0, screened.output
    assert "Spearman" in screened.output
