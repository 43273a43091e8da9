"""Stage judge: the replies of a finished evaluation rated by one judge, beside what other judges said of them.

    lm-eval's samples -> replies -> [judge] -> RUN/judgements/JUDGE/TARGET.jsonl -> report

Nothing is generated, and a judge behind a server needs no torch.
"""

from __future__ import annotations

from pathlib import Path

from steer_bench.experiment.ratings import ratings_file, replies_of, yardstick_of
from steer_bench.experiment.run import Run
from steer_bench.judge.config import JudgeConfig
from steer_bench.judge.load import load_judge
from steer_bench.judge.ratings import JudgedReply, load_ratings, rate_replies, rating_fingerprint
from steer_bench.results.measures import JUDGED


def judge(run: Run, config: JudgeConfig | None = None, *, again: bool = True) -> list[Path]:
    """Rate all replies of a run by one judge (default: the experiment's). RUN/judgements/JUDGE/TARGET.jsonl

    Asks only what RUN/records.sqlite does not hold. With `again`, replies without a score are asked for once more; else a target
    that was rated to the end is left as it is. Raises JudgeError for a judge that stops.
    """
    config = config or run.experiment.judge
    for target, replies in unrated(run, config, again=again).items():
        rate_replies(
            config, run.data.protocol.concepts, replies, target=target, yardstick=yardstick_of(run, target),
            records=run.folder.records, file=ratings_file(run, config, target), resume=f"steer-bench judge {run.folder}",
        )  # fmt: skip
    return [ratings_file(run, config, target) for target in run.targets if JUDGED in run.experiment.tasks]


def unrated(run: Run, config: JudgeConfig, *, again: bool) -> dict[str, list[JudgedReply]]:
    """Return the replies of each target that a judge did not rate yet, or not to the end."""
    found = {}
    for target in run.targets if JUDGED in run.experiment.tasks else ():
        replies, file = replies_of(run, target), ratings_file(run, config, target)
        known = load_ratings(file) if file.is_file() else None
        inputs = rating_fingerprint(config, run.data.protocol.concepts, yardstick_of(run, target), replies)
        if known is None or known.card.inputs != inputs or known.card.stopped or (again and known.unscored):
            found[target] = replies
    return found


def probe(config: JudgeConfig) -> None:
    """Check that the judge answers; raise ValueError if not. Imports no torch."""
    load_judge(config, references={}).probe()


def probe_run(run: Run, config: JudgeConfig | None = None) -> None:
    """Check that the judge of a run answers, before anything is generated, unless nothing is left to rate."""
    config = config or run.experiment.judge
    files = [ratings_file(run, config, target) for target in run.targets]
    rated = all(file.is_file() and load_ratings(file).card.stopped is None for file in files)
    if JUDGED in run.experiment.tasks and not rated:
        probe(config)
