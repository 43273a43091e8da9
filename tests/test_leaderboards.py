"""The committed pages are what the committed results give."""

from pathlib import Path

from steer_bench.leaderboard import write_leaderboard

FOLDER = Path(__file__).parents[1] / "leaderboards"


def test_rebuilding_the_committed_leaderboard_changes_nothing(tmp_path):
    write_leaderboard(sorted((FOLDER / "results").glob("*.json")), tmp_path)
    for page in ("leaderboard.md", "leaderboard.csv", "leaderboard.tex"):
        assert (tmp_path / page).read_bytes() == (FOLDER / page).read_bytes()
