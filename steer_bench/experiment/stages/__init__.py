"""The stages of a run: extract -> fit -> evaluate -> judge -> report.

Each is a function of a `Run`, reads files and writes files, and does nothing when what it would write is there already for the
same inputs. `steer_bench.experiment.engines` has them all in one table.
"""
