"""One plain loop for every arm: the same batches, steps, schedule and optimizer, whatever the terms are.

It computes what `TraceTrainer` computes (a test holds TRACE's own terms against it), without checkpoints, devices or
logging, so that hundreds of small models can be trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from realigner.baselines.task import Budget
from realigner.baselines.terms import TERM_LOSSES, Term
from realigner.errors import TrainingDiverged
from realigner.losses import Denominators, forward_kl, objective
from realigner.model.head import evaluating
from realigner.model.logprobs import row_logps, scored_logits
from realigner.model.rows import Row, batches_by_length, collate
from realigner.recipe import LossSettings
from realigner.train.kl_control import KLController
from realigner.train.sampler import StratifiedSampler

CHUNK = 1200
"""Padded tokens in one forward pass: a batch is cut by length, so that little is padding. It changes no result."""
WARMUP = 0.1
"""Share of the steps with a linearly rising rate; after it a cosine falls to a hundredth of the peak."""


@dataclass
class Cost:
    """Tokens that went through a model."""

    trained: int = 0
    """Forward and backward."""
    read: int = 0
    """Forward only."""

    def flops(self, parameters: int) -> float:
        """Return the usual estimate: 6 operations a parameter and trained token, 2 a read one."""
        return parameters * (6.0 * self.trained + 2.0 * self.read)


class Training:
    """A model on its way: `run` may be called several times over one schedule, with other weights each time.

    Terms keep their places: a run goes on in the order of training where the last one stopped.
    """

    def __init__(self, model: Any, reference: Any, loss: LossSettings, budget: Budget) -> None:
        self.model, self.reference, self.loss, self.budget = model, reference, loss, budget
        self.control = KLController(loss.alpha_kl, loss.kl_budget)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=budget.learning_rate, weight_decay=0.0, foreach=True)
        self.step, self.cost, self.losses = 0, Cost(), list[float]()

    def run(self, terms: Sequence[Term], steps: int | None = None) -> None:
        """Train for some steps, by default all that are left.

        Raises:
            TrainingDiverged: a loss is not finite.
        """
        batches = _batches(terms, self.budget, self.step)
        stop = self.budget.steps if steps is None else min(self.step + steps, self.budget.steps)
        self.model.train()
        while self.step < stop:
            batch = next(batches)
            for group in self.optimizer.param_groups:
                group["lr"] = rate(self.budget, self.step)
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.value(batch)
            if not torch.isfinite(loss):
                raise TrainingDiverged(
                    f"step {self.step + 1}", "its loss is not finite", "Lower the learning rate or loss.beta"
                )
            loss.backward()  # type: ignore[no-untyped-call]
            clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.losses.append(float(loss.detach()))
            self.step += 1
            self.control.on_step_end(None, None, None)

    def value(self, batch: Sequence[Term]) -> Tensor:
        """Return the objective on a batch of terms."""
        rows = [row for term in batch for row in term.rows]
        logps = self._logps(rows)
        losses = _losses(batch, logps - logps.new_tensor([r for t in batch for r in t.reference]), self.loss)
        kl = self._kl([term.anchor for term in batch if term.anchor is not None])
        has = [bool(term.loss) for term in batch]
        confirm = logps.new_tensor([h and t.confirm for h, t in zip(has, batch, strict=True)], dtype=torch.bool)
        conflict = logps.new_tensor([h and not t.confirm for h, t in zip(has, batch, strict=True)], dtype=torch.bool)
        return objective(
            conflict_losses=losses[conflict],
            weights=logps.new_tensor([term.weight for term in batch])[conflict],
            retained_kl=kl,
            confirm_losses=losses[confirm],
            alpha_kl=self.control.alpha,
            confirm=self.loss.confirm,
            denominators=Denominators(float(conflict.sum()), float(kl.numel()), float(confirm.sum())),
        )

    def _logps(self, rows: Sequence[Row]) -> Tensor:
        """Return log p_θ of each row."""
        found = torch.zeros(len(rows))
        for indices in batches_by_length(rows, CHUNK):
            batch = collate([rows[i] for i in indices])
            self.cost.trained += int(batch.attention_mask.sum())
            found = found.index_copy(0, torch.tensor(indices), row_logps(self.model, batch))
        return found

    def _kl(self, anchors: Sequence[Row]) -> Tensor:
        """Return KL(p_ref ‖ p_θ) of each response token of the anchors, longest anchors first."""
        found = [torch.zeros(0)]
        for indices in batches_by_length(anchors, CHUNK):
            batch = collate([anchors[i] for i in indices])
            with torch.no_grad(), evaluating(self.reference):
                before = scored_logits(self.reference, batch)
            found.append(forward_kl(scored_logits(self.model, batch), before))
            tokens = int(batch.attention_mask.sum())
            self.cost.trained, self.cost.read = self.cost.trained + tokens, self.cost.read + tokens
        kl = torch.cat(found)
        self.control.step_kl = float(kl.detach().mean()) if len(kl) else 0.0
        return kl


def rate(budget: Budget, step: int) -> float:
    """Return the learning rate of a step, counted from 0."""
    warm = max(1, math.ceil(WARMUP * budget.steps))
    if step < warm:
        return budget.learning_rate * (step + 1) / warm
    along = (step - warm) / max(1, budget.steps - warm)
    return budget.learning_rate * (0.505 + 0.495 * math.cos(math.pi * along))


def _losses(batch: Sequence[Term], ratios: Tensor, settings: LossSettings) -> Tensor:
    """Return one loss a term; zero where it has none."""
    places: dict[str, list[tuple[int, list[int]]]] = {}
    at = 0
    for i, term in enumerate(batch):
        if term.loss:
            places.setdefault(term.loss, []).append((i, list(range(at, at + len(term.rows)))))
        at += len(term.rows)
    losses = ratios.new_zeros(len(batch))
    for name, found in places.items():
        index = torch.tensor([i for i, _ in found])
        losses = losses.index_copy(
            0, index, TERM_LOSSES[name](ratios[torch.tensor([rows for _, rows in found])], settings)
        )
    return losses


def _batches(terms: Sequence[Term], budget: Budget, start: int) -> Iterator[list[Term]]:
    """Yield batches for ever, in TRACE's order of training."""
    size = min(budget.batch, len(terms))
    sampler = StratifiedSampler([term.outcome for term in terms], max(size, 2), budget.seed)
    epoch, skipped = divmod(start, sampler.steps)
    while True:
        sampler.set_epoch(epoch)
        order = list(sampler)
        for at in range(skipped * sampler.batch_size, len(order), sampler.batch_size):
            yield [terms[i] for i in order[at : at + sampler.batch_size]]
        epoch, skipped = epoch + 1, 0
