"""The check of a run's judge: how well it tells texts with a known answer, RUN/judgements/JUDGE/check.json."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from steer_bench.concepts.concept import Prompt
from steer_bench.experiment.ratings import check_file, replies_of, yardstick_of
from steer_bench.experiment.run import MissingStageError, Run
from steer_bench.experiment.stages.judge import probe
from steer_bench.files import write_whole
from steer_bench.harness.task import as_prompt
from steer_bench.judge.check import CheckRow, check_judge
from steer_bench.judge.config import JudgeConfig, judge_id
from steer_bench.judge.ratings import Yardstick, judge_for
from steer_bench.models.load import load_model
from steer_bench.models.steered.generator import Generator
from steer_bench.models.steered.model import SteeredModel
from steer_bench.models.steered.requests import ReplySettings
from steer_bench.models.steered.scorer import Scorer
from steer_bench.vectors.arms import UNSTEERED

REPLIES = 48
"""Replies that are generated only for the check."""
REPLY_TOKENS = 32
"""Length of each."""


def check(run: Run, config: JudgeConfig | None = None, *, limit: int | None = None, seed: int = 0) -> list[CheckRow]:
    """Measure how well a judge tells texts with a known answer, on the texts the run's vectors were made from.

    The judge has its references and its yardstick, if it needs any, from the held-out texts and the target's arms file, as in the run.
    Instruction: the target's other unsteered replies, those of the evaluation where there is one, else made now. Written to
    RUN/judgements/JUDGE/check.json where the run has begun.
    """
    config = config or run.experiment.judge
    probe(config)
    topics = {key: sides for key, sides in run.data.vector_and_held_out_texts.items() if key in run.data.splits.test}
    target = _Target(run, run.targets[0])
    held_out = {key: sides[1] for key, sides in topics.items()}
    made = judge_for(config, held_out, target.yardstick if config.kind == "embedding" else ())
    pairs = list(dict.fromkeys((instruction, reply) for instruction, reply, _ in target.unsteered if reply.strip()))
    perplexity = target.perplexities if config.kind == "embedding" else None
    rows = check_judge(
        made, [sides[0] for sides in topics.values()], pairs=pairs, perplexity=perplexity, limit=limit, seed=seed
    )
    if run.folder.experiment.is_file():
        said = [row._asdict() for row in rows]
        content = {"judge": judge_id(config), "target": target.name, "limit": limit, "rows": said}
        write_whole(check_file(run, judge_id(config)), json.dumps(content, indent=1) + "\n")
    return rows


@dataclass(frozen=True)
class _Target:
    """A target's unsteered replies and its perplexity of texts: from the evaluation's files, or from the model itself."""

    run: Run
    name: str

    @cached_property
    def yardstick(self) -> Yardstick:
        known = self.run.folder.arms(self.name).is_file() and yardstick_of(self.run, self.name)
        return known or self._reply(self.run.data.protocol.yardstick)

    @cached_property
    def unsteered(self) -> Yardstick:
        """To other prompts than the yardstick's."""
        try:
            found = replies_of(self.run, self.name)
        except MissingStageError:
            return self._reply(self.run.data.protocol.prompts[:REPLIES])
        return [(one.instruction, one.text, one.perplexity) for one in found if one.key[0] == UNSTEERED]

    def perplexities(self, texts: Sequence[str]) -> list[float]:
        """Return the perplexity of each text by itself, under the unsteered target."""
        scores = Scorer(self._model).score_texts(texts)
        return [math.exp(-score.log_likelihood / score.n_tokens) for score in scores]

    def _reply(self, prompts: Sequence[Prompt]) -> Yardstick:
        instructions = [prompt.instruction for prompt in prompts]
        tokenizer = self._model.tokenizer
        through_template = self.run.experiment.chat and tokenizer.chat_template

        def template(messages: list[dict[str, str]]) -> str:
            return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

        asked = [as_prompt(prompt, template if through_template else None) for prompt in instructions]
        replies = Generator(self._model).generate(asked, ReplySettings((), REPLY_TOKENS), perplexity=True)
        return [(prompt, reply.text, reply.perplexity) for prompt, reply in zip(instructions, replies, strict=True)]

    @cached_property
    def _model(self) -> SteeredModel:
        experiment = self.run.experiment
        loaded = load_model(self.name, dtype=experiment.dtype, device=experiment.device)
        return SteeredModel(loaded, batch_size=experiment.batch_size)
