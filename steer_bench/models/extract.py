"""Extract steering vectors of concepts from a loaded model.

concepts, model -> mean activations -> VectorStore
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from steer_bench import shipped
from steer_bench.concepts.concept import Concept
from steer_bench.concepts.load import load_texts
from steer_bench.models.activations import centred_norm, mean_activations
from steer_bench.models.blocks import decoder_layers, resolve_layer
from steer_bench.models.load import Loaded
from steer_bench.vectors.methods import diff_of_means
from steer_bench.vectors.store import VectorCard, VectorStore

NEUTRAL_TEXTS = 60
"""Texts that S, the unit of factors, is measured on."""


def extract(
    source: Loaded, concepts: Iterable[Concept], *, layer: int | float = 0.5, neutral: Sequence[str] | None = None
) -> VectorStore:
    """Return the DiffMean vector of each concept, from all of its texts.

    layer: index of a decoder block, or a depth in (0, 1). neutral: texts for S, the unit of factors (the first 60 are read);
    default the shipped map corpus. Raises ValueError for a layer that the model does not have.
    """
    index = resolve_layer(layer, len(decoder_layers(source.model)))
    known = list(concepts)
    groups = {(one.id, sign): texts for one in known for sign, texts in (("+", one.positives), ("-", one.negatives))}
    means = mean_activations(source, index, groups, desc=f"extract {source.name}")[""]
    found = {one.id: diff_of_means(means[one.id, "+"].value, means[one.id, "-"].value) for one in known}
    vectors = {key: vector.float().numpy() for key, vector in found.items()}
    texts = neutral if neutral is not None else load_texts(shipped("tasks") / "data" / "neutral_map.jsonl")
    card = VectorCard(method="diff_mean", positions="text", dtype=str(source.model.dtype))
    return VectorStore(source.name, index, vectors, centred_norm(source, index, texts[:NEUTRAL_TEXTS]), card)
