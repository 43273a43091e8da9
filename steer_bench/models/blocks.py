"""Decoder blocks: find those of any causal model, and what the parts around them are.

A layer is the 0-based index of a decoder block; its activation is what that block gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

BlockOutput: TypeAlias = "torch.Tensor | tuple[torch.Tensor, ...]"
"""What a block gives: its activations, or a tuple that begins with them."""


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Return the decoder blocks of any Hugging Face causal model, in order.

    It is the outermost list of `num_hidden_layers` modules, and of several one with attention in it (a hybrid's first blocks have
    none); PEFT models are looked through. Raises ValueError for an encoder-decoder model, and where there is no such list.
    """
    from torch import nn

    base = getattr(model, "get_base_model", None)
    model = model if base is None else base()
    check_decoder(type(model).__name__, model.config.is_encoder_decoder)
    config = model.config.get_text_config(decoder=True)
    found = [
        (not any("attn" in child or "attention" in child for child, _ in module.named_modules()), len(name), module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers
    ]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no list of {config.num_hidden_layers} decoder blocks that steer-bench recognises"
        )
    return min(found, key=lambda entry: entry[:2])[2]


def check_decoder(name: str, is_encoder_decoder: object) -> None:
    """Raise ValueError for an encoder-decoder model: its scores and replies need another loop."""
    if is_encoder_decoder:
        raise ValueError(f"{name} is an encoder-decoder model; only decoders (causal models) are measured")


def d_model(model: PreTrainedModel) -> int:
    """Return the width of the residual stream."""
    return int(model.config.get_text_config(decoder=True).hidden_size)


def resolve_layer(layer: int | float, n_layers: int) -> int:
    """Return the 0-based index of a decoder block, from an index or a relative depth in (0, 1).

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


def norm_gain(norm: nn.Module) -> torch.Tensor:
    """Return what a norm multiplies h / rms(h) by, (d_model,) float64. Raises ValueError for a norm that is no RMSNorm."""
    import torch

    weight = norm.get_parameter("weight").detach()
    large = torch.full_like(weight, 1e3)  # no part of epsilon
    offset = round(float((norm(large).detach() - weight).double().mean()))
    gain = weight.double() + offset
    probe = 1e3 * torch.randn(len(weight), generator=torch.Generator().manual_seed(0)).to(weight.device)
    expected = probe.double() / probe.double().pow(2).mean().sqrt() * gain
    is_rms = torch.allclose(norm(probe.to(weight.dtype)).detach().double(), expected, rtol=0.02, atol=0.02)
    if not is_rms or getattr(norm, "bias", None) is not None:
        raise ValueError(f"{type(norm).__name__} is not an RMSNorm with gain w or 1 + w")
    return gain


def lean_head(model: PreTrainedModel) -> None:
    """Hand the output layer contiguous states, so that it never copies its weights; done once per model.

    transformers cuts the last positions out of a batch (`logits_to_keep`, every prefill of `generate`); on a view that is
    not contiguous torch multiplies in batched form, with a copy of the whole (vocabulary, d_model) matrix for every row.
    """
    head = model.get_output_embeddings()
    if head is None or getattr(head, "_steer_bench_lean", False):
        return
    head.register_forward_pre_hook(lambda _module, args: (args[0].contiguous(), *args[1:]))
    head._steer_bench_lean = True


class _Stopped(Exception):
    """Ends a forward pass at the last block that was asked for."""


def outputs_of(blocks: Sequence[nn.Module], run: Callable[[], object]) -> list[BlockOutput]:
    """Return what each of `blocks` gives, in order, in the forward pass that `run` makes; blocks after the last are not computed."""
    caught: list[BlockOutput] = []

    def hook(_module: nn.Module, _args: object, output: BlockOutput) -> None:
        caught.append(output)
        if len(caught) == len(blocks):
            raise _Stopped

    handles = [block.register_forward_hook(hook) for block in blocks]
    try:
        with suppress(_Stopped):
            run()
    finally:
        for handle in handles:
            handle.remove()
    return caught


def states_of(output: BlockOutput) -> torch.Tensor:
    """Return the activations (rows, tokens, d_model) in what a block gives."""
    return output[0] if isinstance(output, tuple) else output


def with_states(output: BlockOutput, states: torch.Tensor) -> BlockOutput:
    """Return what a block gives with other activations in it."""
    return (states, *output[1:]) if isinstance(output, tuple) else states
