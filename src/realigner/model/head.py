"""The output head without its logits: log-probabilities and KL in tiles of tokens, gradients formed on the way.

A model's logits for one batch are often larger than everything else in it (1,000 tokens × a vocabulary of 128k =
512 MB in fp32, several times over in a loss). Here they exist for one tile of tokens at a time. Where the head is
frozen (LoRA), the gradient with respect to the hidden state is made in the same pass, so that two products with the
head's matrix do instead of three; where it is trained, backward makes the logits again.

The trunk still runs through the model's own forward: for the time of a call, the head module hands what it is given
to a function of ours, and what the model does to its logits afterwards (a factor, soft-capping) moves into that
function. A model that does anything else to them is found out by `head_agrees` and keeps its logits whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx

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

    @property
    def trains(self) -> bool:
        """Whether the matrix gets a gradient."""
        return self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)

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


# -- log-probabilities ----------------------------------------------------------------------------------------------


class _TokenLogps(torch.autograd.Function):
    """log p(target) of each token; see `head_logps`."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, head: Head) -> Tensor:
        head = head.cast()
        logps = hidden.new_zeros(len(targets), dtype=_wide(hidden))
        # A trained head needs its own gradient too, for which every logit is made again once the loss is known.
        ahead = ctx.needs_input_grad[0] and not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2])
        gradient = torch.zeros_like(hidden, dtype=_wide(hidden)) if ahead else None
        for at in head.tiles(len(targets)):
            logits, logps[at] = _scored(head, hidden[at], targets[at])
            if gradient is not None:
                gradient[at] = head.pull(_logp_gradient_(head, logits, targets[at]))
        ctx.form, ctx.ahead, ctx.product = (head.scale, head.softcap), ahead, head.weight.dtype
        ctx.given = hidden.dtype
        ctx.save_for_backward(hidden if not ahead else gradient, weight, bias, targets)
        return logps

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (upstream,) = outputs
        hidden, weight, bias, targets = ctx.saved_tensors
        if ctx.ahead:
            return (hidden * upstream.unsqueeze(1)).to(ctx.given), None, None, None, None
        head = Head(weight, bias, *ctx.form).cast(ctx.product)
        by_hidden, by_weight, by_bias = _empty_gradients(ctx, hidden, weight, bias)
        for at in head.tiles(len(targets)):
            logits, _ = _scored(head, hidden[at], targets[at])
            gradient = _logp_gradient_(head, logits, targets[at]).mul_(upstream[at].unsqueeze(1))
            _add_gradients(head, gradient, hidden[at], at, by_hidden, by_weight, by_bias)
        return *_as_given(by_hidden, by_weight, by_bias, hidden, weight, bias), None, None


def _scored(head: Head, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-softmax of the logits of a tile as (logits, log p(target)); logits lose their normaliser."""
    logits = head.finish_(head.raw(hidden))
    normaliser = logits.logsumexp(dim=1)
    chosen = logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    return logits, chosen - normaliser


def _logp_gradient_(head: Head, logits: Tensor, targets: Tensor) -> Tensor:
    """Return d log p(target) / d raw = (onehot − p) · d logit / d raw; the logits are used up where they can be."""
    capped = logits.clone() if head.softcap is not None else logits
    gradient = torch.softmax(logits, dim=1).neg_() if head.softcap is not None else _softmax_(logits).neg_()
    gradient.scatter_add_(1, targets.unsqueeze(1), gradient.new_ones(len(targets), 1))
    return head.chain_(gradient, capped)


def _softmax_(logits: Tensor) -> Tensor:
    logits.sub_(logits.amax(dim=1, keepdim=True)).exp_()
    return logits.div_(logits.sum(dim=1, keepdim=True))


def head_logps(head: Head, hidden: Float[Tensor, "tokens hidden"], targets: Int[Tensor, " tokens"]) -> Tensor:
    """Return log p(target) of each token in nats, `(tokens,)`, in at least fp32, without logits for more than a tile.

    Equals `-cross_entropy(logits, targets, reduction="none")` with gradients by hidden state, matrix and bias.
    """
    logps: Tensor = _TokenLogps.apply(hidden, head.weight, head.bias, targets, head)  # type: ignore[no-untyped-call]
    return logps


# -- KL -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HiddenReference:
    """The reference's distributions as its final hidden states and its own head: exact."""

    head: Head
    hidden: Float[Tensor, "tokens hidden"]

    def __len__(self) -> int:
        return len(self.hidden)

    def cast(self, dtype: torch.dtype) -> HiddenReference:
        """Return it with its head in the precision of the policy's."""
        return HiddenReference(self.head.cast(dtype), self.hidden)

    def kl_and_gradient_(self, at: slice, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return KL(p_ref ‖ p) of a tile's tokens and its gradient p − p_ref; the logits are used up."""
        reference = self.head.finish_(self.head.raw(self.hidden[at]))
        reference = reference.sub_(reference.logsumexp(dim=1, keepdim=True))
        policy = logits.sub_(logits.logsumexp(dim=1, keepdim=True))
        weight = reference.exp()
        kl = (weight * reference.sub_(policy)).sum(dim=1)
        return kl, policy.exp_().sub_(weight)


@dataclass(frozen=True)
class TopReference:
    """The reference's k likeliest tokens and one bucket for the rest: approximate, and a lower bound of the KL.

    Inside the bucket the reference is taken to spread as the policy does, so nothing there is pulled apart.
    """

    ids: Int[Tensor, "tokens k"]
    logps: Float[Tensor, "tokens k"]

    def __len__(self) -> int:
        return len(self.ids)

    def cast(self, _: torch.dtype) -> TopReference:
        """Return it as it is: it takes part in no product."""
        return self

    def kl_and_gradient_(self, at: slice, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the bucketed KL of a tile's tokens and its gradient; the logits are used up."""
        ids, reference = self.ids[at].long(), self.logps[at].to(logits.dtype)
        policy = logits.sub_(logits.logsumexp(dim=1, keepdim=True))
        found = policy.gather(1, ids)
        p_rest, q_rest = _rest(reference), _rest(found)
        kl = (reference.exp() * (reference - found)).sum(dim=1) + p_rest * (p_rest.log() - q_rest.log())
        # d/dz of −Σ p_k log q_k − p_rest log q_rest: q − p on the listed tokens, q · (1 − p_rest / q_rest) elsewhere.
        gradient = policy.exp_()
        listed = found.exp() - reference.exp()
        gradient.mul_((1.0 - p_rest / q_rest).unsqueeze(1)).scatter_(1, ids, listed)
        return kl, gradient


def _rest(logps: Tensor) -> Tensor:
    """Return the probability outside the listed tokens, kept above rounding."""
    return (1.0 - logps.exp().sum(dim=1)).clamp(min=torch.finfo(logps.dtype).eps)


Reference = HiddenReference | TopReference


class _RetainedKL(torch.autograd.Function):
    """Sum of KL(p_ref ‖ p_θ) over tokens, and the KL of each; see `head_kl`."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, reference: Reference, head: Head
    ) -> tuple[Tensor, Tensor]:
        head, reference = head.cast(), reference.cast(head.cast().weight.dtype)
        per_token = hidden.new_zeros(len(hidden), dtype=_wide(hidden))
        by_hidden, by_weight, by_bias = _empty_gradients(ctx, hidden, weight, bias)
        for at in head.tiles(len(hidden), parts=2):
            logits = head.finish_(head.raw(hidden[at]))
            capped = logits.clone() if head.softcap is not None else logits
            per_token[at], gradient = reference.kl_and_gradient_(at, logits)
            if by_hidden is not None or by_weight is not None:
                _add_gradients(head, head.chain_(gradient, capped), hidden[at], at, by_hidden, by_weight, by_bias)
        # The sum's gradient is the same for every token, so everything is known before backward begins.
        ctx.save_for_backward(*_as_given(by_hidden, by_weight, by_bias, hidden, weight, bias))
        ctx.mark_non_differentiable(per_token)
        return per_token.sum(), per_token

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        scaled = [None if g is None else g * outputs[0].to(g.dtype) for g in ctx.saved_tensors]
        return scaled[0], scaled[1], scaled[2], None, None


def head_kl(head: Head, hidden: Float[Tensor, "tokens hidden"], reference: Reference) -> tuple[Tensor, Tensor]:
    """Return Σ KL(p_ref ‖ p_θ) over the tokens, in nats with gradient, and the KL of each token without one.

    Equals `forward_kl(logits, reference_logits)`, without logits of either model for more than a tile.
    """
    total, per_token = _RetainedKL.apply(hidden, head.weight, head.bias, reference, head)  # type: ignore[no-untyped-call]
    return total, per_token


# -- gradients by part ----------------------------------------------------------------------------------------------


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.dtype


def _empty_gradients(
    ctx: FunctionCtx, hidden: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return zeros to add to, for each of (hidden, weight, bias) whose gradient is asked for."""
    wanted = ctx.needs_input_grad[:3]  # type: ignore[attr-defined]
    return tuple(  # type: ignore[return-value]
        torch.zeros_like(t, dtype=_wide(t)) if t is not None and asked else None
        for t, asked in zip((hidden, weight, bias), wanted, strict=True)
    )


def _add_gradients(
    head: Head,
    gradient: Tensor,
    hidden: Tensor,
    at: slice,
    by_hidden: Tensor | None,
    by_weight: Tensor | None,
    by_bias: Tensor | None,
) -> None:
    """Carry a tile's gradient by raw values on to hidden state, matrix and bias."""
    if by_hidden is not None:
        by_hidden[at] = head.pull(gradient)
    if by_weight is not None:
        gradient_, hidden_ = gradient.to(head.weight.dtype), hidden.to(head.weight.dtype)
        if by_weight.dtype == hidden_.dtype:
            torch.addmm(by_weight, gradient_.T, hidden_, out=by_weight)  # addmm_ escapes torch's FLOP counter
        else:
            by_weight += gradient_.T @ hidden_
    if by_bias is not None:
        by_bias += gradient.sum(dim=0)


def _as_given(
    by_hidden: Tensor | None, by_weight: Tensor | None, by_bias: Tensor | None, *given: Tensor | None
) -> list[Tensor | None]:
    return [
        g if g is None or t is None else g.to(t.dtype)
        for g, t in zip((by_hidden, by_weight, by_bias), given, strict=True)
    ]


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
        if config is not None and config._attn_implementation != NAME:
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
