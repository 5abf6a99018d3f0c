"""Win rates with length held out, as of AlpacaEval-LC (arXiv 2404.04475), for one pair of models.

A judge that likes long answers calls the model better that writes longer. So the chance that `after` is preferred is
taken for a logistic regression on the difference of lengths, and the rate that is reported is what the regression says
of answers of equal length:

    logit P(after preferred) = θ + φ · tanh(Δ / sd(Δ)),      length-controlled rate = σ(θ)

with Δ the length of `after` less that of `before`, in characters, and sd(Δ) taken about 0. A tie is half a win. Two
departures from the paper: there is no term for the difficulty of an instruction, which needs the results of many other
models; and there is no penalty on the coefficients, so that σ(θ) has an interval, a cluster-robust one on the scale of
the logit. The feature is 0 where lengths are equal, hence sd about 0, not about the mean.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from realigner.evaluate.evidence import Figure

LEAST = 10
"""Comparisons below which nothing is said."""
LARGEST = 12.0
"""A coefficient beyond this means that length or its absence separates wins from losses."""
SEPARATED = "wins and losses are separated by length, so there is no estimate at equal length"


def length_controlled(
    scores: Sequence[float], differences: Sequence[float], clusters: Sequence[Hashable]
) -> tuple[Figure | None, str]:
    """Return the length-controlled rate with its 95 % interval, and an empty string; or None and why there is none.

    Args:
        scores: 1 where `after` won, 0 where it lost, 0.5 for a tie.
        differences: length of `after` less length of `before`, of the same comparisons.
        clusters: the prompt of each.
    """
    import statsmodels.api as sm
    from scipy.special import expit
    from scipy.stats import t

    number = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    y, delta = np.array(scores, dtype=float), np.array(differences, dtype=float)
    if len(number) < LEAST:
        return None, f"{len(number)} prompts are too few for a regression on length (at least {LEAST})"
    if np.ptp(y) == 0:
        return None, "every comparison came out the same, which length cannot be taken out of"
    if _separated(y, delta):
        return None, SEPARATED
    spread = float(np.sqrt(np.mean(delta**2)))
    columns = [np.ones(len(y))]
    if spread > 0:
        columns.append(np.tanh(delta / spread))
    design = np.column_stack(columns)
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return None, "the differences of length are all the same, so length and model cannot be told apart"
    groups = np.array([number[name] for name in clusters])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # separation shows in the coefficients, which are looked at below
        fit = sm.GLM(y, design, family=sm.families.Binomial()).fit(
            cov_type="cluster", cov_kwds={"groups": groups}, maxiter=50
        )
    theta, error = float(fit.params[0]), float(fit.bse[0])
    if not fit.converged or not np.all(np.abs(fit.params) < LARGEST) or not np.isfinite(error):
        return None, SEPARATED
    reach = float(t.ppf(0.975, len(number) - design.shape[1])) * error
    return (
        Figure(
            value=float(expit(theta)),
            low=float(expit(theta - reach)),
            high=float(expit(theta + reach)),
            n=len(y),
            clusters=len(number),
            unit="share",
            method="logistic regression on tanh(length difference), cluster-robust",
        ),
        "",
    )


def _separated(scores: Any, differences: Any) -> bool:
    """Say whether length alone tells wins from losses; ties would then fit a curve to what has no estimate."""
    won, lost = differences[scores == 1], differences[scores == 0]
    if len(won) and len(lost):
        return bool(lost.max() < won.min() or won.max() < lost.min())
    decided = won if len(won) else lost
    return len(decided) > 0 and bool(decided.min() > 0 or decided.max() < 0)
