"""What an arm trains on: terms of an objective over responses, and the pure losses that only baselines use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from realigner.losses import dpo_loss, dual_npo_loss, ipo_loss, over_both_loss, robust_dpo_loss
from realigner.losses.pairwise import imitating
from realigner.model.rows import Row
from realigner.recipe import LossSettings


def npo_loss(ratio: Float[Tensor, "*batch"], beta: float) -> Float[Tensor, "*batch"]:
    """Return (2/β) log(1 + (p_θ/p_ref)^β), which suppresses one response; its slope at r = 0 is 1 for every β.

    Zhang et al. 2024 (arXiv 2404.05868), eq. 3.
    """
    return -(2.0 / beta) * logsigmoid(-beta * ratio)


def ascent_loss(ratio: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Return r(y): descending on it is gradient ascent on the response's negative log-likelihood. Unbounded below."""
    return ratio


def imitation_loss(ratio: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Return −r(y): cross-entropy of the response, summed over its tokens, up to the constant log p_ref."""
    return -ratio


@dataclass(frozen=True)
class Term:
    """What one pair contributes: a loss of its responses' log-ratios, an anchor for the KL, or both."""

    id: str
    outcome: str
    """For the order of training: conflicts and retained pairs meet in every step."""
    loss: str = ""
    """Key of `TERM_LOSSES`; empty where there is none."""
    rows: tuple[Row, ...] = ()
    """What the loss reads: the preferred response first where one is preferred."""
    reference: tuple[float, ...] = ()
    """log p_ref of these rows."""
    weight: float = 1.0
    anchor: Row | None = None
    """The response whose KL to the reference is taken."""
    confirm: bool = False
    """Whether the loss enters the objective as TRACE's CONFIRM term, not as a conflict."""


TermLoss = Callable[[Tensor, LossSettings], Tensor]
"""Takes log-ratios `(terms, responses)`, returns one loss a term."""

IMITATING = "-imitating"
"""Behind the name of a preference's loss: with `loss.imitate`."""
_PREFERENCES: Mapping[str, TermLoss] = {
    "dpo": lambda r, s: dpo_loss(r[:, 0] - r[:, 1], s.beta),
    "ipo": lambda r, s: ipo_loss(r[:, 0] - r[:, 1], s.ipo_tau),
    "over-both": lambda r, s: over_both_loss(r[:, 0], r[:, 1], r[:, 2], s.beta),
    "robust": lambda r, s: robust_dpo_loss(r[:, 0] - r[:, 1], s.beta, float(s.epsilon)),
}


def _imitating(loss: TermLoss) -> TermLoss:
    return lambda r, s: imitating(loss(r, s), r[:, 0], s)


TERM_LOSSES: Mapping[str, TermLoss] = {
    **_PREFERENCES,
    **{name + IMITATING: _imitating(loss) for name, loss in _PREFERENCES.items()},
    "suppress": lambda r, s: dual_npo_loss(r[:, 0], r[:, 1], s.beta),
    "npo": lambda r, s: npo_loss(r[:, 0], s.beta),
    "ascent": lambda r, _: ascent_loss(r[:, 0]),
    "imitate": lambda r, _: imitation_loss(r[:, 0]),
}
