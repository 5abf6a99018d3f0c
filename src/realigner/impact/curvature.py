"""Preconditioners: v = P g_J with P = (α_KL F_R + λI)⁻¹, F_R the Fisher matrix of the retained responses.

Around θ_ref the Hessian of the retain term mean KL(p_ref ‖ p_θ) is exactly the Fisher matrix of the retained tokens
(the KL has zero gradient and Fisher curvature there), so P weighs down directions that would damage retained
behaviour. v is computed once: a preconditioner costs nothing per sample.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

from realigner.impact.direction import logit_tangents
from realigner.impact.vectors import Vector, accumulate, device, dot, gradients, plus, widest, zeros
from realigner.losses.pairwise import in_fp32
from realigner.model.head import evaluating
from realigner.model.logprobs import scored_logits
from realigner.model.packing import pack
from realigner.model.rows import Row, collate
from realigner.progress import SILENT, Progress
from realigner.recipe import ImpactSettings

logger = logging.getLogger(__name__)


def precondition(
    model: Any,
    gradient: Vector,
    retained: Sequence[Row],
    settings: ImpactSettings,
    *,
    alpha_kl: float,
    seed: int,
    progress: Progress = SILENT,
) -> tuple[Vector, dict[str, float]]:
    """Return P g_J and what was found on the way (λ, residual).

    λ is `settings.damping` times the curvature scale, so that it means the same for every model: the Rayleigh
    quotient of α_KL F along g_J for `cg`, the mean of the diagonal for `diagonal`.
    """
    if settings.preconditioner == "identity":
        return gradient, {}
    if settings.preconditioner == "diagonal":
        diagonal = fisher_diagonal(model, retained, seed=seed, progress=progress)
        mean = sum(widest(d).sum().item() for d in diagonal.values()) / sum(d.numel() for d in diagonal.values())
        damping = settings.damping * alpha_kl * mean
        if damping == 0.0:
            return _no_curvature(gradient, len(retained), alpha_kl)
        return {n: gradient[n] / (alpha_kl * diagonal[n] + damping) for n in gradient}, {"lambda": damping}

    def curve(vector: Vector) -> Vector:
        return {n: alpha_kl * value for n, value in fisher_product(model, retained, vector).items()}

    damping = settings.damping * dot(gradient, curve(gradient)) / max(dot(gradient, gradient), 1e-300)
    if damping == 0.0:
        return _no_curvature(gradient, len(retained), alpha_kl)
    with progress.task("curvature (conjugate gradient)", settings.cg_steps) as advance:
        solution, residual = conjugate_gradient(
            lambda v: plus(curve(v), v, damping), gradient, steps=settings.cg_steps, advance=advance
        )
    return solution, {"lambda": damping, "relative_residual": residual}


def _no_curvature(gradient: Vector, rows: int, alpha_kl: float) -> tuple[Vector, dict[str, float]]:
    logger.warning(
        "%d retained responses at α_KL = %g have no curvature: the preconditioner is the identity", rows, alpha_kl
    )
    return gradient, {"lambda": 0.0}


def fisher_product(model: Any, rows: Sequence[Row], vector: Vector) -> Vector:
    """Return F v with F = (1/T) Σ_t J_tᵀ (diag(p_t) − p_t p_tᵀ) J_t over the rows' T scored tokens.

    J v comes from one forward-mode pass, Jᵀ from one backward pass; exact, no sampling.
    """
    product = zeros(model)
    tokens = sum(row.response_tokens for row in rows)
    for row in rows:
        batch = collate([row]).to(device(model))
        logits, tangents = logit_tangents(model, pack([row]).to(device(model)), vector)
        probabilities, tangents = in_fp32(logits).softmax(dim=-1), in_fp32(tangents)
        centred = probabilities * (tangents - (probabilities * tangents).sum(dim=-1, keepdim=True))
        with evaluating(model):
            gradient = gradients((in_fp32(scored_logits(model, batch)) * centred).sum() / tokens, model)
        accumulate(product, gradient)
    return product


def fisher_diagonal(model: Any, rows: Sequence[Row], *, seed: int, progress: Progress = SILENT) -> Vector:
    """Return an unbiased estimate of F's diagonal, one backward pass per row.

    Tokens are drawn from the model itself: scores of drawn tokens have mean zero given their prefix, so the squared
    gradient of a row's sum has the sum of the tokens' squares as its expectation.
    """
    diagonal = zeros(model)
    tokens = sum(row.response_tokens for row in rows)
    generator = torch.Generator().manual_seed(seed)
    with evaluating(model), progress.task("curvature (diagonal)", len(rows)) as advance:
        for row in rows:
            logits = scored_logits(model, collate([row]).to(device(model)))
            logps = in_fp32(logits).log_softmax(dim=-1)
            drawn = torch.multinomial(logps.detach().exp().cpu(), 1, generator=generator).to(logps.device)
            gradient = gradients(logps.gather(1, drawn).sum(), model)
            accumulate(diagonal, {name: g.to(diagonal[name].dtype) ** 2 for name, g in gradient.items()}, 1 / tokens)
            advance(1)
    return diagonal


def conjugate_gradient(
    apply: Callable[[Vector], Vector],
    target: Vector,
    *,
    steps: int,
    tolerance: float = 1e-6,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[Vector, float]:
    """Solve A x = target for a symmetric positive definite A; return x and the relative residual reached."""
    solution = {name: torch.zeros_like(value) for name, value in target.items()}
    residual = {name: value.clone() for name, value in target.items()}
    search = dict(residual)
    start = old = dot(residual, residual)
    for _ in range(steps):
        if old <= tolerance**2 * start:
            break
        image = apply(search)
        step = old / dot(search, image)
        solution = plus(solution, search, step)
        residual = plus(residual, image, -step)
        new = dot(residual, residual)
        search = plus(residual, search, new / old)
        old = new
        advance(1)
    return solution, (old / start) ** 0.5 if start else 0.0
