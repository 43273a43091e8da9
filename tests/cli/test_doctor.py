"""What the newcomer sees before anything runs: the doctor, and all faults of an experiment at once."""

from pathlib import Path

from children import command

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
