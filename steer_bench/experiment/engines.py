"""The engine of this process: every stage by name. `ray_engine` has the same names, run on a cluster, with the same files.

Importing it imports all that a run needs: torch, transformers and lm_eval.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from steer_bench.experiment.run import Run, Stages, open_run
from steer_bench.experiment.stages.dose import dose
from steer_bench.experiment.stages.evaluate import evaluate
from steer_bench.experiment.stages.extract import extract
from steer_bench.experiment.stages.fit import fit
from steer_bench.experiment.stages.judge import judge
from steer_bench.experiment.stages.report import report
from steer_bench.results.file import Results, load_results

STAGES: Stages = {
    "extract": extract, "fit": fit, "dose": dose, "evaluate": evaluate, "judge": partial(judge, again=False), "report": report,
}  # fmt: skip


def order(run: Run) -> tuple[str, ...]:
    """Return the stages of a run in order: on a grid of factors the prompts that are scored are measured in a second step."""
    steps = ("evaluate", "judge") * (2 if run.experiment.grids else 1)
    return ("extract", "fit", "dose", *steps, "report")


def run(experiment: str, folder: Path | None = None) -> Results:
    """Run an experiment (shipped name or YAML) in this process, or continue a run folder; return its results."""
    opened = open_run(experiment, folder)
    with opened.folder.lock():
        for stage in order(opened):
            STAGES[stage](opened)
    return load_results(opened.folder.results)
