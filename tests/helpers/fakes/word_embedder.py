"""An embedder whose similarities can be worked out by hand."""

from collections.abc import Sequence
from typing import Any

import numpy as np

WORDS = ("sea", "ship", "wave", "sail", "law", "court", "judge", "oath", "walk", "talk", "bread", "house")


class WordEmbedder:
    """Counts of twelve words, normalised: similarities that can be worked out by hand."""

    def __init__(self) -> None:
        self.runs = 0

    def embed(self, texts: Sequence[str]) -> Any:
        self.runs += 1
        counts = np.zeros((len(texts), len(WORDS)), dtype=np.float32)
        for row, text in enumerate(texts):
            counts[row] = [text.lower().split().count(word) for word in WORDS]
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)
