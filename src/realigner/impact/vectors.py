"""Vectors in the space of the trainable parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from realigner.model.sharded import is_sharded, let_go, whole

Vector = dict[str, Tensor]
"""A vector in the space of the trainable parameters, by parameter name."""


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the parameters that impact is measured in: those that training will change."""
    let_go(model)
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def widest(tensor: Tensor) -> Tensor:
    """Return a tensor in float64, on the CPU where its device has none."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Return ⟨a, b⟩, accumulated in float64."""
    return sum((float(whole((widest(a[name]) * widest(b[name])).sum())) for name in a), 0.0)


def norm(a: Mapping[str, Tensor]) -> float:
    """Return the Euclidean norm of a vector."""
    return math.sqrt(dot(a, a))


def device(model: Any) -> torch.device:
    """Return where the model is."""
    device: torch.device = next(model.parameters()).device
    return device


def zeros(model: Any) -> Vector:
    """Return the zero vector, in fp32 or wider."""
    return {
        name: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))
        for name, p in trainable(model).items()
    }


def gradients(loss: Tensor, model: Any) -> Vector:
    """Return the gradient of a scalar; parameters that it does not reach have zero.

    Of a sharded model, every process gives its loss, and the mean of their gradients comes back, sharded.
    """
    found: Sequence[Tensor | None]
    if is_sharded(model):
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = trainable(model)
        found = [p.grad for p in parameters.values()]
        for p in parameters.values():
            p.grad = None
    else:
        parameters = trainable(model)
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(parameters.items(), found, strict=True)
    }


def accumulate(total: Vector, addition: Mapping[str, Tensor], factor: float = 1.0) -> None:
    """Add `factor` times a vector to a running total, in the precision of the total."""
    for name, value in addition.items():
        total[name] += factor * value.to(total[name].dtype)


def plus(a: Vector, b: Vector, factor: float) -> Vector:
    """Return a + factor · b."""
    return {name: a[name] + factor * b[name] for name in a}
