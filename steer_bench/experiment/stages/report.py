"""Stage report: RUN/results.json and RUN/samples.json from lm-eval's samples, and of them the leaderboard and its figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steer_bench.experiment.completion import is_complete
from steer_bench.experiment.run import MissingStageError, Run, versions
from steer_bench.experiment.stages.judge import all_ratings, find_judge, judging_facts, saved_check, with_ratings
from steer_bench.files import read_yaml
from steer_bench.results.rows import Row


def report(run: Run, *, figures: bool = True, judge: str | None = None) -> list[Path]:
    """RUN/results.json and RUN/samples.json from lm-eval's samples, and of them leaderboard.md, .html and the figures.

    `judge`: id (or its beginning) of the judge whose ratings are shown; default the experiment's own.
    """
    from steer_bench.results.file import Results, load_rows, save_results
    from steer_bench.results.leaderboard import write_leaderboard
    from steer_bench.results.samples import Samples, load_samples, save_samples
    from steer_bench.results.stats.details import unapplied

    replies: list[Any] = []
    rows, capability, complete, created = [], [], True, ""
    for target in run.targets:
        folder = run.folder.evaluation(target)
        if not is_complete(folder):
            raise MissingStageError(
                f"{target} is not evaluated in {run.folder}, or its samples were changed since; run steer-bench evaluate "
                f"{run.folder} first (what is recorded is not computed again)"
            )
        found = load_rows(folder)
        expected = sum(json.loads((folder / "complete.json").read_text())["samples"].values())
        complete &= len(found) == expected
        rows.extend(found)
        replies.extend(load_samples(folder))
        capability.extend(_capability(run.folder.capability(target)))
    still = unapplied(rows)
    if still:
        task, target, arm = still[0]
        raise ValueError(
            f"{task} on {target}: every value of the arm {arm!r} is the unsteered one; its vectors were not applied. "
            f"Remove {run.folder.evaluation(target)} and evaluate again"
        )
    ratings, shown = all_ratings(run), find_judge(run, judge)
    rows = with_ratings(rows, ratings.get(shown, {}))
    replies = with_ratings(replies, ratings.get(shown, {}))
    created = read_yaml(run.folder.experiment)["resolved"]["created"]
    provenance = _provenance(run, created, complete, len(rows) + len(capability)) | judging_facts(run, ratings)
    if capability:
        provenance["capability"] = {"tasks": sorted({row.task for row in capability})}
    if shown in ratings:
        card = next(iter(ratings[shown].values())).card
        provenance["judge"] = {"name": card["name"], **card["judge"]}
    if checked := saved_check(run, shown):
        provenance["judge"]["check"] = checked
    results = Results(provenance, (*rows, *capability))
    save_results(run.folder.results, results)
    files = [run.folder.results, run.folder.samples]
    judge = str(results.run["judge"]["name"])
    save_samples(files[1], Samples(run.experiment.name, judge, tuple(replies), _origins(run), len(replies)))
    return [*files, *write_leaderboard(files[:1], run.folder.path, figures=figures, png=True)]


def _capability(file: Path) -> list[Row]:
    """Read the rows of lm-eval's own tasks; none where the experiment has none."""
    return [Row(**json.loads(line)) for line in file.read_text().splitlines()] if file.is_file() else []


def _origins(run: Run) -> dict[str, Any]:
    """What each measured concept's vector was learned from."""
    from steer_bench.results.samples import origin

    learned = {key: run.data.vector_and_held_out_texts[key][0] for key in run.data.measured}
    return {key: origin(c.description, c.genre, c.positives, c.negatives) for key, c in learned.items()}


def _imported(run: Run) -> dict[str, dict[str, str]]:
    """Arms of imported vectors, as they are and through a map: each makes a claim, as a transfer does."""
    names = [entry.name for entry in run.experiment.vectors]
    mapped = {f"{a.name}-{name}": {"kind": a.kind, "method": a.method} for a in run.data.adapters for name in names}
    return {name: {"kind": "transfer", "method": "imported"} for name in names} | mapped


def _provenance(run: Run, created: str, complete: bool, n_rows: int) -> dict[str, Any]:
    """What a results file says of where its rows come from."""
    from steer_bench.judge.config import load_judge
    from steer_bench.vectors.store import load_card

    cards = {target: load_card(run.folder.arms(target)) for target in run.targets}
    models = {
        config.name: {key: card[key] for key in ("revision", "layer", "d_model", "dtype", "scale")}
        for config in run.experiment.models
        for card in [load_card(run.folder.vectors(config.name))]
    }
    judge = load_judge(run.experiment.judge, references={})
    return {
        "name": run.experiment.name,
        "created": created,
        "versions": versions(),
        "models": models,
        "judge": {"name": judge.name, **run.experiment.judge},
        "hashes": run.data.hashes,
        "halves": run.data.halves,
        "reliability": {
            config.name: load_card(run.folder.vectors(config.name)).get("reliability")
            for config in run.experiment.models
        },
        "damage_limit": run.experiment.damage_limit,
        "equivalence_margin": run.experiment.equivalence_margin,
        "splits": {name: sorted(getattr(run.data.splits, name)) for name in ("fit", "select", "test")},
        "factors": {task: list(run.experiment.grid(task)) for task in run.experiment.tasks},
        "limits": {task: limits.model_dump(exclude_none=True) for task, limits in run.experiment.tasks.items()},
        "seeds": {"experiment": run.experiment.seed, "splits": run.experiment.splits.seed, "bootstrap": 0},
        "positions": run.experiment.positions,
        "chat": run.experiment.chat,
        "prompts": run.data.prompts_hash,
        "adapters": {
            name: {"kind": a.kind, "method": a.method}
            for a in run.data.adapters
            for name in ([f"{a.name}-{n}" for n in run.data.few_shot_sizes] if a.method == "few-shot" else [a.name])
        }
        | _imported(run),
        "refused": [entry for card in cards.values() for entry in card["refused"]],
        "geometry": [line for card in cards.values() for line in card["geometry"]],
        "complete": complete,
        "expected_rows": n_rows,
    }
