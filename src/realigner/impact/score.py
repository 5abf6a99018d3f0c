"""From gold pairs and conflicts to weights: the few steps of stage 3 in their order."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from realigner.errors import GoldError, ModelError
from realigner.impact.curvature import precondition
from realigner.impact.direction import target_gradient
from realigner.impact.gold import GoldBatch, GoldPair, draw_gold
from realigner.impact.slopes import choose
from realigner.impact.vectors import norm, trainable
from realigner.impact.weights import Weights, normalise, score_conflicts, uniform
from realigner.model.chat import Encoder
from realigner.model.encoded import encode_triaged, row_of
from realigner.model.load import context_of, forget_padding_index
from realigner.model.rows import Row
from realigner.model.sharded import is_sharded
from realigner.progress import SILENT, Progress
from realigner.recipe import ImpactSettings, LossSettings, TextSettings
from realigner.records import TriagedPair, text_hash

logger = logging.getLogger(__name__)

PROBE = 2
"""Gold pairs on which the way of scoring is compared with a gradient per response."""


def encode_gold(gold: Sequence[GoldPair], encoder: Encoder) -> list[tuple[Row, Row]]:
    """Return (preferred, dispreferred) rows of each gold pair.

    Raises:
        GoldError: none of them fits the context.
    """
    rows = []
    for pair in gold:
        texts = {"preferred": pair.preferred, "dispreferred": pair.dispreferred}
        if (encoded := encoder.encode(pair.id, pair.prompt, texts)) is not None:
            rows.append((encoded["preferred"], encoded["dispreferred"]))
    if dropped := len(gold) - len(rows):
        logger.warning("%d of %d gold pairs do not fit the text limits and are left out", dropped, len(gold))
    if not rows:
        raise GoldError(f"all {len(gold)} gold pairs", "none fits into the model's context", "Raise text.max_length")
    return rows


def weigh(
    model: Any,
    gold: Sequence[tuple[Row, Row]],
    conflicts: Iterable[Mapping[str, Any]],
    retained: Sequence[Row],
    impact: ImpactSettings,
    loss: LossSettings,
    *,
    seed: int,
    total: int | None = None,
    progress: Progress = SILENT,
) -> tuple[Weights, dict[str, Any]]:
    """Return the weights of the conflicts and facts about the direction they were measured along.

    Inside `ranks.together` every process calls with the same arguments and gets the same weights. Their models are
    equal, or one model that `fully_shard` has spread over them.

    Args:
        model: at its reference state, with the parameters that will be trained requiring gradients.
        gold: (preferred, dispreferred) rows; not among the conflicts.
        conflicts: encoded pairs, streamed.
        retained: rows from which a preconditioner estimates curvature; unused by `identity`.
        impact: the recipe's settings.
        loss: gives β, α_KL and the form of each conflict's loss.
        seed: of the diagonal's draws.
        total: number of conflicts, if known.
        progress: where to show how far it is.

    Raises:
        ModelError: the model has no trainable parameters, or cannot be scored as `impact.method` asks.
        GoldError: the gold batch has no gradient in them.
        WeightsError: no score is positive, or one is not finite.
    """
    if not trainable(model):
        raise ModelError(
            "a model without trainable parameters",
            "impact is measured in the parameters that training will change",
            "Set requires_grad on them, or attach an adapter",
        )
    gradient = target_gradient(model, gold, beta=loss.beta, progress=progress)
    gradient_norm = norm(gradient)
    if gradient_norm == 0.0:
        raise GoldError(
            f"the gradient of {len(gold)} gold pairs",
            "it is zero",
            "Use other gold pairs: these say nothing, or the model has layers that drop their gradient, as quantised "
            "ones on a CPU do",
        )
    if is_sharded(model) and impact.preconditioner != "identity":
        raise ModelError(
            f"impact.preconditioner = {impact.preconditioner} for a sharded model",
            "curvature is not computed with parameters spread over processes",
            "Use impact.preconditioner: identity",
        )
    try:
        direction, curvature = precondition(
            model, gradient, retained, impact, alpha_kl=loss.alpha_kl, seed=seed, progress=progress
        )
    except NotImplementedError as error:
        raise ModelError(
            f"impact.preconditioner = {impact.preconditioner} for a {model.config.model_type} model with "
            f"{str(error).splitlines()[0][:200]}",
            "curvature needs an exact forward-mode derivative of everything the model does",
            "Use impact.preconditioner: identity or diagonal",
        ) from error
    chosen = choose(model, direction, [row for pair in gold[:PROBE] for row in pair], impact.method)
    scores = score_conflicts(chosen.slopes, conflicts, impact, loss, total=total, progress=progress)
    weights = normalise(scores, impact)
    weights.warnings.extend(chosen.warnings)
    return weights, {"gold_gradient_norm": gradient_norm, **curvature, "scoring": chosen.facts()}


def impact_weights(
    model: Any,
    triaged: Sequence[TriagedPair],
    processing_class: Any,
    *,
    impact: ImpactSettings = ImpactSettings(weighting="impact"),  # noqa: B008 - frozen
    loss: LossSettings = LossSettings(),  # noqa: B008 - frozen
    text: TextSettings = TextSettings(),  # noqa: B008 - frozen
    gold: GoldBatch | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> tuple[Weights, GoldBatch]:
    """Weigh triaged pairs by alignment impact: w_i = ⟨P g_J, g_i⟩, clamped and normalised (stage 3 of TRACE).

    Args:
        model: the aligned model, its adapter (if any) at B = 0; parameters to be trained require gradients.
        triaged: the training side. Pairs of the gold batch are left out of the weights.
        processing_class: its fast tokenizer.
        impact: gold batch, score, preconditioner, normalisation; `weighting: uniform` gives weight 1, no gold batch.
        loss: β and the form of the losses.
        text: how text becomes tokens.
        gold: use this gold batch instead of drawing one.
        seed: of the draw.
        progress: where to show how far it is.

    Returns:
        The weights (`.rows()` gives one record a conflict) and the gold batch, whose `held_out` ids must be kept
        out of training: `TraceTrainer(weights=…)` trains on weighted conflicts only.
    """
    forget_padding_index(model)
    encoder = Encoder(processing_class, text, context_of(model.config))
    if impact.weighting == "uniform":
        conflicts = encode_triaged((i for i in triaged if i.outcome.is_conflict), encoder)
        return uniform(conflicts), GoldBatch((), frozenset())
    gold = draw_gold(triaged, impact.gold, seed) if gold is None else gold
    usable = [item for item in triaged if item.pair.id not in gold.held_out]
    retained: list[Row] = []
    if impact.preconditioner != "identity":
        anchors = sorted((i for i in usable if i.outcome.is_retained), key=lambda i: curvature_rank(i.pair.id, seed))
        retained = [row_of(e, "chosen") for e in islice(encode_triaged(anchors, encoder), impact.fisher_rows)]
    conflicts = encode_triaged((i for i in usable if i.outcome.is_conflict), encoder)
    weights, _ = weigh(
        model,
        encode_gold(gold.pairs, encoder),
        conflicts,
        retained,
        impact,
        loss,
        seed=seed,
        progress=progress,
    )
    return weights, gold


def curvature_rank(pair_id: str, seed: int) -> str:
    """Return what retained pairs are sorted by before the first are taken for the curvature: no order of the data."""
    return text_hash(str(seed), "curvature", pair_id)
