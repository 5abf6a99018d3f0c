"""The objective of TRACE written down once more: one response at a time, without batches, masks or shared code."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Logits = Callable[[list[int]], Tensor]
"""From the tokens of one row to the logits at each of them."""


def logits_of(model: Any) -> Logits:
    return lambda ids: model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def reference_of(trainer: Any) -> Logits:
    """Return the frozen reference of a trainer as a function."""

    @torch.no_grad()
    def logits(ids: list[int]) -> Tensor:
        if trainer.reference is not None:
            return logits_of(trainer.reference)(ids)
        with trainer.model.disable_adapter():
            return logits_of(trainer.model)(ids)

    return logits


@dataclass
class Naive:
    """What the formulas give for some pairs."""

    conflicts: list[Tensor] = field(default_factory=list)
    """w_i L_i."""
    confirms: list[Tensor] = field(default_factory=list)
    token_kl: list[Tensor] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)

    def objective(self, *, alpha_kl: float, confirm: float) -> Tensor:
        """L = (1/W) Σ w_i L_i + α_KL · mean KL + confirm · mean old preference loss."""
        total = torch.zeros((), dtype=torch.float64)
        for terms, factor in ((self.conflicts, 1.0), (self.token_kl, alpha_kl), (self.confirms, confirm)):
            if terms:
                total = total + factor * torch.stack(terms).sum() / len(terms)
        return total

    def means(self) -> dict[str, float]:
        return {name: math.fsum(values) / len(values) for name, values in self.metrics.items()}

    def note(self, name: str, value: Tensor) -> None:
        self.metrics.setdefault(name, []).append(float(value.detach()))


def naive(
    model: Logits,
    reference: Logits,
    examples: Iterable[Mapping[str, Any]],
    *,
    beta: float,
    imitate: float = 0.0,
    confirm: bool = False,
    weighted: bool = True,
) -> Naive:
    """Apply the formulas of the default losses to encoded pairs, one after the other."""
    found = Naive()
    for example in examples:
        outcome, direction = example["outcome"], example["direction"]

        def ratio(name: str, example: Mapping[str, Any] = example, outcome: str = outcome) -> Tensor:
            ids, start = example[f"{name}_ids"], example[f"{name}_start"]
            r = _logp(model, ids, start) - _logp(reference, ids, start)
            found.note(f"{outcome}/{name}_logp_change", r)
            return r

        loss, margin, preferred = None, None, None
        if direction == "rejected_over_chosen":
            preferred = ratio("rejected")
            margin = preferred - ratio("chosen")
        elif direction == "correction_over_chosen":
            preferred = ratio("correction")
            margin = preferred - ratio("chosen")
        elif direction == "correction_over_both":
            preferred = ratio("correction")
            margin = preferred - ratio("chosen")
            loss = (-_log_sigmoid(beta * margin) - _log_sigmoid(beta * (preferred - ratio("rejected")))) / 2
        elif direction == "suppress_both":
            loss = torch.stack([-_log_sigmoid(-beta * ratio(name)) for name in ("chosen", "rejected")]).sum()
        elif outcome == "CONFIRM" and confirm:
            margin = ratio("chosen") - ratio("rejected")
        if margin is not None:
            loss = -_log_sigmoid(beta * margin) if loss is None else loss
            if preferred is not None:
                loss = loss - imitate * preferred
            found.note(f"{outcome}/margin", margin)
            found.note(f"{outcome}/accuracy", margin > 0)
        if loss is not None:
            found.note(f"{outcome}/loss", loss)
            weight = example["weight"] if weighted else 1.0
            (found.confirms if direction == "retain" else found.conflicts).append(weight * loss)
        if direction == "retain":
            for kl in _kl(model, reference, example["chosen_ids"], example["chosen_start"]):
                found.token_kl.append(kl)
                found.note(f"{outcome}/kl", kl)
                found.note("kl", kl)
    return found


def gradient(objective: Tensor, model: torch.nn.Module) -> dict[str, Tensor]:
    """Return ∂ objective / ∂ θ without touching `.grad`."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(objective, list(named.values()))
    return dict(zip(named, grads, strict=True))


def _logp(logits: Logits, ids: list[int], start: int) -> Tensor:
    """log p(y|x): the sum of the log-probabilities of ids[start:]."""
    at = logits(ids).double()
    return torch.stack([(at[t - 1] - torch.logsumexp(at[t - 1], 0))[ids[t]] for t in range(start, len(ids))]).sum()


def _kl(model: Logits, reference: Logits, ids: list[int], start: int) -> list[Tensor]:
    """KL(p_ref ‖ p_θ) at each response token."""
    q, p = model(ids).double(), reference(ids).double()
    found = []
    for t in range(start - 1, len(ids) - 1):
        log_q, log_p = q[t] - torch.logsumexp(q[t], 0), p[t] - torch.logsumexp(p[t], 0)
        found.append((log_p.exp() * (log_p - log_q)).sum())
    return found


def _log_sigmoid(x: Tensor) -> Tensor:
    return -torch.log1p(torch.exp(-x))
