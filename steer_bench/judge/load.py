"""Judges by their configuration."""

from collections.abc import Iterable, Mapping

from steer_bench.judge.config import JudgeConfig, LocalConfig, OpenAIConfig
from steer_bench.judge.embedding import EmbeddingJudge, Reference
from steer_bench.judge.judgement import Judge
from steer_bench.judge.local import LocalJudge
from steer_bench.judge.openai_judge import OpenAIJudge


def load_judge(
    config: JudgeConfig, *, references: Mapping[str, Reference] | None = None,
    yardstick: Iterable[tuple[str, str, float | None]] = (), resume: str = "steer-bench judge RUN",
) -> Judge:  # fmt: skip
    """Make the judge of a configuration; load no model and ask no server.

    `references` (concept id -> texts with a known answer) are needed by the embedding judge only: ValueError without them.
    `yardstick`: (instruction, unsteered reply, perplexity) of the target, which set its scales.
    `resume`: the command that an error message of the openai judge names to go on with.
    """
    if isinstance(config, OpenAIConfig):
        return OpenAIJudge(config, resume=resume)
    if isinstance(config, LocalConfig):
        return LocalJudge(config.model, batch_size=config.batch_size, device=config.device, dtype=config.dtype)
    if references is None:
        raise ValueError(
            "judge.kind: embedding needs reference texts of the concepts; choose openai or local without them"
        )
    return EmbeddingJudge(
        config.model, references, yardstick=yardstick, batch_size=config.batch_size, device=config.device
    )
