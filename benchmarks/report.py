"""Run the benchmarks in turn and write RESULTS.md: `make bench`. A benchmark that fails stands there as failed.

Run: python benchmarks/report.py [further arguments go to every benchmark]
"""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from common import machine
from tabulate import tabulate

HERE = Path(__file__).parent
SCRIPTS = ("generation.py", "processes.py", "likelihood.py", "screening.py", "activations.py", "fits.py", "dtypes.py")


def run(script: str, options: list[str]) -> tuple[list[dict], str | None]:
    done = subprocess.run([sys.executable, str(HERE / script), *options], capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return lines, None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no message"])[-1]


def page(found: dict[str, tuple[list[dict], str | None]]) -> str:
    rows, growth, figures, failed = [], [], [], []
    for script, (lines, error) in found.items():
        for line in lines:
            if "growth" in line:
                growth.append((line["growth"], line["rows"], line["seconds"], line["megabytes"]))
            elif "figure" in line:
                figures.append((line["figure"], line["n"], line["value"]))
            else:
                spread = "" if line["low"] is None else f" [{line['low']:.2f}, {line['high']:.2f}]"
                rows.append(
                    (
                        line["what"],
                        f"{line['ratio']:.2f}{spread}",
                        line["target"],
                        line["ours"],
                        line["theirs"],
                        line["model"],
                        f"{line['dtype']}, {line['threads']} threads, {line['device']}",
                        line["note"],
                    )
                )
        if error:
            failed.append(f"- {script}: {error}")
    heads = ("what", "ratio [lowest, highest]", "to reach", "ours", "theirs", "model", "run with", "note")
    parts = ["# Benchmarks", f"{datetime.now(UTC):%Y-%m-%d}; {machine()}.", "Ratios are medians of the repeats, with the lowest and highest. On a CPU the seconds are CPU seconds of the process, not wall clock.",
             tabulate(rows, heads, tablefmt="github", floatfmt=".2f"), "## How cost grows", "Memory: what the run added at most to what the process held.",
             tabulate(growth, ("what", "rows", "seconds", "MB"), tablefmt="github", floatfmt=("", "", ".2f", ".0f")), "## Other figures",
             tabulate(figures, ("what", "n", "value"), tablefmt="github", floatfmt=".3f")]  # fmt: skip
    if failed:
        parts += ["## Failed", "\n".join(failed)]
    notes = HERE / "notes.md"
    return "\n\n".join([*parts, *([notes.read_text().strip()] if notes.is_file() else [])]) + "\n"


if __name__ == "__main__":
    (HERE / "RESULTS.md").write_text(page({script: run(script, sys.argv[1:]) for script in SCRIPTS}))
    print(HERE / "RESULTS.md")
