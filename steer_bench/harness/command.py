"""lm-eval's own command with the model `steer_bench` and our tasks. Costs no import of torch until it is run."""

from __future__ import annotations

import sys
from collections.abc import Sequence

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
    arguments = list(arguments)
    if arguments and arguments[0] not in ("ls", "validate") and "--include_path" not in arguments:
        arguments += ["--include_path", str(shipped("tasks"))]
    sys.argv = ["lm_eval", *arguments]
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
