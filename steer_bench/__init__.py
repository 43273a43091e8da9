"""steer-bench: does a steering vector learned on one language model still steer another, and at what cost?

    import steer_bench as sb
    source, target = sb.load_model("gemma-3-270m"), sb.load_model("smollm2-135m-instruct")
    vectors = sb.extract(source, sb.load_concepts("concepts.jsonl"), layer=0.5)
    arms = sb.transfer(sb.fit("linear", source, target, texts, layers=(9, 15)), vectors)
    with sb.steer(target, arms["sea"], factor=0.3):
        ...

Names are loaded when they are first used: importing the package imports neither torch nor lm_eval.
"""

# ruff: noqa: F401 (what editors and mypy know of the names below)

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steer_bench.concepts.concept import Concept
    from steer_bench.concepts.load import load_concepts, load_prompts
    from steer_bench.experiment.config import Experiment
    from steer_bench.experiment.engines import run
    from steer_bench.harness.model import SteeredLM
    from steer_bench.judge.judgement import rate_by_aspect as rate
    from steer_bench.judge.load import load_judge
    from steer_bench.models.extract import extract
    from steer_bench.models.load import load_model
    from steer_bench.models.steered.generator import Generator
    from steer_bench.models.steered.scorer import Scorer
    from steer_bench.models.steered.steer import steer
    from steer_bench.models.steered.steering import Steering, VectorBank
    from steer_bench.results.leaderboard import leaderboard
    from steer_bench.transfer.fitted import fit
    from steer_bench.transfer.geometry import geometry
    from steer_bench.vectors.arms import Arms
    from steer_bench.vectors.convert import convert
    from steer_bench.vectors.methods import diff_mean
    from steer_bench.vectors.store import VectorStore

__version__ = "0.1.0"
_DOOR = {
    "Arms": "vectors.arms", "Concept": "concepts.concept", "Experiment": "experiment.config",
    "Generator": "models.steered.generator", "Scorer": "models.steered.scorer", "SteeredLM": "harness.model",
    "Steering": "models.steered.steering", "VectorBank": "models.steered.steering", "VectorStore": "vectors.store",
    "convert": "vectors.convert", "diff_mean": "vectors.methods", "extract": "models.extract", "fit": "transfer.fitted",
    "geometry": "transfer.geometry", "leaderboard": "results.leaderboard", "load_concepts": "concepts.load",
    "load_judge": "judge.load", "load_model": "models.load", "load_prompts": "concepts.load",
    "rate": "judge.judgement", "run": "experiment.engines", "steer": "models.steered.steer", "transfer": "",
}  # fmt: skip
"""Name -> module that has it; `transfer` is the package itself, which can be called."""
__all__ = ["__version__", "shipped", *_DOOR]


def __getattr__(name: str) -> object:
    if name not in _DOOR:
        raise AttributeError(f"module 'steer_bench' has no attribute {name!r}; there are {', '.join(sorted(_DOOR))}")
    if name == "transfer":
        return importlib.import_module("steer_bench.transfer")
    module = importlib.import_module(f"steer_bench.{_DOOR[name]}")
    return getattr(module, "rate_by_aspect" if name == "rate" else name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_DOOR})


def shipped(folder: str) -> Path:
    """The folder `tasks`, `adapters` or `experiments` that ships with the package (or stands in the checkout)."""
    package = Path(__file__).resolve().parent
    for place in (package / folder, package.parent / folder):
        if place.is_dir():
            return place
    raise FileNotFoundError(f"the folder {folder!r} of steer_bench is missing beside {package}; reinstall the package")
