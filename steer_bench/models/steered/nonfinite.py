"""Find the rows of a generation whose logits were NaN or infinite: a reply picked from them is invalid and never scored."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.modeling_outputs import CausalLMOutput


class NonFiniteWatch:
    """While entered, looks at the logits of every forward pass of `model`, at the position that predicts the next token.

    A row is bad where a logit is NaN or +Inf, or none is above -Inf: its largest is then not finite. (A single -Inf only
    rules out a token.)
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._bad: list[Tensor] = []

    def __enter__(self) -> NonFiniteWatch:
        self._handle = self._model.register_forward_hook(self._look)
        return self

    def __exit__(self, *_error: object) -> None:
        self._handle.remove()

    def _look(self, _module: torch.nn.Module, _args: object, output: CausalLMOutput) -> None:
        assert output.logits is not None
        self._bad.append(~torch.isfinite(output.logits[:, -1].amax(dim=-1)))

    def first(self, rows: int) -> list[int | None]:
        """Return, for each of `rows` prompts, the first step whose logits were bad (0: the one that picks the first token), or None."""
        steps = [bad.view(rows, -1).any(dim=1) for bad in self._bad]
        if not steps:
            return [None] * rows
        found = torch.stack(steps, dim=1).cpu()
        return [int(row.int().argmax()) if bool(row.any()) else None for row in found]
