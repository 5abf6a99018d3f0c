"""Reasons that are no policy: does the form of a response tell more about the old preference than the rules do?

A conditional logistic model of the preference, P(preferred over the other) = σ(a·margin + b·form), where margin is what
the content rules say and form is 1 where the preferred response is the longer (laid out) one, −1 where the other is.
Form is named as a bias where the likelihood-ratio test of b = 0 gives p < 0.01 after Holm's correction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from realigner.discover.candidate import Votes

SIGNIFICANT = 0.01
RIDGE = 1e-3
"""Penalty on both coefficients, so that rules that explain everything still have a finite one."""


@dataclass(frozen=True)
class Bias:
    """What form tells beyond the content rules."""

    form: str
    """`longer`, `shorter`, `formatted`, `plain`: what the old data preferred."""
    odds: float
    """How many times likelier a response was preferred for it, content rules being equal; above 1."""
    low: float
    high: float
    """The 95 % interval of the odds (Wald)."""
    p: float
    """Of the likelihood-ratio test, Holm-corrected."""
    named: bool
    """Whether it is named as a bias: p below 0.01."""
    n: int


def find_biases(margins: Any, forms: Mapping[tuple[str, str], Votes]) -> list[Bias]:
    """Return what each form tells, strongest first.

    Args:
        margins: what the content rules say of each pair, positive for the preferred response.
        forms: votes by (name if positive, name if negative).
    """
    from scipy.stats import chi2

    spread = float(np.std(margins)) or 1.0
    content = np.asarray(margins, dtype=float) / spread
    found = []
    for names, votes in forms.items():
        if not np.any(votes):
            continue
        form = votes.astype(float)
        _, without = _fit(content[:, None])
        (_, b), with_form = _fit(np.column_stack([content, form]))
        p = float(chi2.sf(max(0.0, 2 * (without - with_form)), 1))
        error = _standard_error(np.column_stack([content, form]))
        found.append((names[0] if b >= 0 else names[1], abs(b), error, p, int(np.count_nonzero(votes))))
    found.sort(key=lambda item: item[3])
    biases, so_far = [], 0.0
    for rank, (name, b, error, p, n) in enumerate(found):
        so_far = max(so_far, min(1.0, p * (len(found) - rank)))
        low, high = (float(np.exp(min(b + sign * 1.96 * error, 50.0))) for sign in (-1, 1))
        biases.append(Bias(name, float(np.exp(b)), low, high, so_far, so_far < SIGNIFICANT, n))
    return biases


def _loss(coefficients: Any, columns: Any) -> float:
    return float(np.logaddexp(0.0, -(columns @ coefficients)).sum() + RIDGE * (coefficients**2).sum())


def _fit(columns: Any) -> tuple[Any, float]:
    """Return the coefficients and the loss at its minimum. Every outcome is "preferred", so there is no intercept."""
    from scipy.optimize import minimize

    def gradient(coefficients: Any, columns: Any) -> Any:
        wrong = 1 / (1 + np.exp(np.clip(columns @ coefficients, -500, 500)))
        return -(columns * wrong[:, None]).sum(axis=0) + 2 * RIDGE * coefficients

    found = minimize(_loss, np.zeros(columns.shape[1]), args=(columns,), jac=gradient, method="BFGS")
    return found.x, float(found.fun)


def _standard_error(columns: Any) -> float:
    """Return the standard error of the last coefficient, from the curvature at the minimum."""
    coefficients, _ = _fit(columns)
    p = 1 / (1 + np.exp(-np.clip(columns @ coefficients, -500, 500)))
    curvature = (columns * (p * (1 - p))[:, None]).T @ columns + 2 * RIDGE * np.eye(columns.shape[1])
    return float(np.sqrt(np.linalg.inv(curvature)[-1, -1]))
