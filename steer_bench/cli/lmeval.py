"""Commands around lm_eval."""

from __future__ import annotations

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
    from steer_bench.harness.command import run_lm_eval

    run_lm_eval(context.args)
