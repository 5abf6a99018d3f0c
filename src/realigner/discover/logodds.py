"""Log-odds of words between two groups of texts, with an informative Dirichlet prior (Monroe, Colaresi, Quinn 2008)."""

from __future__ import annotations

from typing import Any

import numpy as np

PRIOR = 500.0
"""α0: what all the prior's pseudo-counts add up to. Each word has a part of it, by its share in both groups together:
frequent words need more evidence than rare ones."""


def log_odds(first: Any, second: Any, prior: float = PRIOR) -> Any:
    """Return the z-score of each word's log-odds ratio, positive where the first group uses it more.

    With α_w = α0 · (share of w in both groups), n the total counts and y the counts of w (their equations 16, 20, 22):
    δ_w = log[(y1 + α_w)/(n1 + α0 − y1 − α_w)] − the same for the second group, its variance ≈ 1/(y1 + α_w) +
    1/(y2 + α_w), and z = δ_w / √variance. A word that neither group uses, and the only word there is, have 0.

    Args:
        first: counts of the words in the first group, shape (words,).
        second: counts of the same words in the second.
        prior: α0, above 0.
    """
    y1, y2 = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    n1, n2 = y1.sum(), y2.sum()
    if n1 + n2 == 0:
        return np.zeros(len(y1))
    alpha = prior * (y1 + y2) / (n1 + n2)
    rest1, rest2 = n1 + prior - y1 - alpha, n2 + prior - y2 - alpha
    tells = (alpha > 0) & (rest1 > 1e-9) & (rest2 > 1e-9)
    z = np.zeros(len(y1))
    a1, a2 = (y1 + alpha)[tells], (y2 + alpha)[tells]
    delta = np.log(a1 / rest1[tells]) - np.log(a2 / rest2[tells])
    z[tells] = delta / np.sqrt(1 / a1 + 1 / a2)
    return z
