"""Linear layers in forward mode: PyTorch's own rule, without products with a matrix of zeros."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import product
from typing import Any

import pytest
import torch
from tiny import tiny_model
from tiny_pairs import random_rows
from torch.autograd import forward_ad
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

from realigner.impact import slopes as slopes_module
from realigner.impact.slopes import slopes_along
from realigner.impact.vectors import trainable
from realigner.model.attention import dual, unpack
from realigner.model.load import attach_lora
from realigner.model.products import WithoutZeros
from realigner.recipe import LoraSettings


@pytest.mark.parametrize("moving", list(product([False, True], repeat=3)))
@pytest.mark.parametrize("biased", [False, True])
def test_values_and_tangents_are_those_of_pytorch(moving: tuple[bool, bool, bool], biased: bool) -> None:
    shapes = [(2, 5, 4), (3, 4), (3,)][: 2 + biased]
    given = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    with forward_ad.dual_level():
        inputs = [dual(x, torch.randn_like(x)) if moves else x for x, moves in zip(given, moving, strict=False)]
        value, tangent = unpack(linear(*inputs))
        with WithoutZeros():
            found, slope = unpack(torch.nn.functional.linear(*inputs))
    torch.testing.assert_close(found, value)
    assert (slope is None) == (not any(moving[: 2 + biased]))
    if slope is not None:
        torch.testing.assert_close(slope, tangent)


class Products(TorchDispatchMode):
    """Counts products of matrices, and those with a matrix of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.all, self.with_zeros = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.all += 1
            self.with_zeros += any(not bool(x.any()) for x in args[-2:])
        return func(*args, **(kwargs or {}))


def test_with_frozen_weights_no_product_with_a_matrix_of_zeros_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    model = attach_lora(tiny_model("llama").requires_grad_(False), LoraSettings(rank=2), 0).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero in a fresh adapter
            torch.nn.init.normal_(parameter, std=0.1)
    slopes, rows = slopes_along(model, {n: torch.randn_like(p) for n, p in trainable(model).items()}), random_rows(4)
    with Products() as ours:
        found = slopes(rows)
    assert ours.all > 0
    assert ours.with_zeros == 0
    monkeypatch.setattr(slopes_module, "WithoutZeros", nullcontext)
    with Products() as theirs:
        expected = slopes(rows)
    assert theirs.with_zeros > 10  # it would be noticed
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
