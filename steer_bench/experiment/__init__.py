"""Experiment: one YAML, and the stages that make a leaderboard of it.

    extract -> fit -> evaluate -> judge -> report

Each stage is a function of a `Run` (an experiment and its folder), reads files and writes files, and does nothing when what
it would write is there already for the same inputs. Config is read here, once, and goes no deeper.
"""
