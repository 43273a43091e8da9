"""Position embeddings that depend on how long a batch is: LongRoPE and dynamic NTK.

Both choose one scaling for the whole batch from its longest row, so that a short row's numbers change with its neighbours; dynamic
NTK also keeps the scaling of the longest row that it has seen. Such rows are run alone, each from the same state.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from transformers import PretrainedConfig


def unscaled_length(config: PretrainedConfig) -> int | None:
    """Return up to how many tokens a model's numbers do not depend on the batch; None where they never do."""
    text = config.get_text_config(decoder=True)
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    lengths = []
    for part in (rope, *(inner for inner in rope.values() if isinstance(inner, Mapping))):
        kind = part.get("rope_type", part.get("type"))
        if kind == "longrope":
            own = getattr(text, "original_max_position_embeddings", None)
            lengths.append(part.get("original_max_position_embeddings") or own or text.max_position_embeddings)
        elif kind == "dynamic":
            lengths.append(text.max_position_embeddings)
    return min(lengths, default=None)


def forget_lengths(model: nn.Module) -> None:
    """Set dynamic scalings back to where they were before the first batch."""
    for module in model.modules():
        for name in [name for name in dir(module) if name.endswith("original_inv_freq")]:
            prefix = name.removesuffix("original_inv_freq")
            inverse = getattr(module, name)
            if hasattr(module, "original_max_seq_len") and inverse is not None:
                module.register_buffer(f"{prefix}inv_freq", inverse.clone(), persistent=False)
                setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
