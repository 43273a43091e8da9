"""lm-eval's own command with the model `steer_bench` and our tasks. Costs no import of torch until it is run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steer_bench import shipped


def register() -> None:
    """Register the model `steer_bench` with lm-eval, lazily.

    `lm_eval.models` comes first: lm-eval fills its table of built-in models only while that table is empty.
    """
    import lm_eval.models  # noqa: F401
    from lm_eval.api.registry import model_registry

    if "steer_bench" not in model_registry:
        model_registry.register("steer_bench", target="steer_bench.harness.model:SteeredLM")


def run_lm_eval(arguments: Sequence[str]) -> None:
    """Run lm-eval's command with these arguments; our tasks are found by name."""
    register()
    import lm_eval.tasks
    from lm_eval.__main__ import cli_evaluate

    class WithOurs(lm_eval.tasks.TaskManager):
        """lm-eval's tasks, ours, and those of the folder that the user names, by flag or in a config."""

        def __init__(self, *, include_path: str | Path | None = None, **options: Any) -> None:
            if include_path is not None and not Path(include_path).exists():
                raise ValueError(f"--include_path {include_path}: no such folder")
            folders = [shipped("tasks"), *([] if include_path is None else [Path(include_path)])]
            super().__init__(include_path=folders, **options)

    plain, lm_eval.tasks.TaskManager = lm_eval.tasks.TaskManager, WithOurs  # run, ls, validate make one
    sys.argv = ["lm_eval", *arguments]
    try:
        cli_evaluate()
    finally:
        lm_eval.tasks.TaskManager = plain
