"""The check of a run's judge: how well it tells texts with a known answer, RUN/judgements/JUDGE/check.json."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

from steer_bench.experiment.ratings import check_file, replies_of
from steer_bench.experiment.run import MissingStageError, Run
from steer_bench.experiment.stages.judge import probe
from steer_bench.files import write_whole
from steer_bench.harness.steered_lm import SteeredLM
from steer_bench.harness.task import as_prompt
from steer_bench.judge.check import CheckRow, check_judge
from steer_bench.judge.config import JudgeConfig, judge_id
from steer_bench.judge.ratings import JudgedReply, judge_for
from steer_bench.models.device import default_device, resolve_dtype
from steer_bench.results.measures import JUDGED
from steer_bench.vectors.arms import UNSTEERED


def check(run: Run, config: JudgeConfig | None = None, *, limit: int | None = None, seed: int = 0) -> list[CheckRow]:
    """Measure how well a judge tells texts with a known answer, on the texts the run's vectors were made from.

    The judge has its references, if it needs any, from the held-out texts, as in the run. Instruction: the target's unsteered replies,
    those of the evaluation where there is one, else made now. Written to RUN/judgements/JUDGE/check.json where the run has begun.
    """
    config = config or run.experiment.judge
    probe(config)
    topics = {key: sides for key, sides in run.data.vector_and_held_out_texts.items() if key in run.data.splits.test}
    target = _Target(run, run.targets[0])
    held_out = {key: sides[1] for key, sides in topics.items()}
    made = judge_for(config, held_out, target.unsteered)
    pairs = list(dict.fromkeys((one.instruction, one.text) for one in target.unsteered if one.text.strip()))
    wants_perplexity = config.kind == "embedding"
    rows = check_judge(
        made, [sides[0] for sides in topics.values()], pairs=pairs,
        perplexity=target.perplexities if wants_perplexity else None, limit=limit, seed=seed,
    )  # fmt: skip
    if run.folder.experiment.is_file():
        content = {
            "judge": judge_id(config),
            "target": target.name,
            "limit": limit,
            "rows": [row._asdict() for row in rows],
        }
        write_whole(check_file(run, judge_id(config)), json.dumps(content, indent=1) + "\n")
    return rows


@dataclass(frozen=True)
class _Target:
    """A target's unsteered replies and its perplexity of texts: from the evaluation's files, or from the model itself."""

    run: Run
    name: str

    @cached_property
    def unsteered(self) -> list[JudgedReply]:
        try:
            found = replies_of(self.run, self.name)
        except MissingStageError:
            return self._reply()
        return [one for one in found if one.key[0] == UNSTEERED]

    def perplexities(self, texts: Sequence[str]) -> list[float]:
        """Perplexity of each text under the unsteered target."""
        answers = self._model.loglikelihood_rolling([_ask(text) for text in texts])
        return [math.exp(-float(answer) / answer.n_tokens) for answer in answers]

    def _reply(self) -> list[JudgedReply]:
        template = self._model.tokenizer.chat_template if self.run.experiment.chat else None
        prompts = [prompt.instruction for prompt in self.run.data.protocol.prompts]
        how = {"until": [], "max_gen_toks": 32, "do_sample": False}
        asked = [
            _ask(as_prompt(text, self._model.apply_chat_template if template else None), how, UNSTEERED_REQUEST)
            for text in prompts
        ]
        replies = self._model.generate_until(asked)
        return [
            JudgedReply((UNSTEERED, "", "", 0.0, str(i)), prompt, str(reply), reply.perplexity)
            for i, (prompt, reply) in enumerate(zip(prompts, replies, strict=True))
        ]

    @cached_property
    def _model(self) -> Any:
        experiment = self.run.experiment
        device = experiment.device or default_device()
        dtype = str(resolve_dtype(experiment.dtype, device)).removeprefix("torch.")
        batch_size = experiment.batch_size
        return SteeredLM(pretrained=self.name, dtype=dtype, device=device, batch_size=batch_size)


UNSTEERED_REQUEST = {"steer": {"arm": UNSTEERED, "source": "", "concept": "", "factor": 0.0}, "perplexity": True}


def _ask(*arguments: Any) -> Any:
    """A request, as far as SteeredLM looks at one."""
    return SimpleNamespace(args=arguments, task_name=JUDGED)
