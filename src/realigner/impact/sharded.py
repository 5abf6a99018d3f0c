"""Scoring with parameters that are spread over processes by PyTorch's `fully_shard`.

A forward pass is then work in common: every process runs equally many, and a module's part of the direction, which
is spread as the parameters are, is gathered for as long as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from realigner.impact.vectors import trainable
from realigner.model.sharded import sharded_modules, whole


@contextmanager
def exchanged(
    model: torch.nn.Module, direction: Mapping[str, Tensor], change: Callable[[Tensor, Tensor], Tensor]
) -> Iterator[None]:
    """Let a sharded model run on change(parameter, direction) for a block; its parameters stay what they are.

    A module that gathers its parameters for its forward finds them exchanged there: the part of the direction that
    belongs to them is gathered after them, and let go before them.
    """
    owners = sharded_modules(model)
    first = {id(parameter): name for name, parameter in trainable(model).items()}  # tied ones have several names
    called = {n: first[id(p)] for n, p in model.named_parameters(remove_duplicate=False) if id(p) in first}
    gathering = {id(owner) for owner in owners}
    names = {id(module): name for name, module in model.named_modules()}
    held: dict[int, list[tuple[torch.nn.Module, str, Any]]] = {}

    def enter(owner: torch.nn.Module, _: Any) -> None:
        held[id(owner)] = []
        for module in _own_modules(owner, gathering):
            for short, parameter in module._parameters.items():
                name = called.get(f"{names[id(module)]}.{short}".removeprefix("."), "")
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
