"""Trunk: the blocks up to the steered one, computed once for all steerings of a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from steer_bench.models.blocks import BlockOutput, states_of, with_states


@contextmanager
def shared_trunk(blocks: Sequence[torch.nn.Module], output: BlockOutput, rows: Tensor | None = None) -> Iterator[None]:
    """Skip `blocks` (0 to the steered one) while entered: the last of them gives `output`, expanded to the batch.

    `output` is what the last of `blocks` gave for each text: steering is added after it, so for all steerings of a text it
    is the same. Row i of the batch gets text rows[i]; without `rows` there is one text. The model's own forward pass makes
    the masks and position embeddings of the blocks that do run. `forward` is replaced, since no hook can skip a module.
    """

    def skipped(hidden_states: Tensor, *_args: object, **_kwargs: object) -> BlockOutput:
        return with_states(output, hidden_states)

    def given(hidden_states: Tensor, *_args: object, **_kwargs: object) -> BlockOutput:
        state = states_of(output)
        expanded = state.expand(hidden_states.shape[0], -1, -1) if rows is None else state[rows]
        return with_states(output, expanded)

    replaced = [(block, block.__dict__.get("forward")) for block in blocks]
    for block in blocks[:-1]:
        block.forward = skipped
    blocks[-1].forward = given
    try:
        yield
    finally:
        for block, forward in replaced:
            if forward is None:
                del block.forward
            else:
                block.forward = forward
