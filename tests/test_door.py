"""The Python door: the names of `steer_bench`, and the notebook of the design on two tiny models."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from small_run import small_experiment

import steer_bench as sb
from steer_bench.experiment.run import open_run
from steer_bench.experiment.stages.extract import extract
from steer_bench.experiment.stages.fit import fit
from steer_bench.models.blocks import outputs_of
from steer_bench.vectors.store import unit

LAYER, FACTOR = 2, 0.3


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_importing_the_package_imports_neither_torch_nor_lm_eval():
    heavy = ["torch", "lm_eval", "transformers", "pydantic"]
    said = f"import sys, steer_bench; dir(steer_bench); print([name for name in {heavy} if name in sys.modules])"
    assert _python(said) == "[]"


def test_every_name_of_the_door_is_there_and_can_be_listed():
    for name in sb.__all__:
        assert callable(getattr(sb, name)) or name == "__version__", name
    assert set(sb.__all__) <= set(dir(sb))
    with pytest.raises(AttributeError, match="no attribute 'load_modle'"):
        _ = sb.load_modle


@pytest.mark.parametrize(
    "code",
    [
        "import steer_bench as sb; sb.transfer; import steer_bench.transfer.adapters as a",
        "import steer_bench.transfer.adapters as a; import steer_bench as sb",
        "from steer_bench import transfer; import steer_bench.transfer.adapters as a, steer_bench as sb; assert sb.transfer is transfer",
    ],
)
def test_transfer_is_a_package_and_a_function_in_either_order_of_import(code):
    check = "print(callable(sb.transfer), a.load_adapter('linear').method, hasattr(sb.transfer, 'adapters'))"
    assert _python(f"{code}; {check}") == "True ridge True"


def _after_block(loaded: sb.models.load.Loaded, **inputs: torch.Tensor) -> torch.Tensor:
    block = loaded.model.model.layers[LAYER]
    (output,) = outputs_of([block], lambda: loaded.model(**inputs))
    return output[0] if isinstance(output, tuple) else output


def test_the_notebook_of_the_design(tmp_path):
    path = small_experiment(
        tmp_path,
        adapters=["native", "linear"],
        tasks={"concept_likelihood": {}},
        rules=[],
        concepts={"source": "concepts.jsonl", "limit": 6, "held_out": 3, "halves": False},
    )
    run = open_run(str(path), tmp_path / "run")
    extract(run)
    fit(run)
    names = run.models
    source, target = (sb.load_model(name, dtype="float32", device="cpu") for name in names)
    texts = run.data.map_texts
    concepts = [texts for texts, _ in run.data.vector_and_held_out_texts.values()]

    vectors = sb.extract(source, concepts, layer=LAYER, neutral=texts)
    linear = sb.fit("linear", source, target, texts, layers=(LAYER, LAYER))
    arms = sb.transfer(linear, vectors)

    own = sb.VectorStore.load(run.folder.vectors(names[0]))
    of_run = sb.Arms.load(run.folder.arms(names[1]))
    assert vectors.scale == own.scale
    assert arms.scale == of_run.scale
    for key in run.data.splits.test:
        np.testing.assert_allclose(vectors.vectors[key], own.vectors[key], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(arms[key].vector, of_run.find("linear", names[0], key), rtol=1e-4, atol=1e-5)

    key = run.data.splits.test[0]
    batch = target.tokenizer(
        ["The sea was grey.", "Two cups of flour, an egg."], return_tensors="pt", padding=True, padding_side="left"
    )
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    plain = _after_block(target, **inputs)
    with sb.steer(target, arms[key], factor=FACTOR):
        steered = _after_block(target, **inputs)
        written = target.model.generate(**inputs, max_new_tokens=4, do_sample=False)
    added = torch.from_numpy((np.float64(FACTOR) * arms.scale * unit(arms[key].vector)).astype(np.float32))
    first = inputs["input_ids"] == target.tokenizer.bos_token_id
    at = (inputs["attention_mask"] == 1) & ~first
    assert first.any(dim=1).all()
    assert torch.equal(steered[at], (plain + added)[at])
    assert torch.equal(steered[~at], plain[~at])
    assert written.shape == (2, inputs["input_ids"].shape[1] + 4)
    assert torch.equal(_after_block(target, **inputs), plain)  # nothing is left behind
    with pytest.raises(ValueError, match="not of"), sb.steer(source, arms[key], factor=FACTOR):
        pass
