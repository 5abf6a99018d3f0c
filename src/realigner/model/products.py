"""Linear layers in forward-mode differentiation, without products with zero.

The derivative of y = W x is dy = W dx + dW x. Where one of the two has no tangent, PyTorch (2.13) multiplies by a
matrix of zeros all the same: with frozen weights that is a third of all the arithmetic.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from realigner.model.attention import dual, unpack


class WithoutZeros(TorchFunctionMode):
    """While active, `torch.nn.functional.linear`, whoever calls it, takes the products that are not zero.

    Values and tangents are those of PyTorch's own rule. Every call of a torch function costs some microseconds more.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Take the place of one function; all others stay what they are."""
        return (_linear if func is linear else func)(*args, **(kwargs or {}))


def _linear(
    input: Float[Tensor, "... in"],
    weight: Float[Tensor, "out in"],
    bias: Float[Tensor, " out"] | None = None,
) -> Float[Tensor, "... out"]:
    """Return input · weightᵀ + bias, a dual tensor where any of the three is one."""
    (x, dx), (w, dw), (b, db) = unpack(input), unpack(weight), (None, None) if bias is None else unpack(bias)
    value = linear(x, w, b)
    parts = [] if dx is None else [linear(dx, w)]
    parts += [] if dw is None else [linear(x, dw)]
    parts += [] if db is None else [db.expand_as(value)]
    return dual(value, sum(parts[1:], parts[0])) if parts else value
