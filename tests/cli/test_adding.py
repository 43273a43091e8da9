"""Adding things as a user does: the README's own blocks, written to a folder and run through the real commands."""

import json
import re
from pathlib import Path

import pytest
from children import command
from tiny import save_tiny, taught, tiny_gemma3, tiny_llama, tiny_tokenizer

from steer_bench.concepts.load import load_texts
from steer_bench.results.file import load_results
from steer_bench.vectors.tensor_file import load_card

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "README.md").read_text().split("## Adding things")[1].split("\n## ")[0]
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", SECTION, flags=re.DOTALL)
NAMED = {re.match(r"# (\S+)\n", text)[1]: text for kind, text in BLOCKS if kind == "yaml" and text.startswith("# ")}
MODELS = ("gemma-3-270m", "smollm2-135m-instruct")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder with the README's files in it; tiny models stand where the README has the offline ones."""
    folder = tmp_path_factory.mktemp("user")
    texts = load_texts(ROOT / "tasks" / "data" / "neutral.jsonl")
    tokenizers = [tiny_tokenizer(texts[:8], bos=bos) for bos in (True, False)]
    for name, model, tokenizer in zip(MODELS, (tiny_gemma3(40), tiny_llama(32)), tokenizers, strict=True):
        save_tiny(folder / f"tiny-{name}", taught(model, tokenizer, texts), tokenizer)
    (folder / "drinks.jsonl").write_text(next(text for kind, text in BLOCKS if kind == "json"))
    for name, text in NAMED.items():
        (folder / name).write_text(tiny(text))
    return folder


def tiny(text: str) -> str:
    """The text with tiny models, and levels of damage that they reach."""
    text = text.replace("damage: [1.1, 1.3]", "damage: [1.02, 1.05]").replace("damage: [1.3]", "damage: [1.05]")
    return re.sub(r"(?<=name: )(gemma-3-270m|smollm2-135m-instruct)", r"./tiny-\1", text)


@pytest.fixture(scope="module")
def ran(folder):
    """`steer-bench run drinks.yaml`, as the README says."""
    assert "`steer-bench run drinks.yaml` runs it" in SECTION
    return run(folder, "steer-bench", "run", "drinks.yaml", "--no-figures")


def run(folder: Path, *words: str) -> Path:
    assert words[0] == "steer-bench"
    done = command("-m", "steer_bench", *words[1:], cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "runs" / "drinks"


def test_each_thing_is_added_in_under_15_lines():
    rule = re.search(r"  - name: cheers\n(    .*\n)+", NAMED["drinks.yaml"])[0]
    concepts = next(text for kind, text in BLOCKS if kind == "json")
    for text in (NAMED["cheers.yaml"], NAMED["linear-strong.yaml"], rule, concepts):
        assert 0 < len(text.splitlines()) < 15


def test_the_concepts_the_adapter_and_the_rule_are_in_the_results(ran):
    results = load_results(ran / "results.json")
    concepts = {row.concept for row in results.rows} - {""}
    assert concepts == {"tea", "coffee", "rule-all-lower-case", "rule-cheers"}
    arms = {re.sub(r"-\d$", "", row.arm) for row in results.rows}
    assert arms == {"unsteered", "native", "identity", "linear", "linear-strong", "wrong-concept", "random"}
    cheers = [row for row in results.rows if row.concept == "rule-cheers" and row.task == "rule_following"]
    assert {row.value for row in cheers} <= {0.0, 1.0}
    page = (ran / "leaderboard.md").read_text()
    assert "linear-strong" in page
    assert "Costs at every dose" in page


def test_the_task_runs_through_lm_eval_on_the_runs_arms(ran, folder):
    words = next(text for kind, text in BLOCKS if kind == "bash").split()
    arms = next((ran / "arms").glob("tiny-smollm2*.safetensors")).relative_to(folder)
    line = " ".join(words).replace("pretrained=smollm2-135m-instruct", "pretrained=./tiny-smollm2-135m-instruct")
    line = line.replace("runs/drinks/arms/smollm2-135m-instruct.safetensors", str(arms))
    run(folder, *line.split(), "--device", "cpu", "--output_path", "out", "--log_samples")
    results = json.loads(next((folder / "out").rglob("results_*.json")).read_text())["results"]["cheers"]
    assert {"native,none", "linear-strong<./tiny-gemma-3-270m,none"} <= set(results)


@pytest.mark.slow
def test_somebodys_vector_is_an_arm_and_goes_through_every_linear_map(ran, folder):
    """The README's `vectors` key, on a control vector that llama.cpp and repeng would read."""
    added = next(text for kind, text in BLOCKS if kind == "yaml" and text.startswith("vectors:"))
    assert "layer: 9" in added  # gemma-3-270m's 0.5; of the tiny one block 2
    own = next((ran / "vectors").glob("tiny-gemma*.safetensors"))
    assert load_card(own)["layer"] == 2
    run(folder, "steer-bench", "convert", str(own), "--to", "gguf", "--concept", "tea", "-o", "published.gguf")
    added = re.sub(r"model: gemma-3-270m", "model: ./tiny-gemma-3-270m", added).replace("layer: 9", "layer: 2")
    (folder / "published.yaml").write_text(
        (folder / "drinks.yaml").read_text().replace("name: drinks", "name: p") + added
    )
    run(folder, "steer-bench", "run", "published.yaml", "--no-figures")
    results = load_results(folder / "runs" / "p" / "results.json")
    arms = {(row.arm, row.source): set() for row in results.rows}
    for row in results.rows:
        arms[row.arm, row.source].add(row.concept)
    assert arms["published", ""] - {""} == {"tea"}
    through = {arm for arm, source in arms if arm.endswith("-published") and "gemma" in source}
    assert through == {"identity-published", "linear-published", "linear-strong-published"}
    values = {
        arm: {(r.level, r.item): r.value for r in results.rows
              if (r.arm, r.task, r.concept, r.role) == (arm, "concept_likelihood", "tea", "concept")
              and "gemma" in (r.target if arm in ("native", "published") else r.source)}
        for arm in ("native", "published", "linear", "linear-published")
    }  # fmt: skip
    assert values["published"] == values["native"], "it is the model's own vector, as a GGUF file"
    assert values["linear-published"] == pytest.approx(values["linear"], abs=1e-4)
    assert values["published"]
    assert values["linear"]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("vectors:\n  - {file: nothing.gguf, model: ./tiny-gemma-3-270m, name: x}\n", "nothing.gguf"),
        (
            "vectors:\n  - {file: drinks.jsonl, model: other, name: x}\n",
            "is of 'other', which is not one of the models",
        ),
        ("vectors:\n  - {file: drinks.jsonl, model: ./tiny-gemma-3-270m, name: linear}\n", "name of another arm"),
        ("capability: {tasks: [capability_choices], arms: [liner]}\n", "did you mean 'linear'"),
        ("suppress: [numbered-list]\n", "add rule_suppression to the tasks"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(key, said, folder):
    (folder / "wrong.yaml").write_text((folder / "drinks.yaml").read_text().replace("name: drinks", "name: w") + key)
    done = command("-m", "steer_bench", "run", "wrong.yaml", cwd=folder)
    assert done.returncode == 2, done.stderr[-2000:]
    assert said in done.stderr
    assert not (folder / "runs" / "w" / "vectors").exists()
