"""A sweep in one process, from the command line, against lm-eval's `steered` with a process per cell or per vector.

Whole processes are timed: starting, loading, finding tasks. CELLS and VECTORS of the other side are run, and multiplied.

Run: python benchmarks/processes.py [--model NAME]
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml
from common import Steering, VectorBank, arguments, prompts, random_arms, told

from steer_bench import shipped
from steer_bench.vectors.arms import Arms

CELLS, VECTORS = 3, 2
REPLIES = {
    "task": "bench_replies", "dataset_path": "json", "output_type": "generate_until", "test_split": "test", "doc_to_text": "{{prompt}}",
    "doc_to_target": "", "generation_kwargs": {"until": [], "max_gen_toks": 24, "do_sample": False}, "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}  # fmt: skip


def seconds(words: list[str], given) -> float:
    """CPU seconds of a whole process and of what it starts; on a GPU its wall clock."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": str(given.threads)},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return time.perf_counter() - start if given.device.startswith("cuda") else used


def against(title: str, arms: Arms, options: list[str], factors: list[float], measured: int, target: str, given, folder: Path) -> None:  # fmt: skip
    """One `steer-bench sweep` and `measured` runs of lm-eval's `steered`, each with another steering of the same sweep."""
    arms.save(folder / "arms.safetensors")
    shared = ["--tasks", *options, "--include_path", str(folder)]
    ours = ["steer_bench", "sweep", str(folder / "arms.safetensors"), "--factors", ",".join(map(str, factors)), "--dtype", given.hf["dtype"],
            "--device", given.device, "-o", str(folder / "found.json"), *(word.replace("_", "-") if word.startswith("--") else word for word in shared)]  # fmt: skip
    cells = [Steering(a.name, a.source, concept, factor) for a, concept in arms.vectors for factor in factors]
    theirs, bank = [], VectorBank(arms)
    for cell in cells[:measured]:
        entry = {"steering_vector": bank.vector(cell), "steering_coefficient": 1.0, "action": "add", "bias": None, "head_index": None}  # fmt: skip
        torch.save({f"layers.{arms.layer}": entry}, folder / "one.pt")
        model = {"pretrained": given.path, "dtype": given.hf["dtype"], "steer_path": folder / "one.pt"}
        words = ["lm_eval", "run", "--model", "steered", "--model_args", ",".join(f"{k}={v}" for k, v in model.items()), "--batch_size", "64", "--device", given.device]  # fmt: skip
        theirs.append(seconds([*words, *shared], given))
    own = [seconds(ours, given) for _ in range(given.repeats)]
    found = len(json.loads((folder / "found.json").read_text())["sweep"])
    assert found == len(cells) + 1, f"{found} results of {len(cells)} steerings and the unsteered model"
    told(title, own, [len(cells) * sum(theirs) / measured] * len(own), given, target,
         note=f"other side: {measured} of {len(cells)} processes, {sum(theirs) / measured:.1f} s each, multiplied")  # fmt: skip


if __name__ == "__main__":
    given = arguments(__doc__)
    os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts(4)))
        task = {**REPLIES, "dataset_kwargs": {"data_files": {"test": str(folder / "prompts.jsonl")}}}
        (folder / "bench_replies.yaml").write_text(yaml.safe_dump(task))
        against(
            "sweep of 8 concepts x 3 arms x 4 factors x 4 prompts, 24 new tokens, against lm-eval's `steered` with a process per cell",
            random_arms(given.model, [f"c{i}" for i in range(8)], ("native", "linear", "random")),
            ["bench_replies", "--apply_chat_template"], [0.05, 0.1, 0.15, 0.2], CELLS, "40 times faster", given, folder,
        )  # fmt: skip
        (folder / "bench_replies.yaml").unlink()
        for part in ("capability_choices.yaml", "data"):
            (folder / part).symlink_to(shipped("tasks") / part)
        against(
            "a task of lm-eval's kind (60 questions of 4 answers) under 32 vectors: `steer-bench sweep`, against a process per vector",
            random_arms(given.model, [f"c{i}" for i in range(32)]), ["capability_choices"], [0.1], VECTORS, "6 times faster", given, folder,
        )  # fmt: skip
