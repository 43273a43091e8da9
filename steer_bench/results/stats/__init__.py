"""Statistics: from rows to effects with intervals, tests and verdicts.

    rows -> effects (matched or selected factor) -> paired bootstrap -> verdicts -> leaderboard

numpy and scipy only; knows nothing of models, judges or tables.
"""
