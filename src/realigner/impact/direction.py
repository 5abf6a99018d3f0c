"""The direction v along which impact is measured, and what needs a gradient of the model to find or scale it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from realigner import ranks
from realigner.impact.vectors import Vector, accumulate, device, gradients, norm, trainable, zeros
from realigner.losses import dpo_loss
from realigner.model.attention import dual, packing, unpack
from realigner.model.head import evaluating
from realigner.model.logprobs import row_logps, scored_logits
from realigner.model.packing import PackedBatch
from realigner.model.products import WithoutZeros
from realigner.model.rows import Row, collate
from realigner.model.sharded import is_sharded
from realigner.progress import SILENT, Progress


def target_gradient(
    model: Any,
    gold: Sequence[tuple[Row, Row]],
    *,
    beta: float,
    before: Sequence[Sequence[float]] | None = None,
    progress: Progress = SILENT,
) -> Vector:
    """Return g_J = ∇θ of the mean preference loss on the gold batch (Algorithm 2 of TRACE), in fp32 or wider.

    Args:
        model: at its reference state, or on its way; dropout is switched off here.
        gold: (preferred, dispreferred) rows.
        beta: DPO's β. At θ_ref it only scales the vector: both normalisations of the weights cancel it.
        before: log p_ref of each pair's rows, in nats. None: the model is the reference.
        progress: where to show how far it is.
    """
    total = zeros(model)
    # Backward passes of a sharded model add up over processes: all take all pairs.
    given: Sequence[Sequence[float] | None] = [None] * len(gold) if before is None else before
    pairs = list(zip(gold, given, strict=True))
    mine = pairs if is_sharded(model) else ranks.share(pairs)
    with evaluating(model), progress.task("gold gradient", len(mine)) as advance:
        for rows, reference in mine:
            logps = row_logps(model, collate(rows).to(device(model)))
            # At θ_ref r(y) is zero, with the gradient of log p.
            ratios = logps - (logps.detach() if reference is None else logps.new_tensor(reference))
            loss = dpo_loss(ratios[0] - ratios[1], beta) / len(gold)
            accumulate(total, gradients(loss, model))
            advance(1)
    return total if is_sharded(model) else {name: ranks.add_up(value) for name, value in total.items()}


def logit_tangents(model: Any, batch: PackedBatch, direction: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return logits of scored tokens and their derivative along the direction, both `(tokens, vocab)`."""
    with evaluating(model), packing(model), WithoutZeros(), torch.no_grad(), forward_ad.dual_level():
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
    sharded, places = is_sharded(model), range(len(combinations))
    with evaluating(model):
        for i in places if sharded else ranks.share(places):
            terms = combinations[i]
            batch = collate([row for _, row in terms]).to(device(model))
            logps = row_logps(model, batch)
            coefficients = torch.tensor([c for c, _ in terms], dtype=logps.dtype, device=logps.device)
            gradient = gradients((coefficients * logps).sum(), model)
            norms[i] = norm(gradient)
    return norms if sharded else ranks.add_up(norms)
