"""Layers: what vectors are worth at each, by a measurement of our own, and the choice of one."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from small_run import small_experiment, small_models
from tiny import tiny_gemma3, tiny_llama

from steer_bench.experiment import layers
from steer_bench.experiment.run import Run, open_run
from steer_bench.experiment.stages import extract
from steer_bench.models.blocks import decoder_layers
from steer_bench.models.load import load_model
from steer_bench.vectors.arms import Dose
from steer_bench.vectors.store import VectorStore, largest_coordinate


def doses(_scorer: object, sought: list, texts: list, *, quiet: bool = False) -> list[Dose]:
    """Another factor for each vector: a tiny model of random weights may like what it is steered with, so that none is found."""
    assert {one.levels for one in sought} == {(1.3,)}
    assert len(texts) > 1
    return [
        Dose(arm="native", source="", concept=one.concept, level=1.3, factor=0.2 + 0.1 * i)
        for i, one in enumerate(sought)
    ]


@pytest.fixture(autouse=True)
def _given_doses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "find_doses", doses)


@pytest.fixture(scope="module")
def yaml_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layers")
    names = small_models(folder, {"m0": (tiny_llama, 48, False), "m1": (tiny_gemma3, 40, True)})
    concepts = {"source": "concepts.jsonl", "limit": 8, "held_out": 3}
    path = small_experiment(folder, names, concepts=concepts, splits={"fit": 4, "test": 2})
    models = [{"name": names[0], "layer": "best"}, {"name": names[1], "layer": 1}]
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"models": models}))
    return path


@pytest.fixture(scope="module")
def run(yaml_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return open_run(str(yaml_file), tmp_path_factory.mktemp("run") / "run")


def perplexed(
    model: torch.nn.Module, tokenizer: object, text: str, layer: int, added: torch.Tensor | None
) -> tuple[float, int]:
    """Log-likelihood of a text and its tokens, by a hook of our own that adds to every token but the BOS."""
    ids = tokenizer(text, return_tensors="pt").input_ids  # type: ignore[operator]

    def hook(_module: object, _args: object, output: object) -> object:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()  # type: ignore[index,union-attr]
        hidden[:, 1:] += added
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = decoder_layers(model)[layer].register_forward_hook(hook) if added is not None else None  # type: ignore[arg-type]
    with torch.inference_mode():
        logits = model(ids).logits.float().log_softmax(-1)
    if handle is not None:
        handle.remove()
    rows = logits[0, :-1].gather(1, ids[0, 1:, None])
    return float(rows.sum()), len(rows)


def test_the_steering_of_a_layer_is_natives_gain_over_wrong_concepts_at_equal_damage(run: Run) -> None:
    name = run.models[1]
    loaded = load_model(name, dtype="float32", device="cpu")
    asked: list[float] = []

    def recorded(scorer: layers.Scorer, texts: dict, neutral: list, wrong: dict) -> float | None:
        effect = original(scorer, texts, neutral, wrong)
        arms = scorer.steered.bank.arms
        if (arms.target, arms.layer) == (name, 1):
            by = {key: 0.2 + 0.1 * i for i, key in enumerate(texts)}
            vectors = {key: torch.tensor(arms.find("native", "", key)) for key in texts}
            added = {key: by[key] * arms.scale * vector / vector.norm() for key, vector in vectors.items()}

            def rate(key: str, concept: str) -> float:
                found = [perplexed(loaded.model, loaded.tokenizer, text, 1, added[concept]) for text in texts[key]]
                return float(np.mean([total / n for total, n in found]))

            for key in texts:
                assert key not in wrong[key]
                asked.append(rate(key, key) - float(np.mean([rate(key, other) for other in wrong[key]])))
        return effect

    original = layers.steering_effect
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "steering_effect", recorded)
        lines = [line for line in layers.layer_lines(run) if line.model == name]
    assert lines[1].steering == pytest.approx(np.mean(asked), abs=2e-4)
    assert [line.layer for line in lines] == list(range(len(decoder_layers(loaded.model))))
    assert [line.layer for line in lines if line.used] == [1]
    assert all(line.steering is not None and math.isfinite(line.steering) for line in lines)
    assert not set(run.data.splits.fit) & set(run.data.splits.test)


def test_layer_best_is_chosen_once_and_recorded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    name = run.models[0]
    extract.extract(run)
    measured = {line.layer: line.steering for line in layers.layer_lines(run) if line.model == name}
    best = max(measured, key=lambda layer: measured[layer])
    assert VectorStore.load(run.folder.vectors(name)).layer == best
    assert yaml.safe_load(run.folder.experiment.read_text())["resolved"]["layers"] == {name: best}
    assert [line.layer for line in layers.layer_lines(run, steering=False) if line.used and line.model == name] == [
        best
    ]

    def never(*_args: object, **_more: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(layers, "_lines", never)
    before = run.folder.vectors(name).read_bytes()
    again = open_run(str(run.folder.path))
    assert again.experiment.layer(name) == "best"
    extract.extract(again)
    assert run.folder.vectors(name).read_bytes() == before


def test_layer_best_wants_concepts_to_fit_on(yaml_file: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(yaml_file.read_text()) | {"splits": {"fit": 2, "test": 2}}
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(
        ValueError, match=r"few\.yaml.*layer best needs 3 concepts to fit on, and there are 2; give a layer"
    ):
        open_run(str(tmp_path / "few.yaml"), tmp_path / "run")


def test_the_largest_coordinate_is_of_the_mean_share_not_of_one_long_vector() -> None:
    rows = [np.array([0.0, 3.0, 4.0]), np.array([0.0, 1.0, 2.0]), np.array([100.0, 0.0, 1.0])]
    found = largest_coordinate(rows)
    assert (found.coordinate, found.share) == (2, pytest.approx((0.64 + 0.8 + 1 / 10001) / 3, abs=1e-6))
    assert "only damage does" in found.meaning
    flat = largest_coordinate(np.eye(16) + 1)
    assert "no coordinate stands out" in flat.meaning
