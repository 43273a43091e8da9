"""The engine of this process: every stage by name. `ray_engine` has the same names, run on a cluster, with the same files.

Importing it imports all that a run needs: torch, transformers and lm_eval.
"""

from __future__ import annotations

from functools import partial

from steer_bench.experiment.run import Stages
from steer_bench.experiment.stages.evaluate import evaluate
from steer_bench.experiment.stages.extract import extract
from steer_bench.experiment.stages.fit import fit
from steer_bench.experiment.stages.judge import judge
from steer_bench.experiment.stages.report import report

STAGES: Stages = {
    "extract": extract,
    "fit": fit,
    "evaluate": evaluate,
    "judge": partial(judge, again=False),
    "report": report,
}
