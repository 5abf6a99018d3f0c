"""The losses of method.md written down once more, from probabilities and plain numbers, with no shared code."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from realigner.recipe import LossSettings
from realigner.records import Direction


def minus_log_sigmoid(x: Tensor) -> Tensor:
    return (1.0 + (-x).exp()).log()


PREFERRED = {
    Direction.REJECTED_OVER_CHOSEN: "rejected",
    Direction.CORRECTION_OVER_CHOSEN: "correction",
    Direction.CORRECTION_OVER_BOTH: "correction",
}


def naive_loss(ratios: Mapping[str, Tensor], direction: Direction, settings: LossSettings) -> Tensor:
    """Return L_i of one pair from the log-ratios r(y) of its responses."""
    loss = _preference(ratios, direction, settings)
    return loss - settings.imitate * ratios[PREFERRED[direction]] if direction in PREFERRED else loss


def _preference(ratios: Mapping[str, Tensor], direction: Direction, settings: LossSettings) -> Tensor:
    beta = settings.beta
    match direction:
        case Direction.SUPPRESS_BOTH:
            return minus_log_sigmoid(-beta * ratios["chosen"]) + minus_log_sigmoid(-beta * ratios["rejected"])
        case Direction.CORRECTION_OVER_CHOSEN:
            return minus_log_sigmoid(beta * (ratios["correction"] - ratios["chosen"]))
        case Direction.CORRECTION_OVER_BOTH:
            margins = [ratios["correction"] - ratios[old] for old in ("chosen", "rejected")]
            return (minus_log_sigmoid(beta * margins[0]) + minus_log_sigmoid(beta * margins[1])) / 2
        case Direction.REJECTED_OVER_CHOSEN:
            delta = ratios["rejected"] - ratios["chosen"]
            if settings.invert == "ipo":
                return (delta - 1.0 / (2.0 * settings.ipo_tau)) ** 2
            if settings.invert == "robust":
                e = settings.epsilon
                noisy = (1 - e) * minus_log_sigmoid(beta * delta) - e * minus_log_sigmoid(-beta * delta)
                return noisy / (1 - 2 * e)
            return minus_log_sigmoid(beta * delta)
    raise AssertionError(f"{direction} is no conflict")


def naive_kl(p: Sequence[float], q: Sequence[float]) -> float:
    """Return KL(p ‖ q) in nats of two lists of probabilities."""
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
