"""Steer a loaded model in a `with` block: any forward pass, or generate()."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from steer_bench.models.blocks import decoder_layers
from steer_bench.models.load import Loaded
from steer_bench.models.steered.steering import Steerer, Steering, VectorBank
from steer_bench.vectors.arms import Arm, Arms
from steer_bench.vectors.store import SteeringVector


@contextmanager
def steer(target: Loaded, vector: SteeringVector, *, factor: float) -> Iterator[None]:
    """Within the block, add factor * S * unit vector to the residual stream at every token but padding and BOS.

    Raises ValueError for a vector of another model, a zero vector, and a factor that is not finite.
    """
    if vector.model != target.name:
        raise ValueError(f"the vector is of {vector.model}, not of {target.name}; transfer it first")
    bank = VectorBank(Arms(vector.model, vector.layer, vector.scale, {(Arm("native"), ""): vector.vector}))
    added, bos = bank.vector(Steering("native", "", "", factor)), target.tokenizer.bos_token_id
    steerer, one_pass = Steerer(decoder_layers(target.model)[vector.layer]), ExitStack()

    def before(_model: torch.nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        rows = ids if ids is not None else kwargs["inputs_embeds"]
        starts = _starts(ids, kwargs.get("attention_mask"), bos) if ids is not None else None
        one_pass.enter_context(steerer.steering(added.expand(len(rows), 1, -1), starts))

    def after(*_: object) -> None:
        one_pass.close()

    handles = [
        target.model.register_forward_pre_hook(before, with_kwargs=True),
        target.model.register_forward_hook(after, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        steerer.remove()


def _starts(ids: Tensor, mask: Tensor | None, bos: int | None) -> Tensor:
    """Return the first position of each row that is steered: after left padding and BOS. (rows, seq) -> (rows,)"""
    width = ids.shape[1]
    if mask is None or mask.ndim != 2:
        padding = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
    else:
        padding = (mask[:, -width:].cumsum(dim=1) == 0).sum(dim=1)
    if bos is None:
        return padding
    first = ids.gather(1, padding.clamp(max=width - 1)[:, None])[:, 0]
    return padding + (first == bos)
