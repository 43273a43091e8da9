"""The tests can fail: each of these faults, put into a copy of the code, is seen by the test named beside it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]


class Mutant(NamedTuple):
    fault: str
    file: str
    was: str
    becomes: str
    test: str


MUTANTS = [
    Mutant(
        "a map is transposed",
        "transfer/maps.py",
        "return vector.double() @ self.weight\n",
        "return vector.double() @ self.weight.T\n",
        "transfer/test_transfer.py::test_a_rotation_is_found_by_every_method_that_can",
    ),
    Mutant(
        "the layer below is read",
        "models/activations.py",
        "outputs_of([blocks[layer] for layer in layers], run)",
        "outputs_of([blocks[max(layer - 1, 0)] for layer in layers], run)",
        "models/test_activations.py::test_the_mean_is_over_the_hidden_states_of_a_plain_forward_without_position_0_and_padding",
    ),
    Mutant(
        "the layer below is steered",
        "models/steered/model.py",
        "[: self.bank.arms.layer + 1]",
        "[: self.bank.arms.layer]",
        "models/steered/test_screening.py::test_exact_lifts_are_those_of_rolling_log_likelihoods_under_the_same_steering",
    ),
    Mutant(
        "the sign of one arm is flipped",
        "transfer/target_arms.py",
        "add(arm, adapter.kind, adapter.method, found.vectors)",
        "add(arm, adapter.kind, adapter.method, {k: -v if arm.adapter == 'linear' else v for k, v in found.vectors.items()})",
        "transfer/test_target_arms.py::test_every_arm_has_the_vectors_that_were_made_for_it_with_their_sign",
    ),
    Mutant(
        "BOS is steered",
        "models/steered/model.py",
        'if self.positions == "all":',
        "if self.positions:",
        "models/steered/test_screening.py::test_exact_lifts_are_those_of_rolling_log_likelihoods_under_the_same_steering",
    ),
    Mutant(
        "tokens are paired by their index",
        "transfer/moments.py",
        "    ends = [end for end in of_source if end in of_target]\n"
        "    return [of_source[end] for end in ends], [of_target[end] for end in ends]",
        "    n = min(len(of_source), len(of_target))\n"
        "    return list(of_source.values())[:n], list(of_target.values())[:n]",
        "models/test_activations.py",
    ),
    Mutant(
        "a wrong concept is the right one",
        "transfer/controls.py",
        "found[concept] = taken[1:]",
        "found[concept] = taken[:-1]",
        "transfer/test_transfer.py::test_wrong_concepts_are_the_next_of_the_genre_and_then_of_any",
    ),
    Mutant(
        "held-out texts are in a vector",
        "experiment/data.py",
        "else self.vector_and_held_out_texts[key][0]\n            found",
        "else self.concepts[key]\n            found",
        "experiment/test_data.py",
    ),
    Mutant(
        "items are the unit, not concepts",
        "results/stats/values.py",
        "return nan_mean(self.items[arm] - self.items[other])",
        "return (self.items[arm] - self.items[other]).ravel()",
        "results/stats/test_verdict.py",
    ),
    Mutant(
        "items lose their pairs",
        "results/stats/values.py",
        "return nan_mean(self.items[arm] - self.items[other])",
        "return nan_mean(self.items[arm]) - nan_mean(self.items[other])",
        "results/stats/test_values.py",
    ),
    Mutant(
        "the factor is chosen on the prompts that are scored",
        "results/stats/values.py",
        '_chosen(lines(task, "select"), scored, size)',
        "_chosen(scored, scored, size)",
        "results/stats/test_values.py",
    ),
    Mutant(
        "what is unscored counts as 0",
        "results/stats/grid.py",
        "    known = np.isfinite(values)\n    count = known.sum(axis=axis)",
        "    known = np.isfinite(values) | np.isfinite(values).any()\n    values = np.nan_to_num(values)\n"
        "    count = known.sum(axis=axis)",
        "results/stats/test_values.py",
    ),
    Mutant(
        "a dose is another arm's",
        "harness/cells.py",
        "found = ((self._doses.get((*key, level)), level)",
        "found = ((self._doses.get(('native', '', key[2], level)), level)",
        "harness/test_cells.py",
    ),
    Mutant(
        "doses are found on the texts that damage is reported on",
        "experiment/data.py",
        'calibration, neutral = parted(self.neutral_texts, experiment.dose.texts, experiment.seed, "calibration")',
        'calibration, neutral = parted(self.neutral_texts, experiment.dose.texts, experiment.seed, "calibration")[0],'
        " self.neutral_texts",
        "experiment/test_data.py",
    ),
    Mutant(
        "doses are found on the texts that are scored",
        "experiment/stages/dose.py",
        "list(protocol.calibration.values())",
        "list(protocol.neutral.values())",
        "experiment/stages/test_dose.py",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.fault for mutant in MUTANTS])
def test_the_fault_is_seen(mutant, tmp_path):
    for name in ("steer_bench", "tests", "tasks", "adapters", "leaderboards"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    file = tmp_path / "steer_bench" / mutant.file
    assert file.read_text().count(mutant.was) == 1, "the line that the fault stands in has changed; name it anew"
    file.write_text(file.read_text().replace(mutant.was, mutant.becomes))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-m", "not slow", "tests/" + mutant.test],
        cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    assert "FAILED tests/" in done.stdout, "a test ends otherwise than by failing"
