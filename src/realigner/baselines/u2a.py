"""U2A: unlearn the answers whose unlearning serves the target most, with weights that follow it (bi-level, in rounds).

Inner problem: NPO on K answers that do not comply, weighted. Outer problem: weights w on the simplex (times K, so that
their mean is 1) that lower the target loss J on a gold batch, by exponentiated gradient.

Mind the sign. An inner step moves θ by −η Σ w_i g_i, with g_i = ∇ NPO_i, so ∂J/∂w_i = −η ⟨∇J, g_i⟩: an answer is worth
unlearning where ⟨∇J, g_i⟩ is POSITIVE. At θ_ref NPO's slope in log p(y) is exactly 1, so ⟨∇J, g_i⟩ is the directional
derivative of log p(y_i) along ∇J: positive where raising y_i raises the target loss.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from realigner.baselines.arms import _non_compliant, by_answer, finish
from realigner.baselines.task import Task
from realigner.baselines.terms import Term, npo_loss
from realigner.baselines.training import Training
from realigner.impact.direction import target_gradient
from realigner.impact.gold import draw_gold
from realigner.impact.score import encode_gold
from realigner.impact.slopes import slopes_along
from realigner.model.logprobs import score_rows

ROUNDS = 3
"""Outer rounds; the answers are chosen before the first."""
KEPT = 0.5
"""K as a share of the answers that do not comply."""
STEP = 0.5
"""η of the exponentiated gradient, on scores of standard deviation 1."""


def u2a(task: Task) -> Any:
    """Train by U2A on the task; return the model."""
    task = by_answer(task)
    gold = draw_gold(task.triaged, task.impact.gold, task.budget.seed)
    pairs = encode_gold(gold.pairs, task.encoder)
    terms = [term for term in _non_compliant(task, "npo") if term.id not in gold.held_out]
    training = Training(task.load("model"), task.reference, task.loss, task.budget)
    before = score_rows(task.reference, [row for pair in pairs for row in pair]).reshape(-1, 2).tolist()
    scores = marginal_gains(training.model, terms, pairs, before, task.loss.beta)
    chosen = np.argsort(-scores, kind="stable")[: max(1, round(KEPT * len(terms)))]
    terms, scores = [terms[i] for i in chosen], scores[chosen]
    weights = np.ones(len(terms))
    for round_ in range(ROUNDS):
        if round_:
            scores = marginal_gains(training.model, terms, pairs, before, task.loss.beta)
        weights = exponentiated(weights, scores)
        weighted = [replace(term, weight=float(w)) for term, w in zip(terms, weights, strict=True)]
        left = task.budget.steps - training.step
        training.run(weighted, left // (ROUNDS - round_))
    task.facts |= {"kept": len(terms), "largest_weight": float(weights.max())}
    return finish(task, training)


def marginal_gains(model: Any, terms: list[Term], gold: Any, before: Any, beta: float) -> np.ndarray:
    """Return ⟨∇J, ∇NPO_i⟩ of each term at the model as it is: what a step of unlearning it takes off the gold loss.

    Args:
        model: on its way.
        terms: the answers, with their log p_ref.
        gold: (preferred, dispreferred) rows of J.
        before: log p_ref of each of these.
        beta: of both losses.
    """
    direction = target_gradient(model, gold, beta=beta, before=before)
    rows = [term.rows[0] for term in terms]
    ratios = score_rows(model, rows) - torch.tensor([term.reference[0] for term in terms], dtype=torch.float64)
    ratios.requires_grad_(True)
    (slopes,) = torch.autograd.grad(npo_loss(ratios, beta).sum(), ratios)
    found: np.ndarray = (slopes * slopes_along(model, direction)(rows)).numpy()
    return found


def exponentiated(weights: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Return the weights after one exponentiated-gradient step along the standardised gains; their mean is 1."""
    spread = gains.std()
    raised = weights * np.exp(STEP * (gains - gains.mean()) / spread) if spread > 0 else weights
    return np.asarray(raised / raised.mean())
