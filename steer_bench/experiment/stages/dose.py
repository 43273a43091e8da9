"""Stage dose: what is fixed before anything is measured, into RUN/arms/TARGET.safetensors.

The factor at which each arm does each level of damage, found on texts that nothing is scored on, and the unsteered replies that
set the judge.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from steer_bench.experiment.completion import check_arms
from steer_bench.experiment.run import Run, versions
from steer_bench.experiment.target import open_lm
from steer_bench.files import digest
from steer_bench.harness import ranks
from steer_bench.harness.evaluation import has_chat_template
from steer_bench.harness.model import SteeredLM
from steer_bench.harness.task import as_prompt
from steer_bench.models.steered.dosing import Sought, find_doses
from steer_bench.models.steered.requests import ReplySettings
from steer_bench.results.measures import JUDGED, MEASURES
from steer_bench.vectors.arms import Arms, Dose

logger = logging.getLogger(__name__)
REPLY_TOKENS = 32
"""Tokens of the replies that set the judge, where the judged task does not say."""


def dose(run: Run) -> list[Path]:
    """Find the doses of every target's arms and its yardstick; write them into its arms file. What is there is not found again."""
    check_arms(run)
    rank, size = ranks.join()
    if rank == 0:
        for target in run.targets:
            dose_target(run, target)
    ranks.wait(size)
    return [run.folder.arms(target) for target in run.targets]


def dose_target(run: Run, target: str) -> Path:
    """Find the doses and the yardstick of one target, its model loaded where they are not known."""
    path, inputs = run.folder.arms(target), dose_inputs(run, target)
    arms = Arms.load(path)
    if arms.card.doses_inputs == inputs:
        logger.info("the doses in %s are up to date", path)
        return path
    lm = open_lm(run, target)
    protocol = run.data.protocol
    found = find_doses(lm.scorer, sought(run, arms), list(protocol.calibration.values()))
    for line in unreached(found):
        logger.warning(
            "%s: %s of %s does not reach damage %g: %s", target, line.arm, line.concept, line.level, line.reason
        )
    known = {"doses": tuple(found), "yardstick": _yardstick(run, lm), "doses_inputs": inputs}
    replace(arms, card=arms.card.model_copy(update=known)).save(path)
    lm.records.close()
    return path


def sought(run: Run, arms: Arms) -> list[Sought]:
    """Return every vector of a target with the levels that some task measures it at."""
    concepts, found = run.data.protocol.concepts, []
    for entry in arms.entries:
        for concept in entry.concepts:
            kind = concepts[concept].kind
            tasks = [task for task in run.experiment.tasks if MEASURES[task].subject in (kind, "any")]
            levels = sorted({level for task in tasks for level in run.experiment.levels(task)})
            if levels:
                sign = -1 if kind == "suppress" else 1
                found.append(Sought(entry.arm.name, entry.source, concept, tuple(levels), sign))
    return found


def unreached(doses: Sequence[Dose]) -> list[Dose]:
    """Return the doses that there are not."""
    return [one for one in doses if one.factor is None]


def dose_inputs(run: Run, target: str) -> str:
    """Return a hash that changes with anything that a target's doses and yardstick depend on."""
    arms, protocol, experiment = Arms.load(run.folder.arms(target)), run.data.protocol, run.experiment
    levels = {task: experiment.levels(task) for task in experiment.tasks}
    asked = [(prompt.id, prompt.instruction) for prompt in protocol.yardstick], experiment.chat, _reply_tokens(run)
    return digest(
        arms.card.inputs,
        arms.sha256,
        protocol.calibration,
        levels,
        experiment.positions,
        experiment.dtype,
        asked,
        versions(),
    )


def _reply_tokens(run: Run) -> int:
    limits = run.experiment.tasks.get(JUDGED)
    return (limits and limits.max_new_tokens) or REPLY_TOKENS


def _yardstick(run: Run, lm: SteeredLM) -> tuple[tuple[str, str, float | None], ...]:
    """Return the target's unsteered replies to prompts that nothing is scored on; none where no task is judged."""
    if JUDGED not in run.experiment.tasks:
        return ()
    template = lm.apply_chat_template if run.experiment.chat and has_chat_template(lm) else None
    instructions = [prompt.instruction for prompt in run.data.protocol.yardstick]
    asked = [as_prompt(instruction, template) for instruction in instructions]
    replies = lm.generator.generate(asked, ReplySettings((), _reply_tokens(run)), perplexity=True)
    return tuple((text, reply.text, reply.perplexity) for text, reply in zip(instructions, replies, strict=True))
