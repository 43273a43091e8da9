"""Tables of a leaderboard."""
