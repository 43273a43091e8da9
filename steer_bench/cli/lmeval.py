"""Commands around lm_eval."""

from __future__ import annotations

import sys

import typer

from steer_bench.cli.app import app


@app.command("tasks-path")
def tasks_path() -> None:
    """The folder of the task YAMLs, for lm_eval's --include_path."""
    from steer_bench import shipped

    typer.echo(shipped("tasks"))


@app.command(
    "lm-eval", context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
)
def lm_eval(context: typer.Context) -> None:
    """lm_eval with the model steer_bench and our tasks: takes every flag of lm_eval."""
    from steer_bench import register, shipped

    register()
    arguments = list(context.args)
    if arguments and arguments[0] not in ("ls", "validate") and "--include_path" not in arguments:
        arguments += ["--include_path", str(shipped("tasks"))]
    sys.argv = ["lm_eval", *arguments]
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
