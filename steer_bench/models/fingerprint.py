"""Fingerprints: what a model's numbers depend on beside the request, as hashes that go into the keys of records.

Weights by their files (`load.revision`) or, for a model given as an object, by their values; the tokenizer with its chat template;
the config; the generation config, which `generate` reads defaults from; versions. Batch size and device are not in it: they change
no number (see `rope` for models where a batch would).
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
from steer_bench.models.load import Loaded, revision

BY_VALUE = ("peft", "delta", "autogptq", "gptqmodel", "subfolder", "gguf_file")
"""Arguments that say where weights come from: a model loaded with one of them is known by the values of its weights."""
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
        "config": _digest(_kept(model.config.to_dict())),
        "attention": str(getattr(model.config, "_attn_implementation", None)),
        "options": {key: str(value) for key, value in kept.items() if key not in UNKEYED and value is not None},
        "lm_eval": version("lm_eval"),
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "steer_bench": __version__,
    }


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def weights_of(name: str | None, options: Mapping[str, object]) -> str | None:
    """Return what identifies weights that were loaded by name: their commit, or hash of files; None where only their values do."""
    if name is None or any(options.get(option) for option in BY_VALUE):
        return None
    known = revision(name, str(options.get("revision") or "main"))
    return None if known == "unknown" else known


def check_revision(name: str, target: str, made_for: str, options: Mapping[str, object]) -> None:
    """Raise ValueError where the arms of `target` were made for other weights than those that are there now."""
    now = revision(name, str(options.get("revision") or "main"))
    if made_for and made_for != now:
        raise ValueError(
            f"the arms of {target} were made for revision {made_for}, and {name} is {now} now; extract and fit again, or give the "
            "model that they were made for"
        )


def _kept(value: object) -> object:
    """Return a config, nested ones too, without its name, versions and dtype, which stand in the fingerprint themselves."""
    if not isinstance(value, Mapping):
        return value
    left_out = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")
    return {str(key): _kept(inner) for key, inner in value.items() if key not in left_out}


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
    """Return the hash of every parameter and buffer of a model, by name and value: reads them all.

    Raises ValueError for a model that has weights on disk only.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.is_meta:
            raise ValueError(f"{name} is not in memory, so what this model is cannot be told; load it whole")
        plain = tensor.detach().to("cpu").contiguous()
        digest.update(f"{name}:{plain.dtype}:{tuple(plain.shape)}:".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return "values:" + digest.hexdigest()[:16]
