"""Twins: a copy of a model that computes the same with its residual stream in other coordinates.

    model, orthogonal Q -> [twin]: the same logits, every activation h of the residual stream is Q h

So every steering vector of the twin is Q v exactly, and what a transfer map has to find is known: Q. The blocks must be built
as Llama's (a norm before attention and MLP: Llama, Mistral, Qwen 2 and 3, SmolLM) or Gemma's (norms before and after).
A saved twin is loaded as any model is. One of Gemma is no stock architecture: importing this module registers it.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from steer_bench.models.blocks import d_model, decoder_layers, norm_gain
from steer_bench.models.load import Loaded

READERS = ("q_proj", "k_proj", "v_proj", "qkv_proj", "gate_proj", "up_proj", "gate_up_proj")
"""Linear layers that read the residual stream through a norm."""
WRITERS = ("o_proj", "down_proj")
"""Linear layers that write to it, in Gemma through another norm."""
_LLAMA_NORMS = {"input_layernorm", "post_attention_layernorm"}
_POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")
_GEMMA_NORMS = {"input_layernorm", "pre_feedforward_layernorm", *_POST_NORMS}


def random_rotation(width: int, seed: int = 0) -> Tensor:
    """Draw a (width, width) float64, uniform over orthogonal matrices (QR of a Gaussian with signs fixed: Mezzadri 2007)."""
    gaussian = torch.randn(width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    return q * r.diagonal().sign()


def random_permutation(width: int, seed: int = 0) -> Tensor:
    """Draw a (width, width) float64 permutation matrix that leaves no coordinate in its place."""
    order = torch.randperm(width, generator=torch.Generator().manual_seed(seed))
    q = torch.zeros(width, width, dtype=torch.float64)
    q[order.roll(1), order] = 1  # one cycle through all coordinates
    return q


class Rotated(nn.Module):
    """A norm, then Q: h -> Q norm(h)."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        gain = next(norm.parameters())
        self.q = nn.Parameter(gain.new_empty(len(gain), len(gain)), requires_grad=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., d_model) -> (..., d_model)"""
        return nn.functional.linear(self.norm(hidden), self.q)


def _rotate_post_norms(model: PreTrainedModel) -> None:
    """Put a rotation after every norm that writes to the residual stream."""
    for block in decoder_layers(model):
        for name in _POST_NORMS:
            setattr(block, name, Rotated(getattr(block, name)))


def _rotated(model: Any) -> Any:
    """Return the class of twins of `model`, a class with norms that write, and register it as transformers does its own."""

    def __init__(self: Any, config: PreTrainedConfig) -> None:
        model.__init__(self, config)
        _rotate_post_norms(self)

    stock = model.config_class
    config = type(f"Rotated{stock.__name__}", (stock,), {"model_type": f"rotated_{stock.model_type}"})
    twin = type(f"Rotated{model.__name__}", (model,), {"__init__": __init__, "config_class": config})
    AutoConfig.register(f"rotated_{stock.model_type}", config, exist_ok=True)
    AutoModelForCausalLM.register(config, twin, exist_ok=True)
    return twin


_ROTATED: dict[type, Any] = {model: _rotated(model) for model in (Gemma2ForCausalLM, Gemma3ForCausalLM)}


def save_twin(loaded: Loaded, q: Tensor, folder: Path) -> str:
    """Save the twin and its tokenizer into a folder, unless one is there; return the name to load it by."""
    if not (folder / "config.json").is_file():
        loaded.tokenizer.save_pretrained(folder)
        rotated_twin(loaded.model, q).save_pretrained(folder)
    return str(folder)


def rotated_twin(model: PreTrainedModel, q: Tensor) -> PreTrainedModel:
    """Return a copy of a causal model in which every residual-stream activation h is Q h; its logits are the same.

    q: (d_model, d_model), orthogonal. RMSNorm commutes with Q but for its gain, which is therefore folded into the weights
    that read it. A norm after attention or MLP (Gemma) writes, so its gain stays where it is and Q comes after it, as a module
    of its own. An untied head is made where the model ties it to the embedding. Raises ValueError for blocks built otherwise,
    for parts that a twin does not know, and where q is not orthogonal.
    """
    width = d_model(model)
    q = q.double().cpu()
    if q.shape != (width, width) or not torch.allclose(q @ q.T, torch.eye(width, dtype=q.dtype), atol=1e-6):
        raise ValueError(f"q of shape {tuple(q.shape)} is not an orthogonal ({width}, {width}) matrix")
    has_post_norms = _has_post_norms(model)
    twin = copy.deepcopy(model)
    twin.lm_head.weight = nn.Parameter(twin.lm_head.weight.detach().clone(), requires_grad=False)
    for config in (twin.config, twin.config.get_text_config(decoder=True)):
        config.tie_word_embeddings = False
    q = q.to(next(twin.get_input_embeddings().parameters()).device)
    trunk: Any = twin.model
    _set(trunk.embed_tokens.weight, trunk.embed_tokens.weight.double() @ q.T)
    blocks: Any = decoder_layers(twin)
    for block in blocks:
        _fold(block.input_layernorm, _linears(block.self_attn, READERS), q)
        before_mlp = block.pre_feedforward_layernorm if has_post_norms else block.post_attention_layernorm
        _fold(before_mlp, _linears(block.mlp, READERS), q)
        for linear in [] if has_post_norms else _linears(block.self_attn, WRITERS) + _linears(block.mlp, WRITERS):
            _set(linear.weight, q @ linear.weight.double())
            if linear.bias is not None:
                _set(linear.bias, q @ linear.bias.double())
    _fold(trunk.norm, [twin.lm_head], q)
    if has_post_norms:
        twin.__class__ = _ROTATED[type(twin)]
        twin.config.__class__ = _ROTATED[type(model)].config_class
        _rotate_post_norms(twin)
        for module in twin.modules():
            if isinstance(module, Rotated):
                _set(module.q, q)
    _check_same(model, twin.eval().requires_grad_(False))
    return twin


def _fold(norm: nn.Module, readers: list[nn.Linear], q: Tensor) -> None:
    """Move the norm's gain into the weights that read it, and let these read Q h: W -> W diag(gain) Q'."""
    gain = norm_gain(norm)
    for linear in readers:
        _set(linear.weight, (linear.weight.double() * gain) @ q.T)
    weight = norm.get_parameter("weight")
    _set(weight, weight.double() + 1 - gain)  # gain 1, whether the gain is w (Llama) or 1 + w (Gemma)


@torch.no_grad()
def _set(parameter: Tensor, value: Tensor) -> None:
    parameter.copy_(value.to(parameter.dtype))


def _linears(module: nn.Module, names: tuple[str, ...]) -> list[nn.Linear]:
    return [getattr(module, name) for name in names if hasattr(module, name)]


def _has_post_norms(model: PreTrainedModel) -> bool:
    """Return whether the blocks have norms after attention and MLP. Raises ValueError where they are neither Llama's nor Gemma's."""
    kind, trunk = type(model).__name__, getattr(model, "model", None)
    if not all(hasattr(trunk, name) for name in ("embed_tokens", "layers", "norm")) or not hasattr(model, "lm_head"):
        raise ValueError(
            f"{kind} is not built as Llama or Gemma (model.embed_tokens, layers, norm; lm_head): no twin of it"
        )
    blocks: Any = decoder_layers(model)
    norms = {name for name, _ in blocks[0].named_children() if name.endswith("layernorm")}
    if norms != _LLAMA_NORMS and (norms != _GEMMA_NORMS or type(model) not in _ROTATED):
        raise ValueError(
            f"{kind} has the norms {', '.join(sorted(norms))}, not as Llama or Gemma 2 or 3: no twin of it"
        )
    return norms == _GEMMA_NORMS


@torch.inference_mode()
def _check_same(model: PreTrainedModel, twin: PreTrainedModel) -> None:
    """Raise ValueError where the twin computes something else: the model has parts that a twin does not know."""
    ids = torch.arange(8, device=model.device)[None]
    logits, others = model(ids).logits.double(), twin(ids).logits.double()
    apart = float((others - logits).abs().max() / logits.std())
    if not apart <= 0.01:
        raise ValueError(
            f"{type(model).__name__} has parts that a twin does not know, its logits differ by {apart:.2g} of their spread: no twin of it"
        )
