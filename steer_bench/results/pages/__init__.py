"""Pages of a leaderboard."""
