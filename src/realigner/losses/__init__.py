"""The losses of TRACE as pure functions of log-ratios, and the one place that reduces them.

Nothing here knows a model, a tokenizer or a recipe file. See docs/losses.md for the formulas side by side.
"""

from realigner.losses.objective import Denominators, objective
from realigner.losses.pairwise import (
    PairRatios,
    dpo_loss,
    dual_npo_loss,
    forward_kl,
    ipo_loss,
    over_both_loss,
    pair_losses,
    robust_dpo_loss,
)

__all__ = [
    "Denominators",
    "PairRatios",
    "dpo_loss",
    "dual_npo_loss",
    "forward_kl",
    "ipo_loss",
    "objective",
    "over_both_loss",
    "pair_losses",
    "robust_dpo_loss",
]
