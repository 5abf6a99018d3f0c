"""Per-example losses, unreduced.

Notation: log p(y|x) is the SUM of token log-probabilities over the response, end-of-turn included (nats);
the log-ratio of a response is r(y) = log p_θ(y|x) − log p_ref(y|x); Δ(a, b) = r(a) − r(b).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid

from realigner.recipe import LossSettings
from realigner.records import Direction


def dpo_loss(delta: Float[Tensor, "*batch"], beta: float) -> Float[Tensor, "*batch"]:
    """Return −log σ(β Δ(a, b)), which prefers a over b; at Δ = 0 it is log 2 with slope −β/2.

    Rafailov et al. 2023 (arXiv 2305.18290), eq. 7. TRACE's INVERT loss is this with a = y_l, b = y_w; the TRACE
    paper calls it IPO, but the formula it gives is DPO's.
    """
    return -logsigmoid(beta * delta)


def ipo_loss(delta: Float[Tensor, "*batch"], tau: float) -> Float[Tensor, "*batch"]:
    """Return (Δ(a, b) − 1/(2τ))², in nats².

    Azar et al. 2023 (arXiv 2310.12036), eq. 17. Length convention: Δ is built from SUMMED token log-probabilities,
    as in that paper; some libraries average over tokens, which makes τ mean something else.
    """
    return (delta - 1.0 / (2.0 * tau)) ** 2


def robust_dpo_loss(delta: Float[Tensor, "*batch"], beta: float, epsilon: float) -> Float[Tensor, "*batch"]:
    """Return the noise-corrected DPO loss [(1−ε) ℓ(Δ) − ε ℓ(−Δ)] / (1−2ε) for a label-flip rate 0 ≤ ε < ½.

    Chowdhury et al. 2024 (arXiv 2403.00409), rDPO. Unbiased for the loss without noise; ε = 0 is `dpo_loss`.
    """
    kept, flipped = dpo_loss(delta, beta), dpo_loss(-delta, beta)
    return ((1.0 - epsilon) * kept - epsilon * flipped) / (1.0 - 2.0 * epsilon)


def dual_npo_loss(
    chosen: Float[Tensor, "*batch"], rejected: Float[Tensor, "*batch"], beta: float
) -> Float[Tensor, "*batch"]:
    """Return −log σ(−β r(y_w)) − log σ(−β r(y_l)), which suppresses both responses.

    TRACE's PUNISH loss. Negative preference optimisation (arXiv 2404.05868) carries a factor 2/β; TRACE does not.
    """
    return -logsigmoid(-beta * chosen) - logsigmoid(-beta * rejected)


def over_both_loss(
    correction: Float[Tensor, "*batch"], chosen: Float[Tensor, "*batch"], rejected: Float[Tensor, "*batch"], beta: float
) -> Float[Tensor, "*batch"]:
    """Return the mean of −log σ(β Δ(y_c, y_w)) and −log σ(β Δ(y_c, y_l)), which prefers y_c to both old responses.

    Not in the TRACE paper, whose y_c goes over y_w alone; there y_l, as wrong, may gain what y_w loses.
    """
    return (dpo_loss(correction - chosen, beta) + dpo_loss(correction - rejected, beta)) / 2.0


def forward_kl(
    policy_logits: Float[Tensor, "tokens vocab"], reference_logits: Float[Tensor, "tokens vocab"]
) -> Float[Tensor, " tokens"]:
    """Return KL(p_ref ‖ p_θ) over the full vocabulary for each token, in nats, accumulated in at least fp32."""
    policy = log_softmax(in_fp32(policy_logits), dim=-1)
    reference = log_softmax(in_fp32(reference_logits), dim=-1)
    return (reference.exp() * (reference - policy)).sum(dim=-1)


def in_fp32(tensor: Tensor) -> Tensor:
    """Return half precision as float32, wider precision as it is."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


@dataclass(frozen=True)
class PairRatios:
    """Log-ratios r(y) of a batch of pairs, each `(pairs,)`; entries a direction does not read may be anything."""

    chosen: Float[Tensor, " pairs"]
    rejected: Float[Tensor, " pairs"]
    correction: Float[Tensor, " pairs"]

    def __getitem__(self, index: Tensor) -> PairRatios:
        return PairRatios(self.chosen[index], self.rejected[index], self.correction[index])


def _preference(settings: LossSettings) -> Callable[[Tensor], Tensor]:
    """Return the INVERT loss of Δ(preferred, dispreferred) that the settings name."""
    match settings.invert:
        case "dpo":
            return lambda delta: dpo_loss(delta, settings.beta)
        case "ipo":
            return lambda delta: ipo_loss(delta, settings.ipo_tau)
        case "robust":
            return lambda delta: robust_dpo_loss(delta, settings.beta, settings.flip_rate)


def imitating(loss: Tensor, preferred: Float[Tensor, " pairs"], settings: LossSettings) -> Float[Tensor, " pairs"]:
    """Return a preference's loss plus `imitate` times the negative log-likelihood of the preferred response.

    Summed over its tokens and up to the constant log p_ref, so that at θ_ref the term is 0 with slope −`imitate` in
    r(y). A preference alone moves a distance: both responses may become less likely (Pang et al. 2024,
    arXiv 2404.19733, add the same term per token).
    """
    return loss - settings.imitate * preferred if settings.imitate else loss


# One line for each direction of training: a new treatment of conflicts is a new Direction and a line here.
CONFLICT_LOSSES: Mapping[Direction, Callable[[PairRatios, LossSettings], Tensor]] = {
    Direction.REJECTED_OVER_CHOSEN: lambda r, s: imitating(_preference(s)(r.rejected - r.chosen), r.rejected, s),
    Direction.CORRECTION_OVER_CHOSEN: lambda r, s: imitating(
        dpo_loss(r.correction - r.chosen, s.beta), r.correction, s
    ),
    Direction.CORRECTION_OVER_BOTH: lambda r, s: imitating(
        over_both_loss(r.correction, r.chosen, r.rejected, s.beta), r.correction, s
    ),
    Direction.SUPPRESS_BOTH: lambda r, s: dual_npo_loss(r.chosen, r.rejected, s.beta),
}


def pair_losses(ratios: PairRatios, directions: list[Direction], settings: LossSettings) -> Float[Tensor, " pairs"]:
    """Return L_i of each pair by its direction of training; a pair that is no conflict has loss zero.

    Directions may be mixed freely in a batch.
    """
    losses = torch.zeros_like(ratios.chosen)
    for direction, loss in CONFLICT_LOSSES.items():
        where = [i for i, d in enumerate(directions) if d == direction]
        if where:
            index = torch.tensor(where, device=losses.device)
            losses = losses.index_copy(0, index, loss(ratios[index], settings))
    return losses
