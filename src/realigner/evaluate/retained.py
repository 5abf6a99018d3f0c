"""What had to stay: KL from the model before and perplexity on held-out retained responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from realigner import ranks
from realigner.evaluate.statistics import Interval, ratio_interval
from realigner.losses import forward_kl
from realigner.model.head import Head, evaluating, head_agrees, through_head
from realigner.model.head_terms import HiddenReference, head_kl, head_logps
from realigner.model.logprobs import SCORING_TOKENS, scored_logits, sum_by_row, token_logps
from realigner.model.rows import Row, RowBatch, batches_by_length, collate
from realigner.model.sharded import dealt
from realigner.progress import SILENT, Progress


@dataclass(frozen=True)
class Retained:
    """Sums over the response tokens of each row, in nats, and the number of those tokens."""

    kl: np.ndarray
    before: np.ndarray
    after: np.ndarray
    tokens: np.ndarray

    def kl_per_token(self, seed: int) -> Interval | None:
        """Return mean KL(p_before ‖ p_after) in nats per token."""
        return ratio_interval(self.kl, self.tokens, seed)

    def perplexity(self, side: str, seed: int) -> Interval | None:
        """Return exp of the mean negative log-probability per token, `before` or `after`."""
        logps = self.before if side == "before" else self.after
        return ratio_interval(-logps, self.tokens, seed, np.exp)


@torch.no_grad()
def compare_on_rows(
    before: Any, after: Any, rows: Sequence[Row], *, max_tokens: int = SCORING_TOKENS, progress: Progress = SILENT
) -> Retained:
    """Run two models over the same responses; full-vocabulary KL, logits for a tile of tokens where heads allow."""
    sums = np.zeros((3, len(rows)))
    device = next(before.parameters()).device
    terms = _tiled_terms if head_agrees(before) and head_agrees(after) else _whole_terms
    with evaluating(before), evaluating(after), progress.task("KL and perplexity", len(rows)) as advance:
        for indices, counts in dealt(list(batches_by_length(rows, max_tokens)), before, after):
            batch = collate([rows[i] for i in indices]).to(device)
            values = terms(before, after, batch)
            if counts:
                sums[:, indices] = torch.stack([sum_by_row(v, batch) for v in values]).double().cpu().numpy()
            advance(len(indices))
    tokens = np.array([row.response_tokens for row in rows], dtype=float)
    kl, old_logps, new_logps = ranks.add_up(torch.from_numpy(sums)).numpy()
    return Retained(kl, old_logps, new_logps, tokens)


def _tiled_terms(before: Any, after: Any, batch: RowBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Return KL(p_before ‖ p_after), log p_before and log p_after of each scored token."""
    found: list[tuple[Head, Tensor]] = []

    def work(head: Head, hidden: Tensor) -> Tensor:
        found.append((head, hidden))
        return hidden[:, :1]

    for model in (before, after):
        through_head(model, batch, work)
    (old, old_hidden), (new, new_hidden) = found
    _, kl = head_kl(new, new_hidden, HiddenReference(old, old_hidden))
    return kl, head_logps(old, old_hidden, batch.targets), head_logps(new, new_hidden, batch.targets)


def _whole_terms(before: Any, after: Any, batch: RowBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same from whole logits."""
    old, new = scored_logits(before, batch), scored_logits(after, batch)
    return forward_kl(new, old), token_logps(old, batch), token_logps(new, batch)
