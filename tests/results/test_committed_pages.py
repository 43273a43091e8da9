"""The committed pages are what the committed results give."""

from pathlib import Path

import pytest

from steer_bench.results.file import load_results
from steer_bench.results.leaderboard import write_leaderboard

FOLDER = Path(__file__).parents[2] / "leaderboards"


def test_rebuilding_the_committed_leaderboard_changes_nothing(tmp_path):
    write_leaderboard(sorted((FOLDER / "results").glob("*.json")), tmp_path)
    for page in ("leaderboard.md", "leaderboard.csv", "leaderboard.tex"):
        assert (tmp_path / page).read_bytes() == (FOLDER / page).read_bytes()


@pytest.mark.parametrize("target", ["gemma-3-270m", "smollm2-135m-instruct"])
def test_in_the_committed_quickstart_vectors_through_a_learned_map_lie_nearer_to_native_than_those_of_controls(target):
    measured = {line.arm: line for line in load_results(FOLDER / "results" / "quickstart.json").run.geometry
                if line.target == target}  # fmt: skip
    raw, centred, found = (
        {arm: getattr(line, key) for arm, line in measured.items()} for key in ("cosine", "centred_cosine", "retrieval")
    )
    assert raw["linear"] > raw["mean"] > 0.4  # the mean vector alone reaches a high raw cosine
    assert raw["mean"] > 5 * abs(raw["identity"])
    assert centred["linear"] > 0.7  # of concepts that the map has seen nothing of
    assert max(abs(centred[arm]) for arm in ("mean", "identity", "random")) < 0.25
    assert found["linear"] == 1.0
    assert max(found[arm] for arm in ("mean", "identity", "random")) < 0.2  # two of twelve by chance
