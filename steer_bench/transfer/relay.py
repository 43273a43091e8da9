"""Relay: no map at all; the source writes texts under its own vector, and the target reads them.

    source's vectors -> steered and unsteered texts -> DiffMean on the target

The same information channel as a transfer map without a map: what a map must beat to be worth having. What was written is kept,
RUN/relay/SOURCE.jsonl.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from steer_bench import shipped
from steer_bench.files import write_whole
from steer_bench.models.activations import mean_activations
from steer_bench.models.load import Loaded
from steer_bench.models.steered.generator import Generator
from steer_bench.models.steered.model import SteeredModel
from steer_bench.models.steered.requests import ReplySettings
from steer_bench.models.steered.steering import Steering, VectorBank
from steer_bench.models.tokens import instruction_ids
from steer_bench.models.writer import TOP_K
from steer_bench.vectors.arms import Arm, Arms
from steer_bench.vectors.methods import diff_of_means
from steer_bench.vectors.store import VectorStore

PROMPT = "Write a short passage about {subject}."
LEAST = 2
"""Fewer texts than this make no vector."""


def relay(
    source: Loaded,
    vectors: VectorStore,
    target: Loaded,
    layer: int,
    concepts: Sequence[str],
    *,
    texts: int = 24,
    factor: float = 0.4,
    max_new_tokens: int = 40,
    seed: int = 0,
    kept: Path | None = None,
) -> tuple[dict[str, Tensor], int]:
    """Return the target's DiffMean of texts that the source wrote steered, over those it wrote unsteered on the same prompts.

    Sampled at temperature 1. Also the fewest texts that a mean is made of: `texts`, less those left out as empty. Raises
    ValueError for a concept of which the steered source wrote nothing.
    """
    written = write_texts(
        source, vectors, concepts, texts=texts, factor=factor, max_new_tokens=max_new_tokens, seed=seed
    )
    if kept is not None:
        lines = [json.dumps({"concept": key, "text": text}) for key, replies in written.items() for text in replies]
        write_whole(kept, "".join(f"{line}\n" for line in lines))
    short = [key or "unsteered" for key, replies in written.items() if len(replies) < LEAST]
    if short:
        raise ValueError(
            f"text-relay: {source.name} wrote nothing for {short[0]!r} at factor {factor}; give a smaller factor"
        )
    means = mean_activations(target, layer, written, desc=f"relay to {target.name}")[""]
    read = {key: diff_of_means(means[key].value, means[""].value) for key in concepts}
    return read, min(map(len, written.values()))


def write_texts(
    source: Loaded,
    vectors: VectorStore,
    concepts: Sequence[str],
    *,
    texts: int,
    factor: float,
    max_new_tokens: int,
    seed: int,
) -> dict[str, list[str]]:
    """Return what the source writes of neutral subjects: under each concept's vector, and ("") unsteered.

    Steered as arms are: every token but padding and BOS. Empty replies are left out. A text depends on the seed, its prompt and its
    vector alone.
    """
    subjects = (shipped("tasks") / "data" / "subjects.txt").read_text().split("\n")
    prompts = [PROMPT.format(subject=subject) for subject in subjects if subject.strip()][:texts]
    named = {(Arm("relay"), key): vectors.vectors[key] for key in concepts}
    bank = VectorBank(Arms(source.name, vectors.layer, vectors.scale, named)) if named else None
    steerings = {"": Steering()} | {key: Steering("relay", "", key, factor) for key in concepts}
    steered = SteeredModel(source, bank, batch_size=len(prompts))
    try:
        generator, ids = (
            Generator(steered, seed=seed),
            [instruction_ids(source.tokenizer, prompt) for prompt in prompts],
        )
        settings = ReplySettings.sampled(max_new_tokens, temperature=1.0, top_k=TOP_K)
        written = {key: generator.generate(ids, settings, [given] * len(ids)) for key, given in steerings.items()}
    finally:
        steered.close()
    return {key: [one.text.strip() for one in replies if len(one.text.split()) > 1] for key, replies in written.items()}
