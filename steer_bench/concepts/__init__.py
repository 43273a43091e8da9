"""Concepts: what steering should bring out, with texts that do and do not show it.

    [concepts] -> activations -> vectors -> transfer -> steering

Reads JSON Lines, AxBench data (Wu et al. 2025, arXiv 2501.17148) and Hugging Face data sets, checks and splits them.
Knows nothing of models: light to import, and everything here is decided by the texts and a seed.
"""

from steer_bench.concepts.concept import KINDS, Concept, Prompt, check_id, safe_name, text_key
from steer_bench.concepts.load import load_concepts, load_prompts, load_texts
from steer_bench.concepts.splits import (
    NEAR_DUPLICATE,
    Splits,
    check_splits,
    halves,
    held_out,
    near_duplicates,
    split_concepts,
)

__all__ = [
    "KINDS",
    "NEAR_DUPLICATE",
    "Concept",
    "Prompt",
    "Splits",
    "check_id",
    "check_splits",
    "halves",
    "held_out",
    "load_concepts",
    "load_prompts",
    "load_texts",
    "near_duplicates",
    "safe_name",
    "split_concepts",
    "text_key",
]
