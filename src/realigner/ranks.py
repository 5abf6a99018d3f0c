"""Several processes of one run, as torchrun starts them: the first leads, all compute, only the first writes.

    torchrun --nproc-per-node 8 --no-python realigner run recipe.yaml

The first process holds the run directory and goes through the stages as it would alone. When it comes to a stage that
the others share, it tells them, and all run the same function of that stage in step: what is scored or generated is
dealt out, and added up or collected again, so that every process goes on with the same numbers. The run directory must
be one that all of them see. What they exchange is text and numbers over gloo, whatever the models run on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
PATIENCE = timedelta(days=7)
"""How long a process waits for the next stage: the first may be asking a judge meanwhile."""
_together = False
_leading = False


def rank() -> int:
    """Return this process's number among those of torchrun; 0 outside it."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """Return the number of processes that torchrun started; 1 outside it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join() -> None:
    """Meet the other processes, each on its own device."""
    import torch
    import torch.distributed as dist

    if world() == 1 or dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=PATIENCE)
    else:
        dist.init_process_group("gloo", timeout=PATIENCE)


def leave() -> None:
    """Part from the others, when all are here: one that leaves early may break the connection of one that reads."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


@contextmanager
def together() -> Iterator[None]:
    """Deal work out for a block that all processes run in step."""
    global _together
    before, _together = _together, world() > 1
    try:
        yield
    finally:
        _together = before


@contextmanager
def apart() -> Iterator[None]:
    """Let every process do all of a block's work by itself, inside one in which work is dealt out."""
    global _together
    before, _together = _together, False
    try:
        yield
    finally:
        _together = before


@contextmanager
def leading() -> Iterator[None]:
    """Run a block in the first process alone, for whose messages the others wait."""
    global _leading
    before, _leading = _leading, world() > 1
    try:
        yield
    finally:
        _leading = before


def leads() -> bool:
    """Say whether the others wait for this process's messages."""
    return _leading


def shares() -> int:
    """Return over how many processes work is dealt out here."""
    return world() if _together else 1


def share(items: Sequence[T]) -> Sequence[T]:
    """Return this process's part of what all of them have: every n-th, or everything where nothing is dealt out."""
    return items[rank() :: world()] if _together else items


def add_up(values: Tensor) -> Tensor:
    """Return the sum over processes; each has put its part in its places of zeros."""
    if not _together:
        return values
    import torch.distributed as dist

    # An integer or half-precision sum with zeros is exact; what was on a device goes back to it.
    total = values.cpu()
    dist.all_reduce(total)
    return total.to(values.device)


def collect(part: Any) -> list[Any]:
    """Return the JSON values of all processes, in the order of their numbers; [part] where nothing is dealt out."""
    if not _together:
        return [part]
    return [_broadcast(part if rank() == source else None, source) for source in range(world())]


def tell(message: Any = None) -> Any:
    """Return the first process's JSON value in all of them."""
    return _broadcast(message, 0)


def _broadcast(value: Any, source: int) -> Any:
    import torch
    import torch.distributed as dist

    raw = json.dumps(value).encode() if rank() == source else b""
    size = torch.tensor([len(raw)])
    dist.broadcast(size, source)
    content = torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else torch.zeros(int(size), dtype=torch.uint8)
    dist.broadcast(content, source)
    return json.loads(content.numpy().tobytes())
