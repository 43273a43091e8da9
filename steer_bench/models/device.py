"""Device: which one a model runs on, in which dtype, and how much it computes at once."""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Sizes:
    """The most that a pass takes on a kind of device."""

    rows: int
    """Rows of a batch, where batch_size is auto; halved where memory runs out."""
    tokens: int
    """Padded tokens of a pass over texts."""
    logits_bytes: int
    """Logits of a pass, in the model's dtype."""
    chunk_bytes: int
    """Float32 logits that are summed over at once."""


ON_CPU = Sizes(rows=128, tokens=2048, logits_bytes=512 << 20, chunk_bytes=2 << 20)
"""A chunk of logits fits the cache: 6 times as fast as 32 MB with 262,144 tokens."""
ELSEWHERE = Sizes(rows=512, tokens=16384, logits_bytes=2 << 30, chunk_bytes=256 << 20)
"""On a GPU a pass of a small model takes as long to start as to run, however few its rows are."""


def sizes(device: object) -> Sizes:
    """Return the sizes for a torch device, or its name.

    >>> sizes("cpu").rows, sizes("cuda:1").rows
    (128, 512)
    """
    return ON_CPU if str(device).startswith("cpu") else ELSEWHERE


def resolve_dtype(dtype: str, device: str | None = None) -> torch.dtype:
    """Return a torch dtype; `auto` is bfloat16 where the hardware computes it fast (CUDA, AVX512-BF16, AMX), float32 elsewhere."""
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
    """Return `cuda` where there is a GPU, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@cache
def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next tensors, in the whole process: for the command line and its workers.

    Scoring on a CPU takes a quarter less time. See mallopt(3); MALLOC_TRIM_THRESHOLD_ or MALLOC_MMAP_MAX_ in the environment win.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is None or {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_"} & set(os.environ):
        return
    trim_threshold, mmap_max = -1, -4  # their numbers in malloc.h
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
