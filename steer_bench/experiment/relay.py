"""Relay: no map at all; the source writes texts under its own vector, and the target reads them.

    source's vectors -> steered and unsteered texts -> DiffMean on the target

The same information channel as a transfer map without a map: what a map must beat to be worth having. What was written is kept,
RUN/relay/SOURCE.jsonl.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steer_bench import shipped
from steer_bench.files import write_whole
from steer_bench.models.steered.steering import Steerer
from steer_bench.vectors.methods import diff_of_means

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from steer_bench.models.load import Loaded
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
    """The target's DiffMean of texts that the source wrote steered, over those it wrote unsteered on the same prompts.

    Sampled at temperature 1. Also the fewest texts that a mean is made of: `texts`, less those left out as empty. Raises
    ValueError for a concept of which the steered source wrote nothing.
    """
    from steer_bench.models.activations import mean_activations

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
    """What the source writes of neutral subjects: under each concept's vector, and ("") unsteered; empty replies are left out.

    Steered as arms are: every token but padding and BOS.
    """
    import torch

    from steer_bench.concepts.generate.writers import HFWriter
    from steer_bench.models.blocks import decoder_layers
    from steer_bench.vectors.store import unit

    subjects = (shipped("tasks") / "data" / "subjects.txt").read_text().split("\n")
    prompts = [PROMPT.format(subject=subject) for subject in subjects if subject.strip()][:texts]
    writer = HFWriter(source.model, source.tokenizer, batch_size=len(prompts))
    settings: Mapping[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": 1.0, "seed": seed}
    coded = [writer.encode(prompt) for prompt in prompts]
    width, bos = max(map(len, coded)), source.tokenizer.bos_token_id
    starts = torch.tensor([width - len(ids) + int(bos is not None and ids[0] == bos) for ids in coded])
    steerer = Steerer(decoder_layers(source.model)[vectors.layer])
    try:
        written = {"": writer.write(prompts, **settings)}
        for key in concepts:
            added = torch.from_numpy(factor * vectors.scale * unit(vectors.vectors[key]))
            with steerer.steering(added.expand(len(prompts), 1, -1), starts):
                written[key] = writer.write(prompts, **settings)
    finally:
        steerer.remove()
    return {key: [reply.strip() for reply in replies if len(reply.split()) > 1] for key, replies in written.items()}
