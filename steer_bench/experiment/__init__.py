"""Experiment: one YAML, and the stages that make a leaderboard of it.

    extract -> fit -> evaluate -> judge -> report

Each stage is a function of a `Run` (an experiment and its folder), reads files and writes files, and does nothing when what
it would write is there already for the same inputs. Config is read here, once, and goes no deeper.
"""

from steer_bench.experiment.config import Experiment, find_experiment, load_experiment, read_yaml
from steer_bench.experiment.extraction import extract
from steer_bench.experiment.fitting import fit
from steer_bench.experiment.judging import judge
from steer_bench.experiment.measuring import evaluate
from steer_bench.experiment.reporting import report
from steer_bench.experiment.run import MissingStageError, Run, model_file_name, open_run, versions

STAGES = {"extract": extract, "fit": fit, "evaluate": evaluate, "judge": judge, "report": report}

__all__ = [
    "STAGES",
    "Experiment",
    "MissingStageError",
    "Run",
    "evaluate",
    "extract",
    "find_experiment",
    "fit",
    "judge",
    "load_experiment",
    "model_file_name",
    "open_run",
    "read_yaml",
    "report",
    "versions",
]
