"""PyTorch files without their dangers: tensors and plain values are read, code is never run.

Knows nothing of vectors.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from steer_bench.files import written_whole


def load_torch(path: Path, stand_ins: tuple[tuple[type, str], ...] = ()) -> Any:
    """Return what a `.pt` file holds, on the CPU. `stand_ins`: (our class, dotted name in the file), built in its place.

    Raises ValueError, naming the file, for a damaged one and for a pickle that asks for anything but tensors and values.
    """
    import pickle

    import torch

    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(stand_ins)):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = [part.split()[0] for part in str(error).split("GLOBAL ")[1:]]
        if asked and asked[0] == "steering_vectors.steering_vector.SteeringVector":
            raise ValueError(
                f"{path}: a pickle of the steering-vectors package; read it with --allow-pickle"
            ) from error
        why = f"a pickle that asks for code ({asked[0]})" if asked else None
        why = why or "not a PyTorch file, or a pickle that asks for code"
        raise ValueError(f"{path}: {why}, which is never run; save tensors only, or as .npy") from error


def save_torch(path: Path, value: Any) -> None:
    """Write tensors and plain values: whole or not at all, the same bytes for the same value."""
    import torch

    with written_whole(path) as part, part.open("wb") as file:
        torch.save(value, file)  # given a path, it would put the path's name into the file


def as_float32(tensor: Any, what: str, path: Path, *, vector: bool = False) -> np.ndarray:
    """Return a floating tensor as float32, exactly, for dtypes of at most 32 bits. Raises ValueError for anything else.

    vector: whether it has to be one vector, (d_model,); (1, d_model) is one too, as in the tools that broadcast it.
    """
    import torch

    if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point() or tensor.layout != torch.strided:
        raise ValueError(f"{what} is {type(tensor).__name__}, not a tensor of floating numbers")
    if tensor.numel() * tensor.element_size() > path.stat().st_size:  # a small file can claim any shape by strides of 0
        raise ValueError(f"{what} claims shape {tuple(tensor.shape)}, more than the file can hold")
    while tensor.ndim > 1 and tensor.shape[0] == 1 and vector:
        tensor = tensor[0]
    if vector and tensor.ndim != 1:
        raise ValueError(f"{what} has shape {tuple(tensor.shape)}; a vector has (d_model,)")
    return np.array(tensor.detach().to(torch.float32).numpy(), dtype=np.float32)  # a copy: owns its memory
