"""The direction v along which impact is measured, and derivatives of log-probabilities along it.

s(y) = d/dε log p_{θ+εv}(y|x) at ε = 0 is one number per response, from one forward pass in forward-mode automatic
differentiation: no per-sample gradient is formed, nothing is kept for a backward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from realigner.impact.vectors import Vector, accumulate, device, gradients, norm, trainable, zeros
from realigner.losses import dpo_loss
from realigner.model.attention import dual, packing, unpack
from realigner.model.logprobs import (
    SCORING_TOKENS,
    evaluating,
    row_logps,
    scored_logits,
    sum_by_row,
    token_logps,
)
from realigner.model.packing import PackedBatch, bins, pack
from realigner.model.rows import Row, collate
from realigner.progress import SILENT, Progress


def target_gradient(model: Any, gold: Sequence[tuple[Row, Row]], *, beta: float, progress: Progress = SILENT) -> Vector:
    """Return g_J = ∇θ of the mean preference loss on the gold batch, at θ_ref (Algorithm 2 of TRACE), in fp32 or wider.

    Args:
        model: the model at its reference state; dropout is switched off here.
        gold: (preferred, dispreferred) rows.
        beta: DPO's β. At θ_ref it only scales the vector: both normalisations of the weights cancel it.
        progress: where to show how far it is.
    """
    total = zeros(model)
    with evaluating(model), progress.task("gold gradient", len(gold)) as advance:
        for preferred, dispreferred in gold:
            logps = row_logps(model, collate([preferred, dispreferred]).to(device(model)))
            ratios = logps - logps.detach()  # r(y) at θ_ref: zero, with the gradient of log p
            loss = dpo_loss(ratios[0] - ratios[1], beta) / len(gold)
            accumulate(total, gradients(loss, model))
            advance(1)
    return total


def directional_derivatives(
    model: Any,
    rows: Sequence[Row],
    direction: Mapping[str, Tensor],
    *,
    max_tokens: int = SCORING_TOKENS,
) -> Float[Tensor, " rows"]:
    """Return s(y) of each row along the direction, float64 on the CPU, exact up to rounding.

    Independent of batching, order and padding. Linear in the direction, which is scaled to norm 1 for the pass and
    back after it, so that small gradients do not underflow in half precision.
    """
    scale = norm(direction)
    result = torch.zeros(len(rows), dtype=torch.float64)
    if scale == 0.0:
        return result
    unit = {name: (direction[name] / scale).to(parameter.dtype) for name, parameter in trainable(model).items()}
    with evaluating(model), packing(model), torch.no_grad():
        for indices in bins(rows, max_tokens):
            batch = pack([rows[i] for i in indices]).to(device(model))
            with forward_ad.dual_level():
                logits = _dual_logits(model, batch, unit)
                _, tangent = unpack(sum_by_row(token_logps(logits, batch), batch))
            if tangent is not None:  # None: log p does not depend on any of these parameters
                result[indices] = tangent.cpu().double() * scale
    return result


def logit_tangents(model: Any, batch: PackedBatch, direction: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return logits of scored tokens and their derivative along the direction, both `(tokens, vocab)`."""
    with evaluating(model), packing(model), torch.no_grad(), forward_ad.dual_level():
        logits, tangents = unpack(_dual_logits(model, batch, direction))
        return logits, torch.zeros_like(logits) if tangents is None else tangents


def _dual_logits(model: Any, batch: PackedBatch, direction: Mapping[str, Tensor]) -> Tensor:
    duals = {
        name: dual(parameter.detach(), direction[name].to(parameter.dtype))
        for name, parameter in trainable(model).items()
    }
    return scored_logits(lambda **inputs: torch.func.functional_call(model, duals, (), inputs), batch)


def gradient_norms(model: Any, combinations: Sequence[Sequence[tuple[float, Row]]]) -> Float[Tensor, " pairs"]:
    """Return ‖Σ c ∇ log p(y)‖ of each combination of rows, by one backward pass each: for the cosine option only."""
    norms = torch.zeros(len(combinations), dtype=torch.float64)
    with evaluating(model):
        for i, terms in enumerate(combinations):
            batch = collate([row for _, row in terms]).to(device(model))
            logps = row_logps(model, batch)
            coefficients = torch.tensor([c for c, _ in terms], dtype=logps.dtype, device=logps.device)
            gradient = gradients((coefficients * logps).sum(), model)
            norms[i] = norm(gradient)
    return norms
