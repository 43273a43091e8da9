"""Commands that try many vectors at once: screen and sweep."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Annotated

import typer

from steer_bench.cli.app import app, number, say

ArmsFile = Annotated[Path, typer.Argument(metavar="FILE", help="Arms or vectors file (RUN/arms/ or RUN/vectors/).")]
Model = Annotated[str | None, typer.Option(help="Model; default the one the file names.")]
ArmNames = Annotated[list[str] | None, typer.Option("--arm", help="Only these arms; may be repeated.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")]
Device = Annotated[str | None, typer.Option(help="Torch device; default cuda where there is one.")]


@app.command()
def screen(
    file: ArmsFile,
    texts: Annotated[Path, typer.Option(help="Texts whose likelihood is to rise: JSON Lines of {id, text}.")],
    factor: Annotated[
        float, typer.Option(help="Factor the vectors would be added with.", callback=number(-inf, inf))
    ] = 0.1,
    arm: ArmNames = None,
    top: Annotated[int, typer.Option(help="Best vectors that are run exactly.")] = 20,
    sample: Annotated[int, typer.Option(help="Random vectors that are run exactly, for the rank correlation.")] = 20,
    points: Annotated[int, typer.Option(help="Gradients along the factor; each costs two passes over the texts.")] = 1,
    limit: Annotated[int | None, typer.Option(help="Only so many texts.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sample.")] = 0,
    model: Model = None,
    dtype: Dtype = "auto",
    device: Device = None,
) -> None:
    """Rank a whole bank of vectors by how much they raise the likelihood of texts; a few passes, however many vectors."""
    from steer_bench.concepts.load import load_texts
    from steer_bench.vectors.arms import Arm, Arms
    from steer_bench.vectors.store import VectorStore
    from steer_bench.vectors.tensor_file import load_card

    if top < 1 or sample < 0 or (limit is not None and limit < 1):
        raise ValueError(f"--top {top}, --sample {sample}, --limit {limit}: give at least 1 (a sample may be 0)")
    if load_card(file).get("kind") == "vectors":
        store = VectorStore.load(file)
        named = {(Arm("native"), concept): vector for concept, vector in store.vectors.items()}
        bank = Arms(store.model, store.layer, store.scale, named)
    else:
        bank = Arms.load(file)
    known = {one.name for one, _ in bank.vectors}
    wrong = [name for name in arm or () if name not in known]
    if wrong:
        raise ValueError(f"--arm {wrong[0]}: there are {', '.join(sorted(known))}")
    wanted = load_texts(texts)[:limit]

    from tabulate import tabulate

    from steer_bench.models.load import check_model, load_model
    from steer_bench.models.steered.screening import screen as run_screen
    from steer_bench.models.steered.steering import Steering, VectorBank

    check_model(model or bank.target)
    loaded = load_model(model or bank.target, dtype=dtype, device=device)
    chosen = [(one, concept) for one, concept in bank.vectors if not arm or one.name in arm]
    vectors = VectorBank(bank).rows([Steering(one.name, one.source, concept, factor) for one, concept in chosen])[:, 0]
    found = run_screen(loaded, bank.layer, wanted, vectors, points=points, top=top, sample=sample, seed=seed)
    rows = [
        (rank, chosen[i][0].name, chosen[i][0].source, chosen[i][1], found.first_order[i], found.exact[i])
        for rank, i in enumerate(found.order, 1)
        if i in found.exact
    ]
    heads = ("rank", "arm", "source", "concept", "first order", "exact")
    say(tabulate(rows, heads, floatfmt=".4f"))
    say(
        f"{len(chosen)} vectors, {len(wanted)} texts, {found.n_tokens} tokens, factor {factor}; lifts in nats a token; not listed: not run"
    )
    correlation = (
        "n/a (fewer than 3 vectors, or all equal)" if found.correlation is None else f"{found.correlation:.3f}"
    )
    say(f"Spearman of first order and exact, {len(found.sample)} random vectors: {correlation}")


@app.command()
def sweep(
    file: ArmsFile,
    tasks: Annotated[str, typer.Option(help="lm-eval tasks: names or YAML paths, separated by commas.")],
    arm: ArmNames = None,
    concept: Annotated[list[str] | None, typer.Option(help="Only these concepts; may be repeated.")] = None,
    factors: Annotated[str, typer.Option(help="Factors, separated by commas.")] = "0.1,0.2,0.3",
    limit: Annotated[int | None, typer.Option(help="Only so many documents a task.")] = None,
    num_fewshot: Annotated[int | None, typer.Option(help="Few-shot examples.")] = None,
    include_path: Annotated[Path | None, typer.Option(help="Folder with further task YAMLs.")] = None,
    chat: Annotated[bool, typer.Option("--apply-chat-template", help="Prompts through the chat template.")] = False,
    batch_size: Annotated[str, typer.Option(help="Rows at once, or auto.")] = "auto",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file of all results.")] = None,
    model: Model = None,
    dtype: Dtype = "auto",
    device: Device = None,
) -> None:
    """Any of lm-eval's tasks under many vectors: the model loaded once, tasks built once, all requests in full batches."""
    from steer_bench.vectors.arms import Arms

    try:
        grid = [float(factor) for factor in factors.split(",")]
    except ValueError:
        raise ValueError(f"--factors {factors}: give numbers separated by commas, such as 0.1,0.2") from None
    arms = Arms.load(file)

    import json
    from dataclasses import asdict

    from tabulate import tabulate

    from steer_bench.files import write_whole
    from steer_bench.harness.model import SteeredLM
    from steer_bench.harness.sweep import steerings, task_manager
    from steer_bench.harness.sweep import sweep as run_sweep
    from steer_bench.models.device import default_device, resolve_dtype
    from steer_bench.models.load import check_model

    pool = steerings(
        ((one.name, one.source, key) for one, key in arms.vectors), arms=arm or (), concepts=concept or (), factors=grid
    )
    check_model(model or arms.target)
    names = [name for name in tasks.split(",") if name]
    loaded = task_manager(names, include_path).load(names)
    on = device or default_device()
    lm = SteeredLM(
        model or arms.target, arms=arms, device=on, dtype=str(resolve_dtype(dtype, on)).removeprefix("torch."),
        batch_size=batch_size if batch_size == "auto" else int(batch_size),
    )  # fmt: skip
    rows, kept = [], []
    results = run_sweep(
        lm, loaded, pool, limit=limit, num_fewshot=num_fewshot, apply_chat_template=chat, bootstrap_iters=1000
    )
    for steering, found in results:
        kept.append({"steering": asdict(steering), "results": found["results"]})
        for task, values in found["results"].items():
            for metric, value in values.items():
                name, _, filtered = metric.partition(",")
                if isinstance(value, int | float) and filtered and not name.endswith("_stderr"):
                    named = (steering.arm, steering.source, steering.concept, steering.factor)
                    rows.append((*named, task, filtered, name, value, values.get(f"{name}_stderr,{filtered}", "N/A")))
    say(tabulate(rows, ("arm", "source", "concept", "factor", "task", "filter", "metric", "value", "stderr")))
    if out is not None:
        write_whole(out, json.dumps({"target": lm.name, "sweep": kept}, indent=1, default=str) + "\n")
        say(out)
