"""Repeats: runs that differ in their seeds alone, and the table of what varies between them."""

import pytest
from children import command
from small_run import small_experiment

from steer_bench.experiment import run as runs
from steer_bench.experiment.repeats import Components, components, repeated, write_repeats
from steer_bench.experiment.run import MissingStageError
from steer_bench.experiment.stages.extract import extract
from steer_bench.files import read_yaml


def test_variance_components_by_hand():
    # means 2 and 5, of all 3.2; within (1 + 0 + 1 + 1 + 1) / 3; between ((3 * 1.44 + 2 * 3.24) / 1 - 4 / 3) / (5 - 13 / 5)
    found = components([[1, 2, 3], [4, 6]])
    assert found == pytest.approx((3.2, (10.8 - 4 / 3) / 2.4, 4 / 3))
    assert components([[0.0, 2.0], [0.0, 2.0], []]) == (1.0, 0.0, 2.0), "less than concepts alone would do is none"
    assert components([[1.0], [2.0]]) == (1.5, None, None)
    assert components([[1.0, 3.0]]) == (2.0, None, 2.0)
    assert components([[], []]) == Components(None, None, None)


@pytest.mark.slow
def test_repeats_are_run_folders_with_the_next_seeds_and_one_table(tmp_path):
    limits = {"max_texts": 1, "max_neutral": 2, "max_words": 6}
    path = small_experiment(
        tmp_path, repeats=2, seed=3, splits={"fit": 2, "test": 2, "seed": 8}, rules=[], factors=[], damage=[1.02],
        adapters=["native", "linear", {"wrong-concept": {"n": 1}}], tasks={"concept_likelihood": limits},
        dose={"texts": 4, "max_words": 6},
    )  # fmt: skip
    out = tmp_path / "run"
    run = runs.open_run(str(path), out)
    with pytest.raises(ValueError, match="repeat-0"):
        extract(run)
    with pytest.raises(MissingStageError, match="repeat-0"):
        write_repeats(run)
    done = command("-m", "steer_bench", "run", str(path), "--out", str(out), "--no-figures")
    assert done.returncode == 0, done.stderr
    for r in range(2):
        content = read_yaml(out / f"repeat-{r}" / "experiment.yaml")
        assert (content["seed"], content["splits"]["seed"], content["repeats"]) == (3 + r, 8 + r, 1)
        assert runs.open_run(str(out / f"repeat-{r}")).data.hashes == repeated(run)[r].data.hashes
    table = (out / "repeats.md").read_text()
    assert table in done.stdout
    effects = [line for line in table.splitlines() if "| effect" in line]
    assert {line.split("|")[4].strip() for line in effects} == {"native", "linear"}
    assert "| repeat 0" in table
    assert command("-m", "steer_bench", "report", str(out)).stdout.startswith(table)
