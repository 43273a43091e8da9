"""A model as a writer of texts: what `concepts.generate` asks for passages."""

from __future__ import annotations

from collections.abc import Sequence

from steer_bench.models.load import Loaded
from steer_bench.models.steered.generator import Generator
from steer_bench.models.steered.model import SteeredModel
from steer_bench.models.steered.requests import ReplySettings
from steer_bench.models.tokens import instruction_ids

TOP_K = 50
"""Tokens that a written text is drawn from at each step."""


class ModelWriter:
    """A loaded model as a writer. Each text has its own random numbers, from the seed and its prompt: batches change nothing."""

    def __init__(self, loaded: Loaded, batch_size: int = 32) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it has to be at least 1")
        self.steered = SteeredModel(loaded, batch_size=batch_size)

    def write(self, prompts: Sequence[str], *, max_new_tokens: int, temperature: float, seed: int) -> list[str]:
        """Return a reply to each prompt, in order; temperature 0 is greedy."""
        settings = ReplySettings.sampled(max_new_tokens, temperature=temperature, top_k=TOP_K)
        ids = [instruction_ids(self.steered.tokenizer, prompt) for prompt in prompts]
        return [reply.text for reply in Generator(self.steered, seed=seed).generate(ids, settings)]
