"""Fingerprints: what a model's numbers depend on beside the request, as hashes that go into the keys of records.

Weights by their files (`models.revision`) or, for a model given as an object, by their values; the tokenizer with its chat template;
the generation config, which `generate` reads defaults from; versions. Batch size and device are not in it: they change no number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

UNKEYED = ("device", "batch_size", "max_batch_size", "trust_remote_code", "tokenizer", "parallelize", "device_map")
"""Arguments of the model that change no number, or are hashed themselves."""


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def tokenizer_digest(tokenizer: Any) -> str:
    """Of vocabulary, merges, special tokens and chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return _digest([type(tokenizer).__name__, words, special, getattr(tokenizer, "chat_template", None)])


def generation_digest(model: Any) -> str:
    """Of the generation config: end-of-text tokens, repetition penalty and what else `generate` takes from it."""
    config = getattr(model, "generation_config", None)
    known = config.to_dict() if config is not None else {}
    return _digest(
        {key: value for key, value in known.items() if key not in ("transformers_version", "_from_model_config")}
    )


def weights_digest(model: Any) -> str:
    """Of every parameter and buffer of a model, by name and value: reads them all."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        plain = tensor.detach().to("cpu").contiguous()
        digest.update(f"{name}:{plain.dtype}:{tuple(plain.shape)}:".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return "values:" + digest.hexdigest()[:16]


def model_digests(model: Any, tokenizer: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """What is hashed of every model: `options` are the arguments it was loaded with (an adapter, a quantisation, ...)."""
    kept = {key: str(value) for key, value in options.items() if key not in UNKEYED and value is not None}
    return {
        "tokenizer": tokenizer_digest(tokenizer),
        "generation": generation_digest(model),
        "attention": str(getattr(model.config, "_attn_implementation", None)),
        "options": kept,
        "lm_eval": version("lm_eval"),
    }
