"""A whole experiment on two tiny models, small enough to be run many times over: all four tasks, every kind of arm."""

from __future__ import annotations

import shutil
import socket
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import torch
import yaml
from children import ROOT, command, fresh
from tiny import save_tiny, taught, tiny_gemma3, tiny_llama, tiny_tokenizer

from steer_bench.concepts.load import load_concepts, load_texts

DATA = ROOT / "tasks" / "data"
MODELS = {"llama": (tiny_llama, 48, False), "gemma": (tiny_gemma3, 32, True)}
"""How a tiny model is built, its width, and whether its tokenizer adds a BOS."""


def small_models(
    folder: Path, builds: Mapping[str, tuple[Callable[..., Any], int, bool]] = MODELS, blank: int = 0
) -> list[str]:
    """Make the tiny models in the folder and return their names; the first `blank` tokens are never written."""
    texts = [text for concept in load_concepts(DATA / "concepts.jsonl")[:4] for text in concept.positives]
    names = []
    for i, (name, (build, width, bos)) in enumerate(builds.items()):
        tokenizer = tiny_tokenizer(texts[i:], bos=bos, vocab_size=480 + 8 * i)
        model = taught(build(width, seed=i), tokenizer, [*texts, *load_texts(DATA / "neutral.jsonl")])
        with torch.no_grad():
            model.get_output_embeddings().weight[:blank].zero_()
        names.append(save_tiny(folder / name, model, tokenizer))
    return names


def small_experiment(folder: Path, models: Sequence[str] | None = None, **changes: Any) -> Path:
    """Return the YAML of an experiment on two tiny models, which are made in the folder if none are given."""
    content: dict[str, Any] = {
        "name": "small",
        "models": [{"name": name, "layer": 2} for name in models or small_models(folder)],
        "concepts": {"source": "concepts.jsonl", "limit": 6, "held_out": 3},
        "splits": {"fit": 3, "test": 2},
        "rules": ["question"],
        "rule_texts": 10,
        "neutral": {"map": "neutral_map.jsonl", "map_limit": 20, "perplexity": "neutral.jsonl"},
        "adapters": ["native", "identity", "linear", {"wrong-concept": {"n": 1}}, {"random": {"seeds": 1}}],
        "damage": [1.02, 1.05],
        "factors": [0.2, 0.4],  # of replies
        "dose": {"texts": 8, "max_words": 8},
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


def in_ranks(n: int, *words: str, timeout: float = 550) -> CompletedProcess[str]:
    """Run a module in n ranks as torchrun does, each a child of the server; the first that fails, or rank 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    def rank(i: int) -> CompletedProcess[str]:
        return command("-m", *words, env={**shared, "RANK": str(i), "LOCAL_RANK": str(i)}, timeout=timeout)

    with ThreadPoolExecutor(n) as pool:
        done = list(pool.map(rank, range(n)))
    return next((one for one in done if one.returncode), done[0])


def torchrun(n: int, *words: str, **options: Any) -> CompletedProcess[str]:
    """Run a module in n ranks of this machine, under torchrun itself."""
    return fresh("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}", "-m", *words, **options)


def accelerate(n: int, *words: str, **options: Any) -> CompletedProcess[str]:
    """Run a module in n ranks under `accelerate launch`; for CPUs alone (--cpu) it would start one process."""
    plain = ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")
    launch = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(n), *plain)
    return fresh(*launch, "-m", *words, **options)


def records(run: Path) -> dict[str, str]:
    """Everything in RUN/records.sqlite, judgements left out."""
    with sqlite3.connect(run / "records.sqlite") as database:
        return dict(database.execute("SELECT key, value FROM records WHERE value NOT LIKE '{\"ratings\"%'"))


def copy_run(run: Path, to: Path, **changes: Any) -> Path:
    """Copy a run as it stands before its evaluation: vectors, maps and arms; and change keys of its experiment."""
    made_later = ("evaluation", "judgements", "records.sqlite*", "leaderboard*", "results.json")
    shutil.copytree(run, to, ignore=shutil.ignore_patterns(*made_later))
    if changes:
        file = to / "experiment.yaml"
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))
    return to
