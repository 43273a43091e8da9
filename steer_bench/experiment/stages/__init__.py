"""The stages of a run: extract -> fit -> evaluate -> judge -> report.

Each is a function of a `Run`, reads files and writes files, and does nothing when what it would write is there already for the
same inputs.
"""

from steer_bench.experiment.stages import evaluate, extract, fit, judge, report

STAGES = {
    "extract": extract.extract,
    "fit": fit.fit,
    "evaluate": evaluate.evaluate,
    "judge": judge.judge,
    "report": report.report,
}
