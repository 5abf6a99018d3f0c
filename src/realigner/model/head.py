"""A causal model's head in our hands: what it computes, tile by tile, and a forward in which we take its place.

The trunk runs through the model's own forward: for the time of a call, the head module hands what it is given to a
function of ours (`model/head_terms.py`), and what the model does to its logits afterwards (a factor, soft-capping)
moves into that function. A model that does anything else to them is found out by `head_agrees` and keeps its logits
whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from realigner.losses.pairwise import in_fp32
from realigner.model.attention import NAME
from realigner.model.packing import PackedBatch
from realigner.model.rows import RowBatch

TILE_BYTES = {"cpu": 1 << 26, "cuda": 1 << 29}
"""Size of one tile of fp32 logits by kind of device. Smaller tiles save memory and starve the processor."""
SMALLEST_TILE = 16
"""Tokens: below this, reading the head's matrix costs more than the products with it."""


@dataclass(frozen=True)
class Head:
    """logits = soft-cap(scale · (hidden · weightᵀ + bias))."""

    weight: Float[Tensor, "vocab hidden"]
    bias: Float[Tensor, " vocab"] | None = None
    scale: float = 1.0
    softcap: float | None = None

    def detached(self) -> Head:
        """Return the same head outside of autograd."""
        bias = None if self.bias is None else self.bias.detach()
        return Head(self.weight.detach(), bias, self.scale, self.softcap)

    def copy(self) -> Head:
        """Return a head that no optimizer step reaches."""
        bias = None if self.bias is None else self.bias.clone()
        return Head(self.weight.clone(), bias, self.scale, self.softcap)

    def tiles(self, tokens: int, parts: int = 1) -> Iterator[slice]:
        """Yield slices of tokens whose logits fit a tile; `parts` tensors of that size share it."""
        budget = TILE_BYTES.get(self.weight.device.type, TILE_BYTES["cpu"]) // parts
        size = max(SMALLEST_TILE, budget // (4 * self.weight.shape[0]))
        for start in range(0, tokens, size):
            yield slice(start, min(start + size, tokens))

    def parts(self) -> Iterator[slice]:
        """Yield slices of the vocabulary whose rows of the matrix, in fp32, fit a tile."""
        budget = TILE_BYTES.get(self.weight.device.type, TILE_BYTES["cpu"])
        size = max(SMALLEST_TILE, budget // (4 * self.weight.shape[1]))
        for start in range(0, len(self.weight), size):
            yield slice(start, start + size)

    def raw(self, hidden: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "tokens vocab"]:
        """Return hidden · weightᵀ + bias in at least fp32; the product runs in the precision of the matrix."""
        return in_fp32(torch.nn.functional.linear(hidden.to(self.weight.dtype), self.weight, self.bias))

    def raw_slope(self, slope: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "tokens vocab"]:
        """Return how the raw values change as the hidden states change along `slope`: slope · weightᵀ."""
        return in_fp32(slope.to(self.weight.dtype) @ self.weight.mT)

    def finish_(self, raw: Float[Tensor, "tokens vocab"]) -> Float[Tensor, "tokens vocab"]:
        """Turn raw values into logits, in place."""
        if self.scale != 1.0:
            raw.mul_(self.scale)
        return raw if self.softcap is None else raw.div_(self.softcap).tanh_().mul_(self.softcap)

    def chain_(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """Turn a gradient by logits into one by raw values, in place: (soft-cap)′ = 1 − (logit / cap)²."""
        if self.softcap is not None:
            gradient.mul_(1.0 - (logits / self.softcap) ** 2)
        return gradient if self.scale == 1.0 else gradient.mul_(self.scale)

    def pull(self, gradient: Float[Tensor, "tokens vocab"]) -> Float[Tensor, "tokens hidden"]:
        """Return gradient · weight, the gradient by the hidden state, in at least fp32."""
        return in_fp32(gradient.to(self.weight.dtype) @ self.weight)

    def cast(self, dtype: torch.dtype | None = None) -> Head:
        """Return the head in the precision that its products run in: autocast's where that is on, else its own."""
        kind = self.weight.device.type
        if dtype is None:
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.weight.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        return Head(self.weight.to(dtype), bias, self.scale, self.softcap)


# -- the model's own forward, with its head in our hands --------------------------------------------------------------

Work = Callable[[Head, Float[Tensor, "tokens hidden"]], Float[Tensor, "..."]]


def head_of(model: Any) -> Head | None:
    """Return the head of a causal model as its forward applies it, or None where it is no plain linear layer."""
    bare = bare_model(model)
    layer = bare.get_output_embeddings() if hasattr(bare, "get_output_embeddings") else None
    # `fully_shard` makes a subclass of a layer's class; anything that computes otherwise has a forward of its own.
    if not isinstance(layer, torch.nn.Linear) or type(layer).forward is not torch.nn.Linear.forward:
        return None
    softcap = getattr(bare.config, "final_logit_softcapping", None)
    scale = float(getattr(bare, "logit_scale", None) or 1.0)
    scale /= float(getattr(bare.config, "logits_scaling", None) or 1.0)
    return Head(layer.weight, layer.bias, scale, softcap)


def through_head(
    model: Any, batch: RowBatch | PackedBatch, work: Work, call: Callable[..., Any] | None = None
) -> Tensor:
    """Run a model's own forward on rows or a pack; `work(head, hidden)` takes the place of its head.

    Args:
        model: bare, or in the wrappers of peft and accelerate.
        batch: its `scored` says which hidden states the head is given, in `row_of_token` order; those of a
            `PackedBatch` are `(1, tokens, hidden)`.
        work: what to make of them; its result is returned, and gradients flow through it.
        call: stands for the model's forward where its parameters are exchanged for one call.
    """
    with _replaced_head(model, work):
        return forward(call or model, batch)


def forward(model: Any, batch: RowBatch | PackedBatch) -> Tensor:
    """Run a model's own forward on rows or on a pack; return what it gives as logits of the scored tokens.

    `(tokens, vocab)` for rows, `(1, tokens, vocab)` for a pack.

    Raises:
        NotImplementedError: a pack is given to a model that does not attend by its layout (`attention.packing`) and
            would mix its rows.
    """
    how: dict[str, Any] = {"attention_mask": batch.attention_mask, "logits_to_keep": batch.scored, "use_cache": False}
    if isinstance(batch, PackedBatch):
        config = getattr(getattr(model, "module", model), "config", None)
        if config is not None and not config._attn_implementation.startswith(NAME):
            raise NotImplementedError("packed rows under attention that does not know their layout")
        how |= {"position_ids": batch.position_ids, "packed": batch.layout}
    logits: Tensor = model(input_ids=batch.input_ids, **how).logits
    return logits


@contextmanager
def _replaced_head(model: Any, work: Work) -> Iterator[None]:
    """Hand the head's input to `work` for a block, and let the model leave what comes out of it alone."""
    head = head_of(model)
    if head is None:
        raise NotImplementedError("a head that is no plain linear layer")
    bare = bare_model(model)
    layer = bare.get_output_embeddings()

    def hand_over(hidden: Tensor) -> Tensor:
        # The layer's parameters are read here, inside the forward: sharding wrappers have gathered them by now.
        return work(Head(layer.weight, layer.bias, head.scale, head.softcap), hidden.flatten(0, -2))

    undo: list[Callable[[], None]] = []
    for owner, name, neutral in (
        (bare.config, "final_logit_softcapping", None),
        (bare.config, "logits_scaling", 1.0),
        (bare, "logit_scale", 1.0),
    ):
        given = getattr(owner, name, None)
        if given is not None:
            setattr(owner, name, neutral)
            undo.append(lambda owner=owner, name=name, given=given: setattr(owner, name, given))  # type: ignore[misc]
    layer.forward = hand_over
    try:
        yield
    finally:
        del layer.forward
        for step in undo:
            step()


@torch.no_grad()
def head_agrees(model: Any) -> bool:
    """Say whether logits made here equal the model's own and its forward leaves our results alone; one short row."""
    if head_of(model) is None:
        return False
    device = next(model.parameters()).device
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    ids = (torch.arange(1, 9, device=device) * 7919 % vocabulary).unsqueeze(0)
    keep = torch.ones_like(ids, dtype=torch.bool)
    batch = RowBatch(ids, torch.ones_like(ids), keep)
    seen: list[Tensor] = []

    def work(head: Head, hidden: Tensor) -> Tensor:
        seen.extend((head.finish_(head.raw(hidden)), hidden[:, :1]))
        return seen[1]

    try:
        with evaluating(model):
            returned = through_head(model, batch, work)
            stock = model(input_ids=ids, logits_to_keep=keep, use_cache=False).logits
    except (TypeError, AttributeError, NotImplementedError):
        return False
    if not seen or not torch.equal(returned, seen[1]) or stock.shape != seen[0].shape:
        return False
    rounding = 64 * torch.finfo(stock.dtype).eps * stock.abs().max().clamp(min=1)
    return bool((in_fp32(stock) - seen[0]).abs().max() <= rounding)


def bare_model(model: Any) -> Any:
    """Return the transformers model inside the wrappers of accelerate and peft."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Switch dropout off for a block and restore every module's mode after it."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
