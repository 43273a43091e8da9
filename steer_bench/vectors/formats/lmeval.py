"""lm-eval's `--model steered`: {"layers.15": {"steering_vector": v, "steering_coefficient": c, "action": "add", …}}.

lm-eval adds c * v to the output of the module of that name at every position, BOS too (our `positions: all`). Modules are named
from the base model, so "layers.15" is block 15, counted from 0: our convention. The extra key "steer_bench" is our card; lm-eval
takes the keys it knows.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from steer_bench.vectors.formats.torch_files import as_float32, load_torch, save_torch
from steer_bench.vectors.formats.vector_file import NO_LABEL, Label, Layered, VectorFile, label_of

_BLOCK = re.compile(r"((?:[A-Za-z_]\w*\.)*(?:layers|h|blocks|block))\.(\d{1,6})")
"""Name of a decoder block in the base model: layers.15 (Llama, Gemma, …), h.15 (GPT-2)."""


def read(path: Path, **_: object) -> Layered:
    """Read what lm-eval adds after each block, the coefficient multiplied in. Raises ValueError where it does more than add."""
    content = load_torch(path)
    if not isinstance(content, dict) or not content:
        raise ValueError("not a file of lm-eval's steered model: no mapping of hook points")
    vectors: dict[int, np.ndarray] = {}
    label, hook_points, coefficients = NO_LABEL, {}, {}
    for hook_point, entry in content.items():
        found = _BLOCK.fullmatch(hook_point) if isinstance(hook_point, str) else None
        if found is None or not isinstance(entry, dict):
            raise ValueError(
                f"hook point {hook_point!r} is no decoder block (layers.15, h.15): not the residual stream"
            )
        action, bias, head = entry.get("action"), entry.get("bias"), entry.get("head_index")
        if action != "add" or bias is not None or head is not None:
            raise ValueError(
                f"{hook_point} does more than add a vector (action {action!r}, bias or head_index): not a steering vector"
            )
        coefficient = _number(entry.get("steering_coefficient", 1.0), f"steering_coefficient of {hook_point}")
        vector = as_float32(entry.get("steering_vector"), f"steering_vector of {hook_point}", path, vector=True)
        layer = int(found[2])
        if layer in vectors:
            raise ValueError(f"layer {layer} stands twice, again as {hook_point}")
        vectors[layer] = vector if coefficient == 1 else vector * np.float32(coefficient)  # as lm-eval, in its dtype
        hook_points[str(layer)], coefficients[str(layer)] = found[1], coefficient
        if isinstance(entry.get("steer_bench"), str):
            label = Label.parse(entry["steer_bench"])
    found_out = {
        "positions_steered": "all", "hook_point": hook_points[str(min(vectors))], "coefficients": coefficients
    }  # fmt: skip
    return Layered(vectors, label.model_copy(update={"card": {**label.card, **found_out}}))


def _number(given: object, what: str) -> float:
    """Return what lm-eval reads as a number: `float` of it, so a tensor of one number and a text too. Raises ValueError for no number."""
    try:
        found = math.nan if isinstance(given, bool) else float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{what} is {given!r}, not a finite number")
    return found


def write(path: Path, one: VectorFile) -> None:
    """Write one vector, to be added as it is: float32, coefficient 1. Raises ValueError for no layer."""
    import torch

    layer, vector = one.needed_layer("lm-eval"), torch.from_numpy(one.matrix[0].copy())
    entry = {
        "steering_vector": vector, "steering_coefficient": 1.0, "action": "add", "bias": None, "head_index": None,
        "steer_bench": label_of(one),
    }  # fmt: skip
    save_torch(path, {f"{one.card.get('hook_point') or 'layers'}.{layer}": entry})
