"""What an engine costs: the same run in this process and on Ray on this machine, each in a process of its own.

Run: python benchmarks/engine_overhead.py EXPERIMENT.yaml [engine ...]
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tabulate import tabulate

ENGINES = {
    "in-process": ["--engine", "in-process"],
    "processes 2": ["--processes", "2"],
    "ray": ["--engine", "ray"],
}


def main() -> None:
    experiment, *names = sys.argv[1:]
    pages, lines = {}, []
    with tempfile.TemporaryDirectory() as folder:
        first = None
        for name in names or ENGINES:
            run = Path(folder) / name.replace(" ", "-")
            if first is not None:  # the same moment of creation, which stands on the page
                run.mkdir()
                shutil.copy(first / "experiment.yaml", run)
            start = time.perf_counter()
            words = [sys.executable, "-m", "steer_bench", "run", experiment, "--out", str(run), "--no-figures"]
            subprocess.run([*words, *ENGINES[name]], check=True, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - start
            first = first or run
            pages[name] = (run / "leaderboard.md").read_bytes()
            alone = float(lines[0][1]) if lines else seconds
            same = pages[name] == next(iter(pages.values()))
            lines.append([name, f"{seconds:.1f}", f"{100 * (seconds / alone - 1):+.0f} %", "yes" if same else "NO"])
    print(
        tabulate(
            lines,
            ["engine", "seconds", "to the first", "same leaderboard.md"],
            tablefmt="github",
            disable_numparse=True,
        )
    )


if __name__ == "__main__":
    main()
