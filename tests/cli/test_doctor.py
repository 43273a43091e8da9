"""What the newcomer sees before anything runs: the doctor, and all faults of an experiment at once."""

import re
from pathlib import Path

import numpy as np
from children import command

from steer_bench.experiment.run import open_run, start
from steer_bench.vectors.store import VectorStore

BAD = """\
name: bad
models:
  - {name: gemma-3-270m, layer: 0.5}
  - {name: smollm2-135m-instruc}
concepts: {source: concepts.jsonl, held_out: 8}
splits: {fit: 8, test: 8}
adapters: [native, linaer]
factor: [0.1]
neutral: {map: neutral_map.jsonl, perplexity: neutral.jsonl}
factors: [0.0, 0.2]
rules: [all-lower-cases]
"""


def test_all_faults_of_an_experiment_are_told_at_once_with_file_and_line(tmp_path: Path) -> None:
    file, run = tmp_path / "bad.yaml", tmp_path / "run"
    file.write_text(BAD)
    done = command("-m", "steer_bench", "run", str(file), "--out", str(run))
    assert done.returncode == 2
    assert not run.exists()
    for line, words in (
        (4, "did you mean 'smollm2-135m-instruct'?"),
        (7, "unknown adapter 'linaer'; did you mean 'linear'?"),
        (8, "factor: unknown key; did you mean 'factors'?"),
        (10, "give factors above 0"),
        (11, "no rule named 'all-lower-cases'; did you mean 'all-lower-case'?"),
    ):
        assert any(f"{file}:{line}: " in told and words in told for told in done.stderr.splitlines()), (line, words)


def test_the_doctor_names_versions_device_models_and_the_judge() -> None:
    done = command("-m", "steer_bench", "doctor", "quickstart")
    told = {tuple(line.split()[1:2]): line for line in done.stdout.splitlines()}
    assert {("python",), ("torch",), ("lm_eval",), ("device",), ("dtype",), ("model",), ("disk",), ("judge",)} <= set(
        told
    )
    assert "12 test concepts, 2 targets" in done.stdout


def test_the_doctor_says_where_no_factor_compares_across_arms(tmp_path: Path) -> None:
    run = open_run("quickstart", tmp_path / "run")
    start(run)
    rng = np.random.default_rng(0)
    for name, massive in (("gemma-3-270m", 20.0), ("smollm2-135m-instruct", 1.0)):
        rows = rng.standard_normal((3, 400)).astype(np.float32)
        rows[:, 163] = massive  # 400 of about 800
        VectorStore(name, 9, {f"c{i}": row for i, row in enumerate(rows)}, 1.0).save(run.folder.vectors(name))
    told = [
        line
        for line in command("-m", "steer_bench", "doctor", str(tmp_path / "run")).stdout.splitlines()
        if " vectors " in line
    ]
    assert len(told) == 2
    assert told[0].startswith("note")
    assert re.search(r"gemma-3-270m, layer 9: coordinate 163 holds (49|5\d)\.\d% of native's squared norm", told[0])
    assert "mean over 3 concepts; massive: no factor compares across arms here, only damage does" in told[0]
    assert told[1].startswith("ok")
    assert told[1].endswith("no coordinate stands out")
