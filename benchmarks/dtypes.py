"""bfloat16 against float32: the quickstart's native and linear arms in both, and the paired differences of their scores.

Run: python benchmarks/dtypes.py
"""

import sys
import tempfile
from pathlib import Path

import yaml
from common import arguments, figure, timed

from steer_bench import shipped
from steer_bench.experiment.engines import STAGES, order
from steer_bench.experiment.run import open_run
from steer_bench.results.board.comparison import compare
from steer_bench.results.board.table import interval, number
from steer_bench.results.file import load_results

if __name__ == "__main__":
    given = arguments(__doc__)
    content = yaml.safe_load((shipped("experiments") / "quickstart.yaml").read_text()) | {
        "adapters": ["native", "linear"]
    }
    found, seconds = {}, {}
    with tempfile.TemporaryDirectory() as name:
        for dtype in ("bfloat16", "float32"):
            file = Path(name) / f"{dtype}.yaml"
            file.write_text(yaml.safe_dump(content | {"dtype": dtype}))
            run = open_run(str(file), Path(name) / dtype)

            def whole(run=run):
                for stage in order(run):
                    STAGES[stage](run)

            seconds[dtype] = timed(whole, given.device)
            found[dtype] = load_results(run.folder.results)
            print(dtype, seconds[dtype], file=sys.stderr)
    for line in compare(found["bfloat16"], found["float32"])[0]:
        what = f"{line.target}, {line.task}, {line.arm}: {interval(line.first)} in bfloat16; float32 minus that {interval(line.difference)}, p {number(line.p, 2)} after Holm"
        figure(what, line.difference.n, line.difference.value)
    for dtype, used in seconds.items():
        figure(f"seconds of the quickstart's native and linear arms in {dtype}", 1, used)
