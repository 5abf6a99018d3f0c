"""Scoring with parameters that are spread over processes by PyTorch's `fully_shard`.

A forward pass is then work in common: every process runs equally many, and a module's part of the direction, which
is spread as the parameters are, is gathered for as long as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from realigner import ranks

Item = TypeVar("Item")


def dealt(items: Sequence[Item], model: torch.nn.Module) -> list[tuple[Item, bool]]:
    """Return this process's share of the work, and whether each result counts.

    Every item counts in exactly one process. Where the model is sharded, all do equally many: who has fewer repeats
    the first one, not counted.
    """
    mine = [(item, True) for item in ranks.share(items)]
    missing = -(-len(items) // ranks.shares()) - len(mine) if is_sharded(model) else 0
    return mine + [(items[0], False)] * missing


def sharded_modules(model: torch.nn.Module) -> list[Any]:
    """Return the modules that gather their parameters from the processes for the time of their forward."""
    if not torch.distributed.is_available():
        return []
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def is_sharded(model: torch.nn.Module) -> bool:
    """Say whether a model's parameters are spread over processes."""
    return bool(sharded_modules(model))


def let_go(model: torch.nn.Module) -> None:
    """Bring a sharded model to rest: the last forward may have left parameters gathered."""
    for module in sharded_modules(model):
        module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor itself, gathered from the processes that it is spread over."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


@contextmanager
def exchanged(
    model: torch.nn.Module, direction: Mapping[str, Tensor], change: Callable[[Tensor, Tensor], Tensor]
) -> Iterator[None]:
    """Let a sharded model run on change(parameter, direction) for a block; its parameters stay what they are.

    A module that gathers its parameters for its forward finds them exchanged there: the part of the direction that
    belongs to them is gathered after them, and let go before them.
    """
    owners = sharded_modules(model)
    gathering = {id(owner) for owner in owners}
    names = {id(module): name for name, module in model.named_modules()}
    held: dict[int, list[tuple[torch.nn.Module, str, Any]]] = {}

    def enter(owner: torch.nn.Module, _: Any) -> None:
        held[id(owner)] = []
        for module in _own_modules(owner, gathering):
            for short, parameter in module._parameters.items():
                name = f"{names[id(module)]}.{short}".removeprefix(".")
                if parameter is not None and name in direction:
                    held[id(owner)].append((module, short, parameter))
                    tangent = whole(direction[name]).to(parameter.dtype)
                    module._parameters[short] = change(parameter.detach(), tangent)  # type: ignore[assignment]

    def leave(owner: torch.nn.Module, *_: Any) -> None:
        for module, short, parameter in held.pop(id(owner), ()):
            module._parameters[short] = parameter

    hooks = [owner.register_forward_pre_hook(enter) for owner in owners]
    hooks += [owner.register_forward_hook(leave, prepend=True) for owner in owners]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for owner in owners:
            leave(owner)


def _own_modules(owner: torch.nn.Module, gathering: Set[int]) -> Iterator[torch.nn.Module]:
    """Yield a module and those below it whose parameters it gathers: not those of a nested one that gathers its own."""
    yield owner
    for child in owner.children():
        if id(child) not in gathering:
            yield from _own_modules(child, gathering)
