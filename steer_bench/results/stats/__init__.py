"""Statistics: from rows to effects with intervals, tests and verdicts.

    rows -> values of every concept -> effects, differences to wrong-concept -> estimates, tests -> verdicts -> leaderboard

numpy and scipy only; knows nothing of models, judges or tables. The concept is the unit of every interval and test.
"""
