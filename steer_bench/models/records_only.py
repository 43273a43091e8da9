"""A model of the right shape with no weights: for reading finished answers from records, where no forward pass is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import AutoModelForCausalLM, PreTrainedModel


class WeightsNeededError(RuntimeError):
    """A forward pass was asked of a model without weights: an answer is not in the records."""


def model_without_weights(
    model_class: type[AutoModelForCausalLM], pretrained: str, dtype: str | torch.dtype | None
) -> PreTrainedModel:
    """Return the model on torch's meta device: its config, layers and generation settings, not a byte of its weights.

    Raises WeightsNeededError at the first forward pass of any of its modules.
    """
    from transformers import AutoConfig, GenerationConfig

    config = AutoConfig.from_pretrained(pretrained)
    wanted = getattr(torch, dtype) if isinstance(dtype, str) and dtype != "auto" else dtype
    with torch.device("meta"):
        model = model_class.from_config(config, dtype=config.dtype if wanted == "auto" else wanted)
    try:
        model.generation_config = GenerationConfig.from_pretrained(pretrained)
    except OSError:  # as from_pretrained: made of the config
        model.generation_config = GenerationConfig.from_model_config(config)

    def refuse(*_: object) -> None:
        raise WeightsNeededError(
            f"{pretrained}: an answer is not in the records, and this model was opened without weights"
        )

    for module in model.modules():
        module.register_forward_pre_hook(refuse)
    model.to = lambda *_args, **_kwargs: model  # nothing to move; lm-eval moves what it loads
    return model
