"""Data parallelism as lm-eval does it: each rank takes every n-th row, rank 0 gathers.

lm-eval's `hf` takes part only where it sees several GPUs; under `torchrun` or `accelerate launch` on CPUs, or with one visible GPU
a process, each of its ranks does the whole job. Here the ranks are those of torch.distributed, on any device.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Item = TypeVar("Item")
_FOREVER = timedelta(weeks=52)
"""Time limit of a collective call: as in lm-eval, a rank may wait for another as long as an evaluation takes."""

PADDING = -1
"""doc_id of the row that a rank without rows works on, for lm-eval has none without; it is in no result."""


def join() -> tuple[int, int]:
    """Join the other ranks, and return (rank, number of ranks); (0, 1) where torchrun or accelerate did not start this process.

    Raises ValueError where the ranks are on several machines: the records, a SQLite file, cannot be shared between those.
    """
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ):
        return 0, 1
    import torch
    import torch.distributed as dist

    size = int(os.environ["WORLD_SIZE"])
    if os.environ["RANK"] != "0":
        os.environ["TQDM_DISABLE"] = "1"  # one bar, not one a rank
    if int(os.environ.get("LOCAL_WORLD_SIZE", size)) != size:
        raise ValueError(
            "ranks on several machines: records are a SQLite file, which is not shared over a network; use --engine ray, or "
            "steer-bench evaluate RUN --shard I/N on each machine"
        )
    if size > 1 and not dist.is_initialized():
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=_FOREVER)
    return (dist.get_rank(), size) if size > 1 else (0, 1)


def leave() -> None:
    """Leave the other ranks, at the end of a process."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def wait(world_size: int) -> None:
    """Wait for all ranks."""
    if world_size > 1:
        import torch.distributed as dist

        try:
            dist.barrier()
        except RuntimeError as error:  # gloo's own words are about sockets
            raise RuntimeError("another process of this run stopped; see what it said") from error


def place(rank: int, world_size: int, *, alone: bool) -> tuple[int, int]:
    """Return (rank, number of ranks): torch.distributed's, unless each rank holds a part of the model, or one in memory (`alone`)."""
    import torch.distributed as dist

    if alone:
        return 0, 1
    if not dist.is_available() or not dist.is_initialized():
        return rank, world_size
    return dist.get_rank(), dist.get_world_size()


def all_gather(tensor: Tensor) -> Tensor:
    """Return the tensors of all ranks, concatenated, on this rank's device."""
    import torch
    import torch.distributed as dist

    parts = [tensor] * dist.get_world_size()
    dist.all_gather_object(parts, tensor.cpu())
    return torch.cat([part.reshape(1) if part.dim() == 0 else part for part in parts]).to(tensor.device)


def gather(obj: object, dst: int) -> list[object] | None:
    """Return what lm-eval gathers on rank `dst`, None on the others: samples and metrics as one rank alone would have them."""
    import torch.distributed as dist

    parts: list[Any] | None = [obj] * dist.get_world_size() if dist.get_rank() == dst else None
    dist.gather_object(obj, parts, dst=dst)
    if parts is None or not isinstance(obj, Mapping):
        return parts
    return together(parts)


def together(parts: Sequence[Mapping[str, Any]]) -> list[object]:
    """Return [all rows of all ranks, nothing, nothing, ...] of lm-eval's samples {task: [...]} or metrics {task: {metric: [...]}}."""
    whole: dict[str, object] = {}
    nothing: dict[str, object] = {}
    for task, of_first in parts[0].items():
        of_ranks = [part[task] for part in parts]
        if not isinstance(of_first, Mapping):
            whole[task], nothing[task] = _samples(of_ranks), []
            continue
        missing = {key for of_rank in of_ranks for key in of_rank} - set(of_first)
        if missing:
            raise ValueError(
                f"{task}: rank 0 has no row of {', '.join(sorted(str(key) for key in missing))}, and lm-eval would leave them out; "
                "run with fewer ranks, or without --samples"
            )
        whole[task] = {key: interleaved([of_rank.get(key, []) for of_rank in of_ranks]) for key in of_first}
        nothing[task] = {key: [] for key in of_first}
    return [whole, *(nothing for _ in parts[1:])]


def interleaved(parts: Sequence[Sequence[Item]]) -> list[Item]:
    """Return the list whose every n-th item part 0, 1, ... holds.

    >>> interleaved([[0, 3], [1, 4], [2]])
    [0, 1, 2, 3, 4]
    """
    return [part[i] for i in range(max(map(len, parts), default=0)) for part in parts if i < len(part)]


def _samples(of_ranks: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return samples in lm-eval's order: filter by filter, document by document."""
    samples = [sample for sample in chain.from_iterable(of_ranks) if sample["doc_id"] != PADDING]
    filters = {name: i for i, name in enumerate(dict.fromkeys(sample["filter"] for sample in samples))}
    return sorted(samples, key=lambda sample: (filters[sample["filter"]], sample["doc_id"]))
