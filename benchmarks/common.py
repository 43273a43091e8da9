"""What the benchmarks share: models and arms, texts, a clock, a ratio with its spread, and the machine in words.

On a CPU the clock counts CPU seconds of this process (torch on one thread unless --threads says more), which other processes
on the machine change little; on a GPU it is the wall clock.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from lm_eval.api.instance import Instance

from steer_bench import shipped
from steer_bench.concepts.load import load_prompts, load_texts
from steer_bench.models.device import default_device, resolve_dtype
from steer_bench.models.load import load_model, model_path
from steer_bench.models.steered.steering import Steering, VectorBank
from steer_bench.vectors.arms import Arm, Arms

DATA = shipped("tasks") / "data"


def arguments(description: str, model: str = "smollm2-135m-instruct") -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--model", default=model)
    parser.add_argument("--device", default=default_device())
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.torch_dtype = resolve_dtype(given.dtype, given.device)
    given.path = model_path(given.model)
    given.hf = {
        "pretrained": given.path, "device": given.device, "dtype": str(given.torch_dtype).removeprefix("torch."),
    }  # fmt: skip
    return given


def random_arms(model: str, names: list[str], arms: tuple[str, ...] = ("native",), scale: float = 100.0) -> Arms:
    """Arms of random directions at half depth: what a pass costs does not depend on where vectors point."""
    config = json.loads((Path(model_path(model)) / "config.json").read_text())
    config = config.get("text_config", config)
    random = np.random.default_rng(0)
    vectors = {
        (Arm(arm), name): random.standard_normal(config["hidden_size"]).astype(np.float32)
        for arm in arms
        for name in names
    }
    return Arms(model, config["num_hidden_layers"] // 2, scale, vectors)


def texts(n: int, words: int = 32) -> list[str]:
    """Different texts of neutral prose."""
    found = [*load_texts(DATA / "neutral.jsonl"), *load_texts(DATA / "neutral_map.jsonl")]
    cut = [" ".join(text.split()[:words]) for text in found]
    return [cut[i % len(cut)] if i < len(cut) else f"{i}: {cut[i % len(cut)]}" for i in range(n)]


def prompts(n: int) -> list[str]:
    return [prompt.instruction for prompt in load_prompts(DATA / "instructions.jsonl")][:n]


def spec(steering: Steering) -> dict[str, dict[str, object]]:
    return {"steer": {k: getattr(steering, k) for k in ("arm", "source", "concept", "factor")}}


def ask(kind: str, *args: object) -> Instance:
    return Instance(kind, {}, args, 0)


def clock(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def timed(run: Callable[[], object], device: str) -> float:
    start = clock(device)
    run()
    return clock(device) - start


def compare(
    title: str, ours: Callable[[], object], theirs: Callable[[], object], given: argparse.Namespace, target: str, *,
    times: float = 1.0, note: str = "", of_ours: bool = False,
) -> dict[str, object]:  # fmt: skip
    """Both sides in turn, `repeats` times. times: how often the measured part of the other side would be done."""
    own, other = [], []
    for _ in range(given.repeats):
        own.append(timed(ours, given.device))
        other.append(timed(theirs, given.device) * times)
    return told(title, own, other, given, target, note=note, of_ours=of_ours)


def told(
    title: str, own: list[float], other: list[float], given: argparse.Namespace, target: str, *, note: str = "", of_ours: bool = False,
) -> dict[str, object]:  # fmt: skip
    """A line of the results, printed: seconds of both sides, and their ratios, repeat by repeat."""
    ratios = [o / t if of_ours else t / o for o, t in zip(own, other, strict=True)]
    line = {
        "what": title, "ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios), "ours": statistics.median(own),
        "theirs": statistics.median(other), "target": target, "note": note, "model": given.model,
        "dtype": str(given.torch_dtype).removeprefix("torch."), "threads": given.threads, "device": given.device,
    }  # fmt: skip
    print(json.dumps(line), flush=True)
    return line


def grow(what: str, rows: int, run: Callable[[], object], given: argparse.Namespace) -> float:
    """A line of how cost grows, printed: seconds of one run, and the memory it added at most; returns the megabytes."""
    before = _memory("VmRSS", reset=True)
    seconds = timed(run, given.device)
    megabytes = _memory("VmHWM") - before
    print(json.dumps({"growth": what, "rows": rows, "seconds": seconds, "megabytes": megabytes}), flush=True)
    return megabytes


def _memory(name: str, *, reset: bool = False) -> float:
    """Megabytes this process holds (VmRSS), or held at most since the last reset (VmHWM). Linux only."""
    gc.collect()
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def figure(what: str, n: int, value: float) -> None:
    """A number that is neither a ratio nor a cost, such as a correlation, printed."""
    print(json.dumps({"figure": what, "n": n, "value": value}), flush=True)


def machine() -> str:
    flags = Path("/proc/cpuinfo")
    text = flags.read_text() if flags.is_file() else ""
    name = next(
        (line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")),
        platform.processor(),
    )
    bf16 = ", avx512_bf16" if "avx512_bf16" in text else ""
    gpu = f"; {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}{bf16}, {text.count('processor	:')} cores{gpu}; Python {platform.python_version()}, torch {torch.__version__}"


def peak(dtype: torch.dtype, device: str) -> float:
    """The machine's own matrix product, FLOP a second, at the shapes of a large batch."""
    a, b = torch.randn(2048, 2048, device=device).to(dtype), torch.randn(2048, 2048, device=device).to(dtype)
    torch.nn.functional.linear(a, b)
    return 2 * 2048**3 / min(timed(lambda: torch.nn.functional.linear(a, b), device) for _ in range(5))


__all__ = [
    "Steering", "VectorBank", "arguments", "ask", "compare", "figure", "grow", "load_model", "machine", "peak", "prompts", "random_arms", "spec",
    "texts", "timed", "told",
]  # fmt: skip
