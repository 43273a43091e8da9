"""Fingerprints: what a model's numbers depend on beside the request, as hashes that go into the keys of records.

Weights by their files (`load.revision`) or, for a model given as an object, by their values; the tokenizer with its chat template;
the generation config, which `generate` reads defaults from; versions. Batch size and device are not in it: they change no number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from steer_bench import __version__
from steer_bench.models.load import Loaded

UNKEYED = ("device", "batch_size", "max_batch_size", "trust_remote_code", "tokenizer", "parallelize", "device_map")
"""Arguments of the model that change no number, or are hashed themselves."""
IN_MEMORY = "in memory"
"""Revision of a model object whose weights were not hashed."""


def fingerprint_of(
    loaded: Loaded,
    *,
    layer: int | None,
    positions: str,
    max_length: int,
    options: Mapping[str, object] | None = None,
    weights: str | None = None,
) -> dict[str, object]:
    """Return everything that an answer depends on, but the request itself and its vector.

    options: arguments the model was loaded with (an adapter, a quantisation, ...). weights: what identifies the weights, as
    `load.revision` gives it; default: a hash of their values.
    """
    model, kept = loaded.model, options or {}
    return {
        "model": loaded.name,
        "revision": weights_digest(model) if weights is None else weights,
        "dtype": str(model.dtype),
        "layer": layer,
        "positions": positions,
        "max_length": max_length,
        "tokenizer": tokenizer_digest(loaded.tokenizer),
        "generation": generation_digest(model),
        "attention": str(getattr(model.config, "_attn_implementation", None)),
        "options": {key: str(value) for key, value in kept.items() if key not in UNKEYED and value is not None},
        "lm_eval": version("lm_eval"),
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "steer_bench": __version__,
    }


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the hash of the vocabulary, merges, special tokens and chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return _digest([type(tokenizer).__name__, words, special, getattr(tokenizer, "chat_template", None)])


def generation_digest(model: PreTrainedModel) -> str:
    """Return the hash of the generation config: end-of-text tokens, repetition penalty and what else `generate` takes from it."""
    config = getattr(model, "generation_config", None)
    known = config.to_dict() if config is not None else {}
    unkeyed = ("transformers_version", "_from_model_config")
    return _digest({key: value for key, value in known.items() if key not in unkeyed})


def weights_digest(model: PreTrainedModel) -> str:
    """Return the hash of every parameter and buffer of a model, by name and value: reads them all."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        plain = tensor.detach().to("cpu").contiguous()
        digest.update(f"{name}:{plain.dtype}:{tuple(plain.shape)}:".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return "values:" + digest.hexdigest()[:16]
