"""Impact weights: coefficients from the pure losses, scores from directional derivatives, then clamp and normalise.

At θ_ref the gradient of a pair's loss is g_i = Σ_y (∂L_i/∂ log p(y)) ∇ log p(y), hence
w_i = ⟨P g_J, g_i⟩ = Σ_y (∂L_i/∂ log p(y)) · s(y). One scalar s(y) per response serves every loss type; the
coefficients come from autograd of the loss function itself, so a new loss needs no code here.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch

from realigner import ranks
from realigner.columns import Ids, Outcomes
from realigner.errors import WeightsError
from realigner.impact.direction import gradient_norms
from realigner.impact.slopes import Slopes
from realigner.losses.pairwise import CONFLICT_LOSSES, PairRatios, pair_losses
from realigner.model.encoded import RESPONSES, responses_read, row_of
from realigner.progress import SILENT, Progress
from realigner.recipe import ImpactSettings, LossSettings
from realigner.records import Direction, Outcome, Weight

_CHUNK = 256


def coefficients(direction: Direction, loss: LossSettings) -> dict[str, float]:
    """Return ∂L_i/∂ log p(y) at θ_ref for each response the loss reads, by autograd of the loss.

    For DPO-form INVERT: −β/2 on y_l and +β/2 on y_w; dual NPO: +β/2 on both.
    """
    ratios = {name: torch.zeros(1, dtype=torch.float64, requires_grad=True) for name in RESPONSES}
    value = pair_losses(PairRatios(**ratios), [direction], loss).sum()
    found = torch.autograd.grad(value, list(ratios.values()), allow_unused=True)
    read = responses_read(direction, Outcome.UNDECIDED, confirm=False)
    return {name: float(g) for name, g in zip(ratios, found, strict=True) if name in read and g is not None}


@dataclass(frozen=True)
class Scores:
    """Raw scores of conflicts, in their order."""

    ids: Sequence[str]
    outcomes: Sequence[str]
    values: np.ndarray
    tokens: np.ndarray
    """Scored tokens of the responses the loss reads."""


def score_conflicts(
    slopes: Slopes,
    conflicts: Iterable[Mapping[str, Any]],
    impact: ImpactSettings,
    loss: LossSettings,
    *,
    total: int | None = None,
    progress: Progress = SILENT,
) -> Scores:
    """Return w_i of each conflict (encoded pairs, streamed) along v = P g_J, before clamping.

    `dot` is the paper's; `per_token` divides s(y) by the response's scored tokens; `cosine` divides by ‖v‖ ‖g_i‖.
    """
    by_direction = {d: coefficients(d, loss) for d in CONFLICT_LOSSES}
    scale = slopes.scale if impact.score == "cosine" else 1.0
    ids, outcomes = Ids(), Outcomes()
    values, tokens = array("d"), array("q")  # a number of Python's takes four times the memory
    stream = iter(conflicts)
    with progress.task("impact scores", total) as advance:
        while chunk := list(islice(stream, _CHUNK * ranks.shares())):
            terms = [
                [(c, row_of(example, name)) for name, c in by_direction[Direction(example["direction"])].items()]
                for example in chunk
            ]
            rows = [row for pair in terms for _, row in pair]
            found = iter(slopes(rows).tolist())
            norms = gradient_norms(slopes.model, terms).tolist() if impact.score == "cosine" else [1.0] * len(chunk)
            for pair, own_norm in zip(terms, norms, strict=True):
                lengths = [row.response_tokens if impact.score == "per_token" else 1 for _, row in pair]
                score = sum(c * next(found) / n for (c, _), n in zip(pair, lengths, strict=True))
                values.append(score / (scale * own_norm) if scale * own_norm > 0 else 0.0)
                tokens.append(sum(row.response_tokens for _, row in pair))
            ids.extend(example["id"] for example in chunk)
            outcomes.extend(example["outcome"] for example in chunk)
            advance(len(chunk))
    return Scores(ids, outcomes, np.asarray(values), np.asarray(tokens))


@dataclass(frozen=True)
class ClassDiagnostics:
    """What became of one class of conflicts."""

    n: int
    clamped_share: float
    """Share of pairs whose score was not positive and whose weight is therefore zero."""
    mean: float
    max: float
    effective_sample_size: float
    """(Σw)²/Σw²: how many equally weighted pairs carry as much."""
    length_correlation: float | None
    """Spearman correlation of score and scored tokens; None where it is undefined."""


@dataclass(frozen=True)
class Weights:
    """Weights in the order of the scores, and what there is to know about them."""

    scores: Scores
    values: np.ndarray
    classes: dict[str, ClassDiagnostics]
    warnings: list[str] = field(default_factory=list)

    def rows(self) -> Iterable[Weight]:
        """Yield one record a conflict."""
        columns = zip(self.scores.ids, self.scores.outcomes, self.scores.values, self.values, strict=True)
        for id_, outcome, score, weight in columns:
            yield Weight(id_, Outcome(outcome), float(score), float(weight), bool(score <= 0.0))

    def facts(self) -> dict[str, Any]:
        """Return the diagnostics as plain data."""
        return {"classes": {k: asdict(v) for k, v in self.classes.items()}, "warnings": self.warnings}


def normalise(scores: Scores, settings: ImpactSettings) -> Weights:
    """Clamp negative scores to zero and scale what is left.

    `mean` (default): mean 1 over the conflicts, zeros included, so that α_KL keeps its meaning. `sum`: the paper's,
    which shrinks the conflict loss to 1/N of it. `none`: as they are. With `per_class`, each class by itself.

    Raises:
        WeightsError: no score is positive, or a score is not finite.
    """
    if not np.all(np.isfinite(scores.values)):
        bad = [scores.ids[i] for i in np.flatnonzero(~np.isfinite(scores.values))[:5]]
        raise WeightsError(
            f"impact scores of {', '.join(bad)}", "they are not finite", "Check the model, or use dtype float32"
        )
    clamped = np.maximum(scores.values, 0.0)
    if not clamped.any():
        raise WeightsError(
            f"impact weights of all {len(scores.ids)} conflicts",
            "every score is zero or negative, so nothing would be trained",
            "Use another gold batch (impact.gold.kind: corrected or file), or impact.weighting: uniform",
        )
    values = clamped
    for group in _classes(scores).values() if settings.per_class else [np.full(len(values), True)]:
        total = values[group].sum()
        if settings.normalize != "none" and total > 0:
            values[group] = values[group] / total * (group.sum() if settings.normalize == "mean" else 1.0)
    classes = _diagnostics(scores, values)
    return Weights(scores, values, classes, _warnings(classes))


def uniform(conflicts: Iterable[Mapping[str, Any]]) -> Weights:
    """Return weight 1 for every conflict (encoded pairs, streamed): the control."""
    ids, outcomes, tokens = Ids(), Outcomes(), array("q")
    for example in conflicts:
        read = responses_read(Direction(example["direction"]), Outcome(example["outcome"]), confirm=False)
        ids.extend([example["id"]])
        outcomes.extend([example["outcome"]])
        tokens.append(sum(row_of(example, name).response_tokens for name in read))
    ones = np.ones(len(ids))
    scores = Scores(ids, outcomes, ones, np.asarray(tokens))
    return Weights(scores, ones, _diagnostics(scores, ones))


def _classes(scores: Scores) -> dict[str, np.ndarray]:
    """Return which scores are of each outcome that occurs."""
    outcomes = Outcomes(scores.outcomes)
    return {name: outcomes.are(name) for name in outcomes.counts()}


def _diagnostics(scores: Scores, values: np.ndarray) -> dict[str, ClassDiagnostics]:
    return {name: _diagnose(scores, values, group) for name, group in _classes(scores).items()}


def _diagnose(scores: Scores, values: np.ndarray, group: np.ndarray) -> ClassDiagnostics:
    from scipy.stats import spearmanr

    weights, lengths, raw = values[group], scores.tokens[group], scores.values[group]
    squares = float((weights**2).sum())
    varied = len(np.unique(lengths)) > 1 and len(np.unique(raw)) > 1
    return ClassDiagnostics(
        n=int(group.sum()),
        clamped_share=float((raw <= 0.0).mean()),
        mean=float(weights.mean()),
        max=float(weights.max()),
        effective_sample_size=float(weights.sum()) ** 2 / squares if squares else 0.0,
        length_correlation=float(spearmanr(raw, lengths).statistic) if varied else None,
    )


def _warnings(classes: Mapping[str, ClassDiagnostics]) -> list[str]:
    return [
        f"{name}: {found.clamped_share:.0%} of its {found.n} pairs have no positive impact score and are NOT trained "
        "on. The gold batch points away from them: try impact.gold.kind corrected or file, impact.per_class, or "
        "impact.weighting uniform."
        for name, found in classes.items()
        if found.clamped_share > 0.5
    ]
