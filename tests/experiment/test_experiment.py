"""A whole run on tiny models of four families: every stage, twice, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import children
import numpy as np
import pytest
import yaml
from tiny import save_tiny, taught, tiny_gemma2, tiny_gemma3, tiny_llama, tiny_qwen2, tiny_tokenizer
from transformers import PreTrainedModel

from steer_bench import shipped
from steer_bench.concepts.load import load_concepts, load_texts
from steer_bench.experiment import run as runs
from steer_bench.experiment.engines import STAGES
from steer_bench.experiment.layers import layer_lines
from steer_bench.experiment.reading import load_experiment
from steer_bench.experiment.stages import report
from steer_bench.models.activations import mean_activations
from steer_bench.models.blocks import decoder_layers
from steer_bench.models.load import load_model
from steer_bench.results.file import load_results
from steer_bench.results.measures import REPLIES

DATA = Path(__file__).parents[2] / "tasks" / "data"
JUDGED = ("concept_steering",)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of four tiny models: other widths, tokenizers and BOS habits."""
    folder = tmp_path_factory.mktemp("models")
    texts = [text for concept in load_concepts(DATA / "concepts.jsonl")[:4] for text in concept.positives]
    kinds = {
        "gemma2": (tiny_gemma2, 32, True),
        "llama": (tiny_llama, 48, False),
        "gemma3": (tiny_gemma3, 40, True),
        "qwen": (tiny_qwen2, 32, False),
    }
    made = {}
    for i, (name, (build, width, bos)) in enumerate(kinds.items()):
        tokenizer = tiny_tokenizer(texts[i:], bos=bos, vocab_size=480 + 8 * i)
        model = taught(build(width, seed=i), tokenizer, [*texts, *load_texts(DATA / "neutral.jsonl")])
        made[name] = save_tiny(folder / name, model, tokenizer)
    return made


@pytest.fixture(scope="module")
def seed_yaml(models, tmp_path_factory):
    """gemma2-llama3.yaml with other models, data, sizes and without its paid judge: all else stays."""
    folder = tmp_path_factory.mktemp("seed")
    content = yaml.safe_load((shipped("experiments") / "gemma2-llama3.yaml").read_text())
    assert [model["name"] for model in content["models"]] == [
        "google/gemma-2-2b-it",
        "meta-llama/Llama-3.1-8B-Instruct",
    ]
    assert [model["layer"] for model in content["models"]] == [20, 20]
    assert {"native", "identity", "linear", "mlp"} <= {name for name in content["adapters"] if isinstance(name, str)}
    content["models"] = [{"name": models[name], "layer": 2} for name in ("gemma2", "llama", "gemma3", "qwen")]
    content["pairs"] = [
        [models["gemma2"], models["llama"]],
        [models["llama"], models["gemma2"]],
        [models["gemma3"], models["qwen"]],
    ]
    content["concepts"] = {"source": "concepts.jsonl", "limit": 8, "held_out": 4}
    content["splits"] = {"fit": 4, "test": 3}
    content["neutral"] = {"map": "neutral_map.jsonl", "map_limit": 20, "perplexity": "neutral.jsonl"}
    content["rules"] = ["question"]
    content["rule_texts"] = 12
    content["damage"] = [1.02, 1.05]
    content["dose"] = {"texts": 8, "max_words": 8}
    content["tasks"] = {
        "concept_likelihood": {"max_texts": 2, "max_neutral": 2, "max_words": 8},
        "steered_perplexity": {"max_neutral": 2, "max_words": 8},
        "rule_following": {"max_prompts": 1, "max_new_tokens": 4},
    }
    content["dtype"] = "float32"
    content["device"] = "cpu"
    path = folder / "seed.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def finished(seed_yaml, tmp_path_factory):
    run = runs.open_run(str(seed_yaml), tmp_path_factory.mktemp("run") / "seed")
    for name in ("extract", "fit", "dose", "evaluate", "judge"):
        STAGES[name](run)
    return run, report.report(run, figures=False)


def test_every_arm_has_a_row_for_every_test_concept_factor_and_text(finished):
    run, _ = finished
    results = load_results(run.folder.results)
    assert results.run.complete
    likelihood = [row for row in results.rows if row.task == "concept_likelihood"]
    arms = {(row.target, row.source, row.arm) for row in likelihood}
    shared = {"native", "random", "mean", "wrong-concept-0", "wrong-concept-1", "unsteered"}
    for target in run.targets:
        sources = [source for source, other in run.experiment.directed if other == target]
        expected = {(target, "", arm) for arm in shared} | {
            (target, s, arm) for s in sources for arm in ("identity", "linear", "mlp")
        }
        assert {arm for arm in arms if arm[0] == target} == expected
    steered = [row for row in likelihood if row.arm != "unsteered"]
    assert {row.concept for row in steered} == set(run.data.splits.test)
    assert len(steered) == len(run.targets) * (5 + 3) * 3 * 2 * (2 + 2)  # targets, arms, concepts, levels, texts
    assert all(row.value is not None for row in likelihood)


def test_the_page_has_a_table_for_every_target_and_task_of_replies_with_unsteered_in_it(finished):
    run = finished[0]
    page = (run.folder.path / "leaderboard.md").read_text().split("Costs at every dose")[0]
    assert page.count("| unsteered |") == len(run.targets) * sum(task in REPLIES for task in run.experiment.tasks)
    assert "judge:" in page


def test_a_finished_run_is_left_as_it_is_and_reported_to_the_same_bytes(finished, seed_yaml, monkeypatch):
    run, files = finished
    before = {file: Path(file).read_bytes() for file in files}

    def never(*_args, **_kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(
        PreTrainedModel, "from_pretrained", never
    )  # whoever loads one, and from wherever it is imported
    with pytest.raises(AssertionError, match="a model was loaded"):
        load_model(run.targets[0], dtype="float32", device="cpu")
    again = runs.open_run(str(seed_yaml), run.folder.path)
    for name in ("extract", "fit", "dose", "evaluate", "judge"):
        STAGES[name](again)
    assert {file: Path(file).read_bytes() for file in report.report(again, figures=False)} == before


def test_another_experiment_in_the_same_folder_is_refused_by_the_keys_that_differ(finished, seed_yaml, tmp_path):
    content = yaml.safe_load(seed_yaml.read_text())
    content["seed"] = 5
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=r"differing: seed"):
        runs.open_run(str(tmp_path / "other.yaml"), finished[0].folder.path)


FAULTS = {
    "unknown key": ({"modells": []}, "did you mean 'models'"),
    "unknown adapter": ({"adapters": ["native", "lineer"]}, "did you mean 'linear'"),
    "unknown task": ({"tasks": {"concept_likelyhood": {}}}, "did you mean 'concept_likelihood'"),
    "factor not above 0": ({"factors": [0.0]}, "factors above 0"),
    "a claim of no arm": ({"claims": ["lineer"]}, "did you mean 'linear'"),
    "damage not above 1": ({"damage": [0.9]}, "damage.0: Input should be greater than 1"),
    "a grid of likelihoods": ({"factors": {"concept_likelihood": [0.2]}}, "compares arms at equal damage only"),
    "concept in two splits": ({"splits": {"fit": ["sea", "law"], "test": ["sea"]}}, "'sea' is in split"),
    "missing model": (
        {"models": [{"name": "smollm2-135m-instrukt"}, {"name": "gemma-3-270m"}]},
        "did you mean 'smollm2-135m-instruct'",
    ),
    "no baseline": ({"adapters": ["linear"]}, "'native' is missing"),
    "no pair": ({"pairs": []}, "no target to measure"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_input_is_exit_2_with_what_and_how_to_go_on_before_torch(fault, tmp_path):
    change, said = FAULTS[fault]
    content = yaml.safe_load((shipped("experiments") / "quickstart.yaml").read_text()) | change
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(content))
    code = (
        "import sys, atexit; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr));"
        f"sys.argv = ['steer-bench', 'run', {str(tmp_path / 'bad.yaml')!r}, '--out', {str(tmp_path / 'run')!r}];"
        "from steer_bench.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().endswith("False")
    assert not (tmp_path / "run").exists()


def test_an_unknown_experiment_and_a_key_given_twice(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'quickstart'"):
        runs.open_run("quickstrat", tmp_path)
    (tmp_path / "twice.yaml").write_text("name: a\nname: b\n")
    with pytest.raises(ValueError, match="line 2: key 'name' is given twice"):
        runs.open_run(str(tmp_path / "twice.yaml"), tmp_path)


@pytest.mark.parametrize("key", ["trust_remote_code", "confirm_run_unsafe_code"])
@pytest.mark.parametrize("inside", [False, True])
def test_no_file_can_allow_code_of_others_and_the_flag_is_named(key, inside, tmp_path):
    content = yaml.safe_load((shipped("experiments") / "quickstart.yaml").read_text())
    (content["models"][0] if inside else content)[key] = True
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=rf"{key}: no file can switch this on.*--{key}"):
        load_experiment(tmp_path / "bad.yaml")


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir", "!!python/name:os.mkdir", "!function os.mkdir"])
def test_no_yaml_of_ours_builds_or_calls_anything(tag, tmp_path):
    made = tmp_path / "made"
    (tmp_path / "bad.yaml").write_text(f"name: {tag} ['{made}']\n")
    with pytest.raises(ValueError, match=r"bad\.yaml"):
        load_experiment(tmp_path / "bad.yaml")
    assert not made.exists()


@pytest.fixture(scope="module")
def command(finished, models):
    """Return what runs a module in a child process, as a user does."""
    target = models["llama"]
    arms = str(finished[0].folder.arms(target))
    source = models["gemma2"]

    def run(*words, start=children.command):
        words = [word.format(target=target, arms=arms, source=source) for word in words]
        return start("-m", *words, cwd=finished[0].folder.path)

    return run


CHOICES = """
task: tiny_choices
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def test_the_plain_lm_eval_command_runs_all_arms_of_a_run(command, tmp_path):
    task = Path(__file__).parents[2] / "tasks" / "concept_likelihood.yaml"
    done = command(
        "lm_eval", "--model", "steer_bench", "--model_args", "pretrained={target},arms={arms},dtype=float32", "--device", "cpu",
        "--tasks", str(task), "--metadata", '{{"max_texts": 1, "max_neutral": 1, "max_concepts": 1}}',
        "--output_path", str(tmp_path), "--log_samples", start=children.fresh,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(next(tmp_path.rglob("results_*.json")).read_text())["results"]["concept_likelihood"]
    assert {"native,none", "random,none", "mean,none"} <= set(results)
    assert any(key.startswith("linear<") for key in results)
    assert (
        next(tmp_path.rglob("samples_*.jsonl")).read_text().count("\n") == (1 + 8 * 2) * 2
    )  # unsteered, arms x levels; two texts


def test_one_vector_on_a_local_task_and_factor_0_is_hf_exactly(command, tmp_path):
    file = tmp_path / "choices.yaml"
    data = tmp_path / "choices.jsonl"
    data.write_text("".join(line + "\n" for line in (DATA / "choices.jsonl").read_text().splitlines()[:12]))
    file.write_text(CHOICES.replace("FILE", str(data)))

    def samples(model: str, arguments: str, module: tuple[str, ...] = ("lm_eval",)):
        out = tmp_path / f"{model}-{abs(hash(arguments))}"
        done = command(
            *module, "--model", model, "--model_args", arguments, "--tasks", str(file), "--device", "cpu",
            "--output_path", str(out), "--log_samples",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return [json.loads(line)["resps"] for line in next(out.rglob("samples_*.jsonl")).read_text().splitlines()]

    plain = samples("hf", "pretrained={target},dtype=float32")
    arm = "pretrained={target},dtype=float32,arms={arms},arm=linear,source={source},concept=rule-question,factor="
    assert samples("steer_bench", arm + "0", ("steer_bench", "lm-eval")) == plain
    assert samples("steer_bench", arm + "0.4") != plain


def test_our_tasks_fail_loudly_on_a_model_that_can_not_steer(command):
    task = Path(__file__).parents[2] / "tasks" / "concept_likelihood.yaml"
    done = command(
        "lm_eval", "--model", "hf", "--model_args", "pretrained={target}", "--device", "cpu", "--tasks", str(task)
    )
    assert done.returncode != 0
    assert "arms" in done.stderr


def test_the_autoload_module_survives_a_moved_source_tree(tmp_path):
    root = Path(__file__).parents[2]
    (tmp_path / "_steer_bench_autoload.py").write_text((root / "_steer_bench_autoload.py").read_text())
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.modules['steer_bench'] = None; import lm_eval;"
        "import _steer_bench_autoload as hook; hook.autoload(); import torch; print('torch ok')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "torch ok"
    assert "could not register" in done.stderr


def test_the_reliability_of_layers_is_that_of_two_halves_of_the_concepts_that_are_not_tested(finished):
    run, _ = finished
    lines = layer_lines(run, steering=False)
    name = run.experiment.models[0].name
    mine = [line for line in lines if line.model == name]
    loaded = load_model(name, dtype="float32", device="cpu")
    assert [line.layer for line in mine] == list(range(len(decoder_layers(loaded.model))))
    assert [line.layer for line in mine if line.used] == [2]
    assert not set(run.data.splits.test) & set(run.data.splits.fit + run.data.splits.select)
    keys = [*run.data.splits.fit, *run.data.splits.select]
    units = []
    for half in (0, 1):
        texts = {
            f"{sign}{key}": getattr(run.data.text_halves[key][half], name)
            for key in keys
            for sign, name in (("+", "positives"), ("-", "negatives"))
        }
        means = {group: mean.value for group, mean in mean_activations(loaded, 1, texts)[""].items()}
        vectors = np.stack([(means[f"+{key}"] - means[f"-{key}"]).numpy() for key in keys])
        units.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    assert mine[1].n == len(keys) == 4
    assert mine[1].cosine == pytest.approx((units[0] * units[1]).sum(axis=1).mean(), rel=1e-9)
    centred = [side - units[1].mean(axis=0) for side in units]
    centred = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in centred]
    assert mine[1].centred_cosine == pytest.approx((centred[0] * centred[1]).sum(axis=1).mean(), rel=1e-9)
    nearest = (centred[0] @ centred[1].T).argmax(axis=1)
    assert mine[1].retrieval == (nearest == np.arange(len(keys))).mean()
