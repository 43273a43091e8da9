"""Stage report: RUN/results.json and RUN/samples.json from lm-eval's samples, and of them the leaderboard and its figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steer_bench.experiment.completion import is_complete, waiting
from steer_bench.experiment.ratings import (
    all_ratings,
    find_judge,
    judge_agreement,
    judge_summaries,
    saved_check,
    with_ratings,
)
from steer_bench.experiment.run import MissingStageError, Run, versions
from steer_bench.experiment.selection import arm_infos
from steer_bench.experiment.stages.dose import unreached
from steer_bench.files import read_json, read_yaml
from steer_bench.judge.load import load_judge
from steer_bench.judge.ratings import Ratings
from steer_bench.results.file import Results, save_results
from steer_bench.results.leaderboard import write_leaderboard
from steer_bench.results.lmeval_samples import load_rows, load_samples
from steer_bench.results.provenance import JudgeInfo, Provenance
from steer_bench.results.rows import Row
from steer_bench.results.samples import Origin, Sample, Samples, origin, save_samples
from steer_bench.results.stats.unapplied import arms_without_effect
from steer_bench.vectors.arms import ArmsCard
from steer_bench.vectors.tensor_file import load_card


def report(run: Run, *, figures: bool = True, judge: str | None = None) -> list[Path]:
    """Write RUN/results.json and RUN/samples.json from lm-eval's samples, and of them the leaderboard and its figures.

    `judge`: id (or its beginning) of the judge whose ratings are shown; default the experiment's own.
    """
    replies: list[Sample] = []
    rows: list[Row] = []
    capability: list[Row] = []
    complete = True
    for target in run.targets:
        folder = run.folder.evaluation(target)
        if not is_complete(folder):
            raise MissingStageError(
                f"{target} is not evaluated in {run.folder}, or its samples were changed since; run steer-bench evaluate "
                f"{run.folder} first (what is recorded is not computed again)"
            )
        if (said := waiting(run, target)) is not None:
            raise MissingStageError(said)
        found = load_rows(folder)
        expected = sum(read_json(folder / "complete.json")["samples"].values())
        complete &= len(found) == expected
        rows.extend(found)
        replies.extend(load_samples(folder))
        capability.extend(_capability(run.folder.capability(target)))
    still = arms_without_effect(rows)
    if still:
        task, target, arm = still[0]
        raise ValueError(
            f"{task} on {target}: every value of the arm {arm!r} is the unsteered one; its vectors were not applied. "
            f"Remove {run.folder.evaluation(target)} and evaluate again"
        )
    ratings, shown = all_ratings(run), find_judge(run, judge)
    rows = with_ratings(rows, ratings.get(shown, {}))
    replies = with_ratings(replies, ratings.get(shown, {}))
    provenance = _provenance(
        run, ratings, _judge(run, shown, ratings), complete=complete, expected_rows=len(rows) + len(capability),
        capability=tuple(sorted({row.task for row in capability})),
    )  # fmt: skip
    save_results(run.folder.results, Results(provenance, (*rows, *capability)))
    files = [run.folder.results, run.folder.samples]
    name = provenance.judge.name if provenance.judge else ""
    save_samples(files[1], Samples(run.experiment.name, name, tuple(replies), _origins(run), len(replies)))
    return [*files, *write_leaderboard(files[:1], run.folder.path, figures=figures, png=True)]


def _capability(file: Path) -> list[Row]:
    """Read the rows of lm-eval's own tasks; none where the experiment has none."""
    return [Row(**json.loads(line)) for line in file.read_text().splitlines()] if file.is_file() else []


def _origins(run: Run) -> dict[str, Origin]:
    """What each measured concept's vector was learned from."""
    learned = {key: run.data.vector_and_held_out_texts[key][0] for key in run.data.measured}
    return {key: origin(c.description, c.genre, c.positives, c.negatives) for key, c in learned.items()}


def _judge(run: Run, shown: str, ratings: Mapping[str, Mapping[str, Ratings]]) -> JudgeInfo:
    """The judge whose ratings are shown: the one that rated the replies, else the experiment's."""
    check = saved_check(run, shown)
    if shown in ratings:
        card = next(iter(ratings[shown].values())).card
        return JudgeInfo(name=card.name, config=card.judge.model_dump(mode="json"), check=check)
    name = load_judge(run.experiment.judge, references={}).name
    return JudgeInfo(name=name, config=run.experiment.judge.model_dump(mode="json"), check=check)


def _provenance(run: Run, ratings: Mapping[str, Mapping[str, Ratings]], judge: JudgeInfo, **counted: Any) -> Provenance:
    """What a results file says of where its rows come from."""
    experiment = run.experiment
    arms = [ArmsCard.read(run.folder.arms(target)) for target in run.targets]
    cards = {config.name: load_card(run.folder.vectors(config.name)) for config in experiment.models}
    model_keys = ("revision", "layer", "d_model", "dtype", "scale")
    return Provenance.model_validate(
        {
            "name": experiment.name,
            "created": read_yaml(run.folder.experiment)["resolved"]["created"],
            "versions": versions(),
            "models": {name: {key: card[key] for key in model_keys} for name, card in cards.items()},
            "judge": judge,
            "judges": judge_summaries(run, ratings),
            "agreement": judge_agreement(ratings),
            "hashes": run.data.hashes,
            "halves": run.data.halves,
            "reliability": {name: card.get("reliability") for name, card in cards.items()},
            "levels": run.data.protocol.levels,
            "headline": experiment.headline or 1.3,
            "unreached": [
                {"target": target, **line.model_dump()}
                for target, card in zip(run.targets, arms, strict=True)
                for line in unreached(card.doses)
            ],
            "claims": experiment.claims,
            "splits": run.data.split_ids,
            "factors": run.data.protocol.factors,
            "limits": {task: limits.model_dump(exclude_none=True) for task, limits in experiment.tasks.items()},
            "seeds": {"experiment": experiment.seed, "splits": experiment.splits.seed},
            "positions": experiment.positions,
            "chat": experiment.chat,
            "prompts": run.data.prompts_hash,
            "arms": arm_infos(entry for card in arms for entry in card.arms),
            "refused": [line for card in arms for line in card.refused],
            "geometry": [line for card in arms for line in card.geometry],
            **counted,
        }
    )
