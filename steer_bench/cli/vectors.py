"""Commands on vectors, their files and texts."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Annotated

import typer

from steer_bench.cli.app import Out, RunArgument, app, number, open_run, plain, print_files, say

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
    factor: Annotated[
        float, typer.Option(help="Factor, for formats that hold one steering.", callback=number(-inf, inf))
    ] = 1.0,
    ids: Ids = None,
    allow_pickle: Pickle = False,
    model: Annotated[str | None, typer.Option(help="Model the vectors are of, where the file does not say.")] = None,
    layer: Annotated[int | None, typer.Option(help="Layer the vectors are of, where the file does not say.")] = None,
    scale: Annotated[
        float | None, typer.Option(help="S, the unit of factors, if the file does not say.", callback=number(0, inf))
    ] = None,
    like: Annotated[Path | None, typer.Option(help="Take S, model and layer from this vectors or arms file.")] = None,
) -> None:
    """Vectors from and to the formats of other tools."""
    from steer_bench.vectors.convert import convert as convert_file

    written = convert_file(
        source, to, out, from_format=from_format, arm=arm, source_model=source_model, concept=concept, factor=factor, ids=ids,
        allow_pickle=allow_pickle, model=model, layer=layer, scale=scale, like=like,
    )  # fmt: skip
    print_files([written])


@app.command()
def inspect(
    files: Annotated[list[Path], typer.Argument(help="Vector or arms files.")],
    from_format: FromFormat = None,
    ids: Ids = None,
    allow_pickle: Pickle = False,
) -> None:
    """Ids, norms, cosines, duplicates and provenance of vector files; of several, whether their rows are of the same concepts."""
    from steer_bench.vectors.summary import apart, describe, render

    found = [describe(file, format=from_format, ids=ids, allow_pickle=allow_pickle) for file in files]
    say("\n\n".join(map(render, found)))
    for other in found[1:]:
        if words := apart(found[0], other):
            say(f"\n{words}", err=True)


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
    temperature: Annotated[float, typer.Option(help="Sampling temperature.", callback=number(0, inf))] = 0.8,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens a reply.")] = 115,
    batch_size: Annotated[int, typer.Option(help="Replies at once.")] = 32,
    seed: Annotated[int, typer.Option(help="Seed of prompts and sampling.")] = 0,
) -> None:
    """Concept passages or neutral paragraphs, written by a model; what misses its concept is dropped and counted."""
    from collections import Counter

    from steer_bench.concepts.generate.passages import Writing, generate_concepts, generate_neutral, save_lines
    from steer_bench.concepts.generate.writers import OpenAIWriter, Writer
    from steer_bench.files import read_json

    if what not in ("neutral", "concepts"):
        raise ValueError(f"generate {what}: there are neutral and concepts")
    if what == "concepts" and descriptions is None:
        raise ValueError("generate concepts: give --descriptions FILE, a JSON object {id: description}")
    wanted = read_json(descriptions, "give a JSON object {id: description}") if descriptions is not None else {}
    writer: Writer
    if base_url is not None:
        writer = OpenAIWriter(base_url, model)
    else:
        from steer_bench.models.load import check_model, load_model
        from steer_bench.models.writer import ModelWriter

        check_model(model)
        writer = ModelWriter(load_model(model), batch_size)
    counts: Counter[str] = Counter()
    writing = Writing(words, max_new_tokens, temperature, batch_size, seed)
    if what == "neutral":
        written = save_lines(generate_neutral(writer, n, writing=writing, prefix=prefix, counts=counts), out)
    else:
        made = generate_concepts(writer, wanted, n_positives=n, n_negatives=n, writing=writing, counts=counts)
        written = save_lines(made, out)
    say(f"{plain(out)}: {written} lines; " + ", ".join(f"{reason} {count}" for reason, count in counts.most_common()))


@app.command()
def layers(
    experiment: RunArgument,
    out: Out = None,
    steering: Annotated[bool, typer.Option(help="Measure steering too, which takes most of the time.")] = True,
) -> None:
    """What vectors are worth at every layer of each model: how reliable they are, and how much they steer."""
    from tabulate import tabulate

    from steer_bench.experiment.layers import CONCEPTS, DAMAGE, layer_lines

    lines = layer_lines(open_run(experiment, out), steering=steering)
    columns = ("model", "layer", "used", "cosine", "centred", "retrieval@1", "largest coordinate", "steering")
    rows = [
        (
            x.model, x.layer, "*" if x.used else "", x.cosine, x.centred_cosine, x.retrieval,
            f"{x.largest.share:.1%} in {x.largest.coordinate}", "" if x.steering is None else f"{x.steering:+.3f}",
        )
        for x in lines
    ]  # fmt: skip
    say(tabulate(rows, columns, tablefmt="github", floatfmt=".3f", disable_numparse=[6, 7]))
    say(
        f"\nCosines: between the vectors of two disjoint halves of a concept's texts, means over {lines[0].n} concepts of the fit and "
        "select splits (test concepts are not looked at). Centred: without what all concepts share. Largest coordinate: its share of "
        "the squared norm of native's vectors, mean over concepts; where it is large, no factor compares across arms, only damage does. "
        "Steering: what native gains over wrong concepts on the log-likelihood of a concept's held-out texts, nats a token, both at "
        f"damage {DAMAGE:g}; mean over at most {CONCEPTS} concepts of the fit split: small differences are chance. *: the experiment's "
        "layer (layer: best takes the highest steering, once, when a run begins)."
    )
