"""Whether impact weights predict what they claim to: the true marginal gain of each sample.

The true gain of conflict i is what one plain gradient step on L_i takes off the gold loss, measured, not linearised,
on gold pairs that no score has seen. It is compared with the scores by Spearman's rank correlation.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from realigner.baselines.task import Task
from realigner.impact.direction import target_gradient
from realigner.impact.gold import GoldBatch, draw_gold
from realigner.impact.score import curvature_rank, encode_gold, weigh
from realigner.impact.vectors import gradients, norm
from realigner.lab.aligned import MODEL, LabSettings
from realigner.lab.experiment import Setting, load_models, make_task
from realigner.losses import PairRatios, dpo_loss, pair_losses
from realigner.model.encoded import encode_triaged, row_of
from realigner.model.head import evaluating
from realigner.model.logprobs import row_logps, score_rows
from realigner.model.rows import Row, collate
from realigner.records import Direction, TriagedPair

SAMPLES = 200
TRUE_GOLD = 48
"""Gold pairs on which true gains are measured, apart from the batch that the scores use."""
STEP = 0.02
"""Length of the step on one sample, in units of the parameters; the gradient's own size is kept."""
VARIANTS: dict[str, dict[str, Any]] = {
    "identity": {},
    "cosine": {"score": "cosine"},
    "per_token": {"score": "per_token"},
    "paper-gold": {"gold": "paper"},
    "diagonal": {"preconditioner": "diagonal"},
    "cg": {"preconditioner": "cg"},
}


def run_marginal(cache: str, lab: LabSettings, shift: str, seed: int, setting: Setting) -> dict[str, Any]:
    """Return Spearman's correlation of each variant's scores with the true marginal gains, overall and by class."""
    from scipy.stats import spearmanr

    models = load_models(cache, lab)
    task = make_task(models, shift, seed, setting, 0.0, lab.size.context)
    model = copy.deepcopy(models[MODEL]).requires_grad_(True)
    # Three parts without a pair in common: the gold of the truth, the gold of the scores, and what is scored.
    unseen = _gold(task, task.triaged, "corrected", TRUE_GOLD, seed + 1)
    left = [t for t in task.triaged if t.pair.id not in unseen.held_out]
    golds = {kind: _gold(task, left, kind, task.impact.gold.size, seed) for kind in ("corrected", "paper")}
    left = [t for t in left if not any(t.pair.id in gold.held_out for gold in golds.values())]
    conflicts = list(encode_triaged((t for t in left if t.outcome.is_conflict), task.encoder))
    samples = sorted(conflicts, key=lambda e: curvature_rank(e["id"], seed))[:SAMPLES]
    gains = true_gains(model, samples, encode_gold(unseen.pairs, task.encoder), task)
    classes = np.array([e["outcome"] for e in samples])
    found: dict[str, Any] = {}
    for name, changes in VARIANTS.items():
        impact = task.impact.model_copy(update={k: v for k, v in changes.items() if k != "gold"})
        gold = encode_gold(golds[changes.get("gold", "corrected")].pairs, task.encoder)
        retained = _retained(task, left, impact.fisher_rows, seed)
        weights, _ = weigh(model, gold, samples, retained, impact, task.loss, seed=seed)
        scores = weights.scores.values
        parts = {"all": np.full(len(samples), True)} | {c: classes == c for c in np.unique(classes)}
        found[name] = {
            str(part): float(spearmanr(scores[where], gains[where]).statistic)
            for part, where in parts.items()
            if where.sum() > 2
        }
    return {"spearman": found, "samples": len(samples), "positive_gains": float((gains > 0).mean())}


def _gold(task: Task, triaged: Sequence[TriagedPair], kind: str, size: int, seed: int) -> GoldBatch:
    return draw_gold(triaged, task.impact.gold.model_copy(update={"kind": kind, "size": size}), seed)


def _retained(task: Task, triaged: Sequence[TriagedPair], count: int, seed: int) -> list[Row]:
    items = sorted((t for t in triaged if t.outcome.is_retained), key=lambda t: curvature_rank(t.pair.id, seed))
    return [row_of(e, "chosen") for e in encode_triaged(items[:count], task.encoder)]


def true_gains(model: Any, samples: list[dict[str, Any]], gold: list[tuple[Row, Row]], task: Task) -> np.ndarray:
    """Return how much a plain gradient step on each sample alone takes off the loss on gold pairs.

    One rate serves all samples: that at which a gradient of the gold loss's own size would move the parameters by
    `STEP` times their norm. The parameters are put back after each.
    """
    parameters = dict(model.named_parameters())
    start = {name: p.detach().clone() for name, p in parameters.items()}
    size = norm(start) / max(norm(target_gradient(model, gold, beta=task.loss.beta)), 1e-12)
    rate = STEP * size / 10
    before = gold_loss(model, gold, task)
    gains = np.zeros(len(samples))
    for i, example in enumerate(samples):
        with evaluating(model):
            gradient = gradients(_own_loss(model, example, task), model)
        with torch.no_grad():
            for name, p in parameters.items():
                p -= rate * gradient[name]
            gains[i] = before - gold_loss(model, gold, task)
            for name, p in parameters.items():
                p.copy_(start[name])
    return gains


def gold_loss(model: Any, gold: list[tuple[Row, Row]], task: Task) -> float:
    """Return the mean preference loss on gold pairs, with M_ref as reference."""
    rows = [row for pair in gold for row in pair]
    if "gold" not in task.facts:
        task.facts["gold"] = score_rows(task.reference, rows)
    ratios = (score_rows(model, rows) - task.facts["gold"]).reshape(-1, 2)
    return float(dpo_loss(ratios[:, 0] - ratios[:, 1], task.loss.beta).mean())


def _own_loss(model: Any, example: dict[str, Any], task: Task) -> torch.Tensor:
    """Return L_i at the reference, with its gradient."""
    names = [name for name in ("chosen", "rejected", "correction") if example[f"{name}_ids"] is not None]
    logps = row_logps(model, collate([row_of(example, name) for name in names]))
    ratios = {name: (logps[i] - logps[i].detach()).reshape(1) for i, name in enumerate(names)}
    ratios.setdefault("correction", torch.zeros(1))
    return pair_losses(PairRatios(**ratios), [Direction(example["direction"])], task.loss).sum()
