"""An experiment's YAML is read as a whole: every fault once, with its line, those of types beside those of the whole."""

import pytest

from steer_bench.experiment.reading import CollectErrors, load_experiment, read_experiment
from steer_bench.files import read_yaml_lines

FAULTY = """\
name: ../up
models:
- {name: a, layr: 3}
- {name: a}
pairs: [[a, b]]
concepts: {source: concepts.jsonl}
splits: {fit: 2, test: 2}
neutral: {map: m.jsonl, perplexity: p.jsonl}
adapters: [linear]
tasks:
  concept_steering: {n_samples: 2}
  concept_likelyhood: {}
dtype: float31
seed: -1
"""


def test_faults_of_types_and_of_the_whole_are_said_at_once_each_with_its_line(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text(FAULTY)
    with pytest.raises(ValueError, match="unknown key") as caught:
        load_experiment(path)
    lines = dict(line.removeprefix(f"{path}:").split(": ", 1) for line in str(caught.value).splitlines())
    assert list(lines) == ["3", "13", "14"], "faulty models leave nothing to check against"
    assert lines["3"] == "models.0.layr: unknown key; did you mean 'layer'?"
    path.write_text(FAULTY.replace("layr: 3", "layer: 3"))
    with pytest.raises(ValueError, match="float31") as caught:
        load_experiment(path)
    said = [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]
    assert [line.split(":")[0] for line in said] == ["13", "14", "1", "2", "5", "12", "11", "9"]
    assert said[3] == "2: models: 'a' is given twice"
    assert said[4].startswith("5: pairs: 'b' is not one of the models")


def test_an_experiment_without_its_faulty_keys_is_still_read(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text(FAULTY.replace("layr: 3", "layer: 3").replace("name: a}\n", "name: c}\n"))
    experiment, errors = read_experiment(path)
    assert errors
    assert (experiment.seed, experiment.dtype) == (0, "auto")
    assert [model.name for model in experiment.models] == ["a", "c"]


def test_a_fault_in_a_block_is_kept_line_by_line_and_other_errors_pass(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text("name: x\n")
    errors = CollectErrors(read_yaml_lines(path)[1])
    errors.check()
    with errors.at("name"):
        raise ValueError("one\ntwo")
    with errors.at("name"):
        raise ValueError("two")
    with pytest.raises(KeyError), errors.at("name"):
        raise KeyError("k")
    with pytest.raises(ValueError, match="one") as caught:
        errors.check()
    assert str(caught.value) == f"{path}:1: one\n{path}:1: two"
