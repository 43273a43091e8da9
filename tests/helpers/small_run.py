"""A whole experiment on two tiny models, small enough to be run many times over: all four tasks, every kind of arm."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from steered import sharpened
from tiny import save_tiny, tiny_gemma3, tiny_llama, tiny_tokenizer

from steer_bench.concepts.load import load_concepts

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tasks" / "data"


def small_experiment(folder: Path, **changes: Any) -> Path:
    """The YAML of an experiment on two tiny models, which are made in the folder."""
    texts = [text for concept in load_concepts(DATA / "concepts.jsonl")[:4] for text in concept.positives]
    names = []
    for i, (name, build, width) in enumerate((("llama", tiny_llama, 48), ("gemma", tiny_gemma3, 32))):
        tokenizer = tiny_tokenizer(texts[i:], bos=name == "gemma", vocab_size=480 + 8 * i)
        names.append(save_tiny(folder / name, sharpened(build(width, seed=i)), tokenizer))
    content: dict[str, Any] = {
        "name": "small",
        "models": [{"name": name, "layer": 2} for name in names],
        "concepts": {"source": "concepts.jsonl", "limit": 6, "held_out": 3},
        "splits": {"fit": 3, "test": 2},
        "rules": ["question"],
        "rule_texts": 10,
        "neutral": {"map": "neutral_map.jsonl", "map_limit": 20, "perplexity": "neutral.jsonl"},
        "adapters": ["native", "identity", "linear", {"random": {"seeds": 1}}],
        "factors": [0.2, 0.4],
        "tasks": {
            "concept_likelihood": {"max_texts": 2, "max_neutral": 2, "max_words": 8},
            "steered_perplexity": {"max_neutral": 2, "max_words": 8},
            "concept_steering": {"max_prompts": 2, "max_new_tokens": 4},
            "rule_following": {"max_prompts": 1, "max_new_tokens": 4},
        },
        "dtype": "float32",
        "device": "cpu",
        "batch_size": 4,
        **changes,
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def command(*words: str, env: dict[str, str] | None = None, cwd: Path | None = None, timeout: float = 300) -> Any:
    """A command in a child process, as a user starts it: `command("-m", "steer_bench", ...)`."""
    paths = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    full = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **(env or {})}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=full, cwd=cwd, timeout=timeout)


def torchrun(ranks: int, *words: str, **options: Any) -> Any:
    """A module in several ranks of this machine."""
    return command("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m", *words, **options)


def accelerate(ranks: int, *words: str, **options: Any) -> Any:
    """The same as `accelerate launch` does it; for CPUs alone (--cpu) it would start one process."""
    plain = ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")
    launch = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(ranks), *plain)
    return command(*launch, "-m", *words, **options)


def records(run: Path) -> dict[str, str]:
    """Everything in RUN/records.sqlite, judgements left out."""
    with sqlite3.connect(run / "records.sqlite") as database:
        return dict(database.execute("SELECT key, value FROM records WHERE value NOT LIKE '{\"ratings\"%'"))


def copy_run(run: Path, to: Path) -> Path:
    """The run as it stands before its evaluation: vectors, maps and arms."""
    shutil.copytree(
        run, to, ignore=shutil.ignore_patterns("evaluation", "records.sqlite*", "leaderboard*", "results.json")
    )
    return to
