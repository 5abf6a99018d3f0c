"""Sums behind the per-class metrics, added up over micro-batches and ranks and read as means."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from realigner.losses import PairRatios
from realigner.model.encoded import RESPONSES
from realigner.records import Direction, Outcome

_CLASSES = (Outcome.INVERT, Outcome.PUNISH, Outcome.CONFIRM, Outcome.NEUTRAL)
_KINDS = ("loss", "margin", "accuracy", *(f"{name}_logp_change" for name in RESPONSES), "kl")
NAMES = ("kl", *(f"{outcome}/{kind}" for outcome, kind in product(_CLASSES, _KINDS)))
# Which response training prefers and which it disfavours, as columns of (chosen, rejected, correction).
_MARGINS = {
    Direction.REJECTED_OVER_CHOSEN: (1, 0),
    Direction.CORRECTION_OVER_CHOSEN: (2, 0),
    Direction.CORRECTION_OVER_BOTH: (2, 0),  # over the old choice; so it can be compared with the line above
    Direction.RETAIN: (0, 1),
}


class Metrics:
    """Running sum and count of each metric, in float64 on the CPU."""

    def __init__(self) -> None:
        self.sums = torch.zeros(len(NAMES), 2, dtype=torch.float64)

    def add(self, name: str, values: Tensor) -> None:
        """Add values to a metric."""
        self.sums[NAMES.index(name)] += torch.tensor([float(values.double().sum()), values.numel()])

    def add_pairs(
        self, ratios: PairRatios, read: Tensor, losses: Tensor, directions: list[str], outcomes: list[str]
    ) -> None:
        """Add what a batch's log-ratios say: losses, margins (nats), their sign, and log-prob movement by response.

        Args:
            ratios: r(y) of each pair.
            read: `(pairs, 3)`, which of them a loss reads; a pair of which none is read has no loss.
            losses: unreduced, unweighted loss of each pair.
            directions: of each pair.
            outcomes: of each pair.
        """
        columns = torch.stack([ratios.chosen, ratios.rejected, ratios.correction], dim=1).detach().cpu()
        read, losses = read.cpu(), losses.detach().cpu()
        for i in read.any(dim=1).nonzero()[:, 0].tolist():
            outcome, direction = outcomes[i], Direction(directions[i])
            self.add(f"{outcome}/loss", losses[i])
            for k in read[i].nonzero()[:, 0].tolist():
                self.add(f"{outcome}/{RESPONSES[k]}_logp_change", columns[i, k])
            if direction in _MARGINS:
                preferred, other = _MARGINS[direction]
                margin = columns[i, preferred] - columns[i, other]
                self.add(f"{outcome}/margin", margin)
                self.add(f"{outcome}/accuracy", margin > 0)

    def add_kl(self, kl: Tensor, row: Tensor, chosen_row: Tensor, outcomes: list[str]) -> None:
        """Add the KL (nats) of retained tokens.

        Args:
            kl: of each retained response token.
            row: the row in which each of them is.
            chosen_row: the row of each pair's y_w.
            outcomes: of each pair.
        """
        kl, row, chosen_row = kl.detach().cpu(), row.cpu(), chosen_row.cpu()
        self.add("kl", kl)
        for outcome in {name for name in outcomes if Outcome(name).is_retained}:
            self.add(f"{outcome}/kl", kl[torch.isin(row, chosen_row[[name == outcome for name in outcomes]])])

    def means(self, sums: Tensor | None = None) -> dict[str, float]:
        """Return the mean of every metric that has values; `sums` overrides this rank's by those of all ranks."""
        sums = self.sums if sums is None else sums
        return {name: float(s / n) for name, (s, n) in zip(NAMES, sums, strict=True) if n > 0}
