"""Log-probabilities and KL of tokens from their hidden states: logits exist for one tile, gradients form on the way.

A model's logits for one batch are often larger than everything else in it (1,000 tokens × a vocabulary of 128k =
512 MB in fp32, several times over in a loss). Here they exist for one tile of tokens at a time. Where the head is
frozen (LoRA), the gradient with respect to the hidden state is made in the same pass, so that two products with the
head's matrix do instead of three. Where it is trained, its gradient is one buffer of the matrix's size: the forward
pass adds the KL's share to it, whose factor is one number for all tokens; backward scales that, makes the logits of
the other tokens again, whose factors are known only then, and adds theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from realigner.model.head import Head

# -- what the reference says ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HiddenReference:
    """The reference's distributions as its final hidden states and its own head: exact."""

    head: Head
    hidden: Float[Tensor, "tokens hidden"]

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


# -- both terms -----------------------------------------------------------------------------------------------------


def head_terms(
    head: Head,
    hidden: Float[Tensor, "tokens hidden"],
    *,
    read: Int[Tensor, " read"],
    targets: Int[Tensor, " read"],
    anchored: Int[Tensor, " anchored"],
    reference: Reference | None,
) -> tuple[Float[Tensor, " read"], Float[Tensor, ""], Float[Tensor, " anchored"]]:
    """Return log p(target) of some tokens, Σ KL(p_ref ‖ p_θ) over others, and each KL without gradient; all in nats.

    In at least fp32, with gradients by hidden state, matrix and bias.

    Args:
        head: the policy's.
        hidden: its final hidden states.
        read: which of them predict the targets.
        targets: a token each.
        anchored: which of them are held to the reference; they may be read too.
        reference: its distributions there, in that order. None: there are none.
    """
    head = head if torch.is_grad_enabled() else head.detached()  # a leaf asks for its gradient even under no_grad
    logps, total, kl = _HeadTerms.apply(hidden, head.weight, head.bias, read, targets, anchored, reference, head)  # type: ignore[no-untyped-call]
    return logps, total, kl


def head_logps(head: Head, hidden: Float[Tensor, "tokens hidden"], targets: Int[Tensor, " tokens"]) -> Tensor:
    """Return log p(target) of each token in nats, `(tokens,)`, in at least fp32, without logits for more than a tile.

    Equals `-cross_entropy(logits, targets, reduction="none")` with gradients by hidden state, matrix and bias.
    """
    every = torch.arange(len(hidden), device=hidden.device)
    return head_terms(head, hidden, read=every, targets=targets, anchored=every[:0], reference=None)[0]


def head_kl(head: Head, hidden: Float[Tensor, "tokens hidden"], reference: Reference) -> tuple[Tensor, Tensor]:
    """Return Σ KL(p_ref ‖ p_θ) over the tokens, in nats with gradient, and the KL of each token without one.

    Equals `forward_kl(logits, reference_logits)`, without logits of either model for more than a tile.
    """
    every = torch.arange(len(hidden), device=hidden.device)
    return head_terms(head, hidden, read=every[:0], targets=every[:0], anchored=every, reference=reference)[1:]


class _HeadTerms(torch.autograd.Function):
    """See `head_terms`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        read: Tensor,
        targets: Tensor,
        anchored: Tensor,
        reference: Reference | None,
        head: Head,
    ) -> tuple[Tensor, Tensor, Tensor]:
        head = head.cast()
        by_hidden, *by_head = ctx.needs_input_grad[:3]
        trains, wide = any(by_head), _wide(hidden)
        logps, kl = (hidden.new_zeros(len(places), dtype=wide) for places in (read, anchored))
        of_logps, of_kl = (hidden.new_zeros((len(places), hidden.shape[1]), dtype=wide) for places in (read, anchored))
        matrix, offset = _zeros(weight, bias, by_head) if len(anchored) else (None, None)
        for at in head.tiles(len(read)):
            logits, logps[at] = _scored(head, hidden[read[at]], targets[at])
            if by_hidden and not trains:
                of_logps[at] = head.pull(_logp_gradient_(head, logits, targets[at]))
        if reference is not None:
            reference = reference.cast(head.weight.dtype)
            for at in head.tiles(len(anchored), parts=2):
                given = hidden[anchored[at]]
                logits = head.finish_(head.raw(given))
                capped = logits.clone() if head.softcap is not None else logits
                kl[at], gradient = reference.kl_and_gradient_(at, logits)
                if by_hidden or trains:
                    gradient = head.chain_(gradient, capped)
                    of_kl[at] = head.pull(gradient)
                    _add(head, gradient, given, matrix, offset)
        ctx.form, ctx.product, ctx.given = (head.scale, head.softcap), head.weight.dtype, (hidden.shape, hidden.dtype)
        ctx.save_for_backward(
            hidden if trains else None, weight, bias, read, targets, anchored, of_logps, of_kl, matrix, offset
        )
        ctx.mark_non_differentiable(kl)
        return logps, kl.sum(), kl

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        by_logps, by_total, _ = outputs
        hidden, weight, bias, read, targets, anchored, of_logps, of_kl, matrix, offset = ctx.saved_tensors
        by_head = ctx.needs_input_grad[1:3]
        if matrix is None and offset is None:
            matrix, offset = _zeros(weight, bias, by_head)
        else:
            # In place: of a second backward through the same graph, autograd says that what it needs was modified.
            matrix, offset = (None if g is None else g.mul_(by_total.to(g.dtype)) for g in (matrix, offset))
        if any(by_head):
            head = Head(weight, bias, *ctx.form).cast(ctx.product)
            for at in head.tiles(len(read)):
                given = hidden[read[at]]
                logits, _ = _scored(head, given, targets[at])
                gradient = _logp_gradient_(head, logits, targets[at]).mul_(by_logps[at].unsqueeze(1))
                of_logps[at] = head.pull(gradient)
                _add(head, gradient, given, matrix, offset)
        else:
            of_logps = of_logps * by_logps.unsqueeze(1)
        shape, dtype = ctx.given
        slope = of_kl.new_zeros(shape).index_add_(0, read, of_logps).index_add_(0, anchored, of_kl * by_total)
        return slope.to(dtype), _as(matrix, weight), _as(offset, bias), None, None, None, None, None


def _scored(head: Head, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits of a tile, and log p(target) of its tokens."""
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


# -- gradients by part ----------------------------------------------------------------------------------------------


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.dtype


def _zeros(weight: Tensor, bias: Tensor | None, asked: Sequence[bool]) -> tuple[Tensor | None, Tensor | None]:
    """Return zeros to add to, for those of matrix and bias whose gradient is asked for."""
    matrix, offset = (
        torch.zeros_like(t, dtype=_wide(t)) if t is not None and wanted else None
        for t, wanted in zip((weight, bias), asked, strict=True)
    )
    return matrix, offset


def _add(head: Head, gradient: Tensor, hidden: Tensor, matrix: Tensor | None, offset: Tensor | None) -> None:
    """Add a tile's gradient by raw values, carried on to matrix and bias."""
    if matrix is not None:
        slopes, given = gradient.to(head.weight.dtype).T, hidden.to(head.weight.dtype)
        if matrix.dtype == given.dtype:
            torch.addmm(matrix, slopes, given, out=matrix)  # addmm_ escapes torch's FLOP counter
        else:  # a product in half precision is added by parts of the vocabulary: it would be as large as the matrix
            for at in head.parts():
                matrix[at] += slopes[at] @ given
    if offset is not None:
        offset += gradient.sum(dim=0)


def _as(gradient: Tensor | None, given: Tensor | None) -> Tensor | None:
    """Return a gradient in the precision of what it is of."""
    return gradient if gradient is None or given is None else gradient.to(given.dtype)
